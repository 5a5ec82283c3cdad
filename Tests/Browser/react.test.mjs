import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Page, token, turn } from './fakes.mjs';
import { Component } from './react-stub.mjs';

const { useBaton } = await import('../../Sources/BatonGateway/Web/client/baton-react.js');

const url = 'http://gw-1:8080';
const tick = () => new Promise((resolve) => setTimeout(resolve, 2));
/** Until a condition holds: what is shown is paced by the real clock. */
async function until(holds) {
  for (const end = Date.now() + 20_000; !holds() && Date.now() < end; ) await tick();
  assert.ok(holds(), String(holds));
}

let pages = 0;

/** Each page has a session of its own: what is attached is shared by all tests. */
async function mount(page, options, urls = url) {
  page.session ??= `s${++pages}`;
  const component = new Component(() => useBaton(urls, page.session, { ...options, platform: page.platform }));
  await turn();
  return component;
}

test('components of one session share its connection, and the last one leaves it', async () => {
  const page = new Page();
  const first = await mount(page);
  const second = await mount(page, {}, [url]);
  assert.equal(page.sockets.length, 1);
  page.socket.welcome();
  page.socket.receive(token(1, 'Hel'), token(2, 'lo'), { type: 'live', offset: '2-0.00000002' });
  await until(() => second.result.state === 'live');
  for (const { result } of [first, second]) {
    assert.equal(result.text, 'Hello');
    assert.deepEqual([...result.responses], [['r1', { text: 'Hello', n: 2, state: 'open' }]]);
    assert.deepEqual([result.node, result.offset, result.end], ['gw-1', '2-0.00000002', undefined]);
  }
  first.unmount();
  await tick();
  assert.equal(page.socket.closedWith, undefined);
  second.unmount();
  assert.equal(page.socket.closedWith, undefined, 'another may come in this tick');
  await tick();
  assert.equal(page.socket.closedWith, 1000);
  const third = await mount(page);
  assert.equal(page.sockets.length, 2);
  assert.deepEqual([third.result.text, third.result.state], ['', 'connecting']);
  third.unmount();
});

test('mounted again within the tick, it stays attached (StrictMode)', async () => {
  const page = new Page();
  const component = await mount(page);
  component.unmount();
  component.render();
  await tick();
  assert.equal(page.sockets.length, 1);
  assert.equal(page.socket.closedWith, undefined);
  component.unmount();
});

test('what does not change is the same object', async () => {
  const page = new Page();
  const component = await mount(page);
  page.socket.welcome();
  page.socket.receive(token(1, 'one', { response: 'r0' }), token(2, 'two'), { type: 'live', offset: '2-0.00000002' });
  await until(() => component.result.state === 'live');
  const before = component.result;
  component.render();
  assert.equal(component.result, before);
  page.socket.receive(token(3, '!'));
  await until(() => component.result.text === 'two!');
  const after = component.result;
  assert.equal(after.responses.get('r0'), before.responses.get('r0'));
  assert.deepEqual(before.responses.get('r1'), { text: 'two', n: 2, state: 'open' }, 'what was shown stays as it was');
  for (const name of ['input', 'cancel', 'stop']) assert.equal(after[name], before[name]);
  page.socket.receive({ type: 'draining', retryAfterMs: 1 }, { type: 'stalled', reason: 'store' });
  await until(() => component.result.state === 'stalled');
  assert.equal(component.result.responses, after.responses);
  component.unmount();
});

test('what comes together is rendered once', async () => {
  const page = new Page();
  const component = await mount(page);
  page.socket.welcome();
  page.socket.receive({ type: 'live', offset: '0' });
  await until(() => component.result.state === 'live');
  const before = component.results.length;
  page.socket.receive(token(1, 'a'));
  await until(() => component.result.text === 'a');
  assert.equal(component.results.length, before + 1);
  for (let n = 2; n <= 9; n++) page.socket.receive(token(n, 'a'));
  await until(() => component.result.text.length === 9);
  assert.ok(component.results.length <= before + 3);
  component.unmount();
});

test('a reset in the middle, and answers in another order', async () => {
  const page = new Page();
  const component = await mount(page);
  page.socket.welcome();
  page.socket.receive(token(1, 'x'), token(2, 'y', { response: 'r2', n: 1 }));
  await until(() => component.result.text === 'y');
  page.socket.receive({ type: 'reset', reason: 'deleted', from: '0', offset: '0' }, token(3, 'y', { response: 'r2', n: 1 }), token(4, 'x', { n: 1 }));
  await until(() => component.result.text === 'x');
  assert.deepEqual([...component.result.responses.keys()], ['r2', 'r1']);
  component.unmount();
});

