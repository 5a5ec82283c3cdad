// As much of React as useBaton needs: a component is rendered, its effects run, it renders again when its store has changed.
import { register } from 'node:module';

let rendering;

function hook(make) {
  const hooks = rendering.hooks;
  const place = rendering.place++;
  return (hooks[place] ??= make());
}

export function useMemo(make, needs) {
  const memo = hook(() => ({}));
  if (memo.needs?.length !== needs.length || memo.needs.some((one, i) => one !== needs[i])) Object.assign(memo, { value: make(), needs });
  return memo.value;
}

export function useEffect(run) {
  rendering.effects.push(run);
}

export function useSyncExternalStore(subscribe, snapshot) {
  const component = rendering;
  const store = hook(() => ({}));
  component.effects.push(() => {
    if (store.subscribe === subscribe) return;
    store.leave?.();
    Object.assign(store, { subscribe, leave: subscribe(() => component.render()) });
    component.leave = () => {
      store.leave();
      store.subscribe = undefined;
    };
    if (snapshot() !== store.value) component.render();
  });
  return (store.value = snapshot());
}

export class Component {
  hooks = [];
  results = [];

  constructor(body) {
    this.body = body;
    this.render();
  }

  get result() {
    return this.results.at(-1);
  }

  render(body = this.body) {
    Object.assign(this, { body, place: 0, effects: [] });
    rendering = this;
    this.results.push(body());
    for (const run of this.effects) run();
  }

  unmount() {
    this.leave();
  }
}

const url = JSON.stringify(import.meta.url);
register(`data:text/javascript,${encodeURIComponent(`
  export const resolve = (name, context, next) => name === 'react' ? { url: ${url}, shortCircuit: true } : next(name, context);
`)}`);
