// A session in React's components, from version 18 on. Components of one session share its connection.
//
//   import { useBaton } from 'baton/react'; // after: npm install https://gateway.example/baton.tgz
//
//   function Answer() {
//     const { text, state, stop } = useBaton('https://gateway.example', 'chat-42');
//     return <p onClick={stop}>{text}</p>;
//   }
//
// `react` is imported by its name. A page without a bundler says by an import map where it is:
//
//   <script type="importmap">{"imports": {"react": "https://esm.sh/react@19"}}</script>
//   <script type="module">import { useBaton } from 'https://gateway.example/baton-react.js'; …</script>
//
// Apache-2.0

import { useEffect, useMemo, useSyncExternalStore } from 'react';
import { attach, BatonError } from './baton.js';
import { subjectOf } from './baton-keeper.js';
import { reportError } from './baton-page.js';

const pace = 16; // milliseconds from one rendering to the next; what comes meanwhile is shown together

const told = ['text', 'state', 'end', 'entry', 'attached', 'live', 'behind', 'reset', 'skipped', 'stalled', 'draining', 'expiring', 'error'];

/** Before anything is known; on a server always. */
const nothing = Object.freeze({ responses: new Map(), text: '', state: 'connecting', node: undefined, offset: undefined, end: undefined });

/** What this page is attached to, by key. @type {Map<string, Shared>} */
const attached = new Map();

/**
 * Attaches while a component that calls it is mounted; all that name the same gateways, session, device, response and person
 * share one session. The first one's other options count, and the newest `token`.
 * @param {string|string[]} urls Gateways to take turns with; '' is the page's own origin.
 * @param {string|null|undefined} session without one nothing is attached
 * @param {import('./baton.js').Options} [options]
 * @returns {import('./baton-react.js').Baton} the same object until something changes
 */
export function useBaton(urls, session, options = {}) {
  const key = keyOf(urls, session, options);
  const view = useMemo(() => new View(key, urls, session, options), [key]);
  useEffect(() => view.take(options));
  const snapshot = useSyncExternalStore(view.subscribe, view.snapshot, () => nothing);
  return useMemo(() => ({ ...snapshot, input: view.input, cancel: view.cancel, stop: view.stop }), [snapshot, view]);
}

function keyOf(urls, session, { device, response, token }) {
  if (session === undefined || session === null) return '';
  return JSON.stringify([[urls].flat(), session, device, response, typeof token, typeof token === 'string' ? subjectOf(token) : undefined]);
}

/** A component's part in a session. */
class View {
  constructor(key, urls, session, options) {
    Object.assign(this, { key, urls, session, options });
  }

  take(options) {
    this.options = options;
    attached.get(this.key)?.take(options.token);
  }

  subscribe = (changed) => {
    if (this.key === '') return () => {};
    if (!attached.has(this.key)) attached.set(this.key, new Shared(this));
    return attached.get(this.key).add(this, changed);
  };

  snapshot = () => attached.get(this.key)?.snapshot ?? nothing;

  input = (data, options) => this.#with((session) => session.input(data, options));

  cancel = (response, options) => this.#with((session) => session.cancel(response, options));

  /** Cancels every response that is open. */
  stop = () =>
    this.#with((session) => {
      const open = [...session.responses].filter(([name, { state }]) => name !== '' && state === 'open');
      return Promise.all(open.map(([name]) => session.cancel(name)));
    });

  async #with(act) {
    const shared = attached.get(this.key);
    if (!shared) throw new BatonError('not_attached', 'no component of this session is mounted');
    return act(shared.session);
  }

  tell({ type, detail }) {
    const values = type === 'text' ? [detail.text, detail.response, detail.added] : [detail];
    try {
      this.options[`on${type}`]?.(...values);
    } catch (error) {
      reportError(error);
    }
  }
}

/** A session that components look at. */
class Shared {
  snapshot = nothing;
  /** @type {Map<View, () => void>} */
  #views = new Map();
  #key;
  #token;
  #usedToken;
  #giveToken = (_) => {};
  #end = undefined;
  #isDue = false;
  #shownAt = -Infinity;

  constructor({ key, urls, session, options }) {
    this.#key = key;
    this.#token = options.token;
    const own = Object.fromEntries(Object.entries(options).filter(([name]) => !told.includes(name.replace(/^on/, ''))));
    if (options.token !== undefined) own.token = () => this.#newToken();
    this.session = attach(urls, session, own);
    for (const type of told) {
      this.session.addEventListener(type, (event) => {
        if (type === 'end') this.#end = event.detail;
        for (const view of [...this.#views.keys()]) view.tell(event);
        this.#changed();
      });
    }
  }

  /** @returns {() => void} which takes the view away; after the last one, and a tick in which another may come, the session is closed */
  add(view, changed) {
    this.#views.set(view, changed);
    return () => {
      this.#views.delete(view);
      setTimeout(() => {
        if (this.#views.size > 0 || attached.get(this.#key) !== this) return;
        attached.delete(this.#key);
        this.session.close();
      });
    };
  }

  take(token) {
    this.#token = token;
    if (typeof token === 'string' && token !== this.#usedToken) this.#giveToken(token);
  }

  /** A token that is a text is used once; then the app has to give another one. */
  async #newToken() {
    if (typeof this.#token === 'function') return this.#token();
    const isNew = this.#token !== this.#usedToken;
    this.#usedToken = isNew ? this.#token : await new Promise((resolve) => (this.#giveToken = resolve));
    return this.#usedToken;
  }

  #changed() {
    if (this.#isDue) return;
    this.#isDue = true;
    const wait = this.#shownAt + pace - performance.now();
    if (wait > 0) setTimeout(() => this.#show(), wait);
    else queueMicrotask(() => this.#show());
  }

  #show() {
    this.#isDue = false;
    this.#shownAt = performance.now();
    const { state, node, offset } = this.session;
    const responses = copied(this.session.responses, this.snapshot.responses);
    const text = [...responses.values()].at(-1)?.text ?? '';
    const next = Object.freeze({ responses, text, state, node, offset, end: this.#end });
    if (Object.keys(next).every((name) => next[name] === this.snapshot[name])) return;
    this.snapshot = next;
    for (const changed of this.#views.values()) changed();
  }
}

/** The same map, and the same objects in it, as far as they did not change: a memo of a component depends on them. */
function copied(responses, before) {
  const names = before.keys();
  let isSame = responses.size === before.size;
  const copy = new Map();
  for (const [name, { text, n, state }] of responses) {
    const old = before.get(name);
    const isOld = old?.text === text && old.n === n && old.state === state;
    copy.set(name, isOld ? old : Object.freeze({ text, n, state }));
    isSame &&= isOld && names.next().value === name;
  }
  return isSame ? before : copy;
}