test('input, cancel and stop', async () => {
  const page = new Page();
  const component = await mount(page);
  page.socket.welcome();
  page.socket.receive(token(1, 'a'), token(2, 'b', { response: 'r2', n: 1 }), { id: '3-0.00000003', event: 'end', response: 'r1' });
  const { input, cancel, stop } = component.result;
  const asked = [input('hi', { key: 'k1' }), cancel('r9', { key: 'k2' }), stop()];
  await turn();
  const frames = page.socket.sent;
  assert.deepEqual(frames.slice(0, 2), [{ type: 'input', key: 'k1', data: 'hi' }, { type: 'cancel', key: 'k2', response: 'r9' }]);
  assert.deepEqual(frames.slice(2).map(({ type, response }) => [type, response]), [['cancel', 'r2']]);
  for (const { key } of frames) page.socket.receive({ type: 'accepted', key, inboxId: `i-${key}` });
  const [first, second, third] = await Promise.all(asked);
  assert.deepEqual([first, second], [{ key: 'k1', inboxId: 'i-k1' }, { key: 'k2', inboxId: 'i-k2' }]);
  assert.equal(third.length, 1);
  component.unmount();
  await tick();
  await assert.rejects(input('late'), { code: 'not_attached' });
});

test('devices, responses and people have sessions of their own; without a session there is none', async () => {
  const page = new Page();
  const jwt = (sub) => `h.${btoa(JSON.stringify({ sub }))}.s`;
  const all = [];
  for (const options of [{}, { device: 'd1' }, { response: 'r1' }, { token: jwt('a') }, { token: jwt('b') }]) all.push(await mount(page, options));
  assert.equal(page.sockets.length, 5);
  const none = new Component(() => useBaton(url, undefined));
  await turn();
  assert.equal(page.sockets.length, 5);
  assert.equal(none.result.state, 'connecting');
  for (const component of all) component.unmount();
  await tick();
  assert.deepEqual(page.sockets.map(({ closedWith }) => closedWith), Array(5).fill(1000));
});

test('another session in the same component', async () => {
  const page = new Page();
  const component = await mount(page);
  page.socket.welcome();
  page.socket.receive(token(1, 'old'));
  await until(() => component.result.text === 'old');
  component.render(() => useBaton(url, 'another', { platform: page.platform }));
  assert.equal(component.results.at(-1).text, '', 'nothing of the old one');
  await tick();
  assert.equal(page.sockets[0].closedWith, 1000);
  assert.match(page.socket.url.pathname, /another$/);
  component.unmount();
});

test('a token that is a text is waited for once it is used up; the newest function is asked', async () => {
  const page = new Page();
  const jwt = (exp) => `h.${btoa(JSON.stringify({ sub: 'a', exp }))}.s`;
  const component = await mount(page, { token: jwt(1) });
  assert.deepEqual(page.socket.protocols, ['baton.v1', `bearer.${jwt(1)}`]);
  page.socket.open();
  page.socket.lose(4401);
  await until(() => component.result.state === 'unauthorized');
  assert.equal(page.sockets.length, 1);
  component.render(() => useBaton(url, page.session, { platform: page.platform, token: jwt(2) }));
  await turn();
  assert.deepEqual(page.socket.protocols, ['baton.v1', `bearer.${jwt(2)}`]);
  component.unmount();
  await tick();

  const asking = await mount(page, { token: () => 'first' });
  asking.render(() => useBaton(url, page.session, { platform: page.platform, token: () => 'second' }));
  page.socket.open();
  page.socket.lose(4401);
  await turn();
  assert.deepEqual(page.socket.protocols, ['baton.v1', 'bearer.second']);
  asking.unmount();
});

test('each component’s callbacks are called, and one that throws stops nothing', async () => {
  const page = new Page();
  const reported = [];
  globalThis.reportError = (error) => reported.push(error.message);
  const seen = [];
  const bad = await mount(page, { onentry: () => { throw new Error('bad'); } });
  const good = await mount(page, { onentry: ({ data }) => seen.push(data), ontext: (...values) => seen.push(values) });
  page.socket.welcome();
  page.socket.receive(token(1, 'a'));
  assert.deepEqual(seen, ['a', ['a', 'r1', 'a']]);
  assert.deepEqual(reported, ['bad']);
  delete globalThis.reportError;
  for (const component of [bad, good]) component.unmount();
});

test('an end is told, and a name that is none is thrown', async () => {
  const page = new Page();
  const component = await mount(page);
  page.socket.open();
  page.socket.lose(4403);
  await until(() => component.result.state === 'ended');
  assert.equal(component.result.end.code, 4403);
  component.unmount();
  assert.throws(() => new Component(() => useBaton(url, 'no name', { platform: page.platform })), /not a session's name/);
});
