import assert from 'node:assert/strict';
import { test } from 'node:test';
import { readFileSync } from 'node:fs';
import { attach, BatonError, compareOffsets, version } from '../../Sources/BatonGateway/Web/client/baton.js';
import { Page, token, turn } from './fakes.mjs';

test('the five lines of a newcomer: text as it comes', async () => {
  const page = new Page();
  const shown = [];
  const session = await page.attach({ ontext: (text, response, added) => shown.push([text, response, added]) });
  assert.equal(page.socket.url.href, 'ws://gw-1:8080/v1/sessions/s?offset=0');
  assert.deepEqual(page.socket.protocols, ['baton.v1']);
  page.socket.welcome();
  page.socket.receive(token(1, 'Hel'), token(2, 'lo'), { type: 'live', offset: '2-0.00000002' });
  assert.deepEqual(shown, [['Hel', 'r1', 'Hel'], ['Hello', 'r1', 'lo']]);
  assert.equal(session.text('r1'), 'Hello');
  assert.equal(session.offset, '2-0.00000002');
  assert.equal(session.node, 'gw-1');
  assert.equal(session.state, 'live');
});

test('the client’s version is the gateway’s', () => {
  const source = readFileSync(new URL('../../Sources/BatonGateway/Serving/Version.swift', import.meta.url), 'utf8');
  assert.equal(version, /batonVersion = "(.*)"/.exec(source)[1]);
});

test('a lost connection: the next gateway, at the very next token', async () => {
  const page = new Page();
  const states = [];
  const session = await page.attach({ onstate: (state) => states.push(state) }, ['http://gw-1', 'https://gw-2/base/']);
  page.socket.welcome();
  page.socket.receive(token(1, 'a'));
  const old = page.socket;
  old.lose(1006);
  assert.equal(session.state, 'waiting');
  await page.pass(125);
  assert.equal(page.socket.url.href, 'wss://gw-2/base/v1/sessions/s?offset=1-0.00000001');
  old.receive(token(2, 'too late'));
  page.socket.welcome('1-0.00000001');
  page.socket.receive(token(2, 'b'));
  assert.equal(session.text('r1'), 'ab');
  assert.deepEqual(states, ['connecting', 'behind', 'waiting', 'connecting', 'behind']);
});

test('reset replaces what is shown', async () => {
  const page = new Page();
  const shown = [];
  const session = await page.attach({ ontext: (...values) => shown.push(values) });
  page.socket.welcome();
  page.socket.receive(token(1, 'a'), token(2, 'b'), { type: 'reset', reason: 'ahead', from: '1-0.00000001', offset: '1-0.00000001' });
  assert.equal(session.text('r1'), 'a');
  page.socket.receive(token(2, 'B'), { type: 'reset', reason: 'deleted', from: '0', offset: '0' });
  assert.equal(session.offset, '0');
  assert.deepEqual(shown.slice(2), [['a', 'r1', undefined], ['aB', 'r1', 'B'], ['', 'r1', undefined]]);
});

test('an answer that another one supersedes is taken back', async () => {
  const page = new Page();
  const shown = [];
  const session = await page.attach({ ontext: (...values) => shown.push(values) });
  const steps = (async () => {
    const steps = [];
    for await (const { text, added } of session.response('r1')) steps.push([text, added]);
    return steps;
  })();
  page.socket.welcome();
  page.socket.receive(token(1, 'half'));
  await turn();
  page.socket.receive({ id: '2-0', event: 'start', response: 'r2', data: '{"supersedes":"r1"}' });
  assert.deepEqual(shown, [['half', 'r1', 'half'], ['', 'r1', undefined]]);
  assert.deepEqual([...session.responses.keys()], ['r2']);
  assert.deepEqual(await steps, [['half', 'half'], ['', undefined]]);
});

test('a reset into the middle of a joined frame: everything comes again', async () => {
  const page = new Page();
  const resets = [];
  const session = await page.attach({ onreset: ({ reason }) => resets.push(reason) });
  page.socket.welcome();
  const old = page.socket;
  old.receive(token(9, 'abcdefghi', { joined: 9 }), { type: 'reset', reason: 'ahead', from: '4-0.00000004', offset: '4-0.00000004' });
  old.receive(token(5, 'lost'));
  await turn();
  assert.equal(old.closedWith, 4000);
  assert.equal(page.socket.url.search, '?offset=0');
  assert.equal(session.text('r1'), '');
  assert.deepEqual(resets, ['replay']);
});

test('iterating: everything in order, then the end', async () => {
  const page = new Page();
  const session = await page.attach({ until: 'end' });
  const seen = [];
  const reading = (async () => {
    for await (const event of session) seen.push(event.type === 'entry' ? event.data : event.type);
  })();
  page.socket.welcome();
  page.socket.receive(token(1, 'a'), token(2, 'b'), { type: 'live', offset: '2-0.00000002' });
  page.socket.lose(1000);
  await reading;
  assert.deepEqual(seen, ['attached', 'a', 'b', 'live']);
  assert.deepEqual(await session.ended, { reason: 'finished' });
});

test('a refusal is thrown into the loop, in words', async () => {
  const page = new Page();
  const session = await page.attach();
  const reading = session[Symbol.asyncIterator]().next();
  page.socket.open();
  page.socket.lose(4403);
  await assert.rejects(reading, (error) => error instanceof BatonError && error.closeCode === 4403 && /does not allow/.test(error.message));
  assert.throws(() => session[Symbol.asyncIterator](), /one loop/);
  await assert.rejects(session.input('hi'), { code: 'ended' });
});

test('leaving the loop closes the session', async () => {
  const page = new Page();
  const session = await page.attach();
  page.socket.welcome();
  setImmediate(() => page.socket.receive(token(1, 'a')));
  for await (const event of session) if (event.type === 'entry') break;
  assert.equal(page.socket.closedWith, 1000);
  assert.equal(session.state, 'ended');
});

test('a reader that lags suspends the connection; nothing is lost or doubled', async () => {
  const page = new Page();
  const session = await page.attach({ maxBuffer: 10_000 });
  const reader = session[Symbol.asyncIterator]();
  page.socket.welcome();
  const first = page.socket;
  for (let n = 1; n <= 100; n++) first.receive(token(n, 'x'.repeat(500)));
  assert.equal(first.closedWith, 4000);
  assert.equal(session.state, 'suspended');
  const held = Number(session.offset.split('-')[0]);
  assert.ok(held >= 5 && held <= 10, `held ${held} entries of 1,200 bytes`);
  for (let n = 0; n < held; n++) await reader.next(); // `attached` and all but one
  assert.equal(page.sockets.length, 1);
  assert.equal((await reader.next()).value.n, held);
  await turn();
  assert.equal(page.socket.url.searchParams.get('offset'), session.offset);
  page.socket.welcome(session.offset);
  page.socket.receive(token(held + 1, 'next'));
  assert.equal((await reader.next()).value.type, 'attached');
  assert.equal((await reader.next()).value.data, 'next');
});

test('input and cancel resolve when accepted, survive a lost connection, and are refused in words', async () => {
  const page = new Page();
  const session = await page.attach();
  page.socket.welcome();
  const typed = session.input('hello', { key: 'k1' });
  const stop = session.cancel('r1', { key: 'k2' });
  assert.deepEqual(page.socket.sent, [{ type: 'input', key: 'k1', data: 'hello' }, { type: 'cancel', key: 'k2', response: 'r1' }]);
  await assert.rejects(session.input('again', { key: 'k1' }), { code: 'key_conflict' });
  page.socket.lose();
  await page.pass(125);
  page.socket.welcome();
  assert.equal(page.socket.sent.length, 2);
  page.socket.receive({ type: 'accepted', key: 'k1', inboxId: '5-0' }, { type: 'error', key: 'k2', code: 'forbidden', message: 'scope cancel is missing' });
  assert.deepEqual(await typed, { key: 'k1', inboxId: '5-0' });
  await assert.rejects(stop, { code: 'forbidden', message: 'scope cancel is missing' });
  await assert.rejects(session.input('€'.repeat(22_000)), { code: 'too_big' });
  session.input('key of its own');
  session.input('and another');
  const [one, two] = page.socket.sent.slice(-2);
  assert.match(one.key, /^[0-9a-f]{32}$/);
  assert.notEqual(one.key, two.key);
});

test('tokens: as a subprotocol, asked for once, and again after 4401', async () => {
  const page = new Page();
  const tokens = ['t1', 't2'];
  await page.attach({ token: async () => tokens.shift() });
  assert.deepEqual(page.socket.protocols, ['baton.v1', 'bearer.t1']);
  page.socket.welcome();
  page.socket.lose(1006);
  await page.pass(125);
  assert.deepEqual(page.socket.protocols, ['baton.v1', 'bearer.t1']);
  page.socket.welcome();
  await page.pass(5000);
  page.socket.lose(4401);
  await turn();
  assert.deepEqual(page.socket.protocols, ['baton.v1', 'bearer.t2']);
});

test('a token that can not be had is asked for again, and the app is told', async () => {
  const page = new Page();
  let asked = 0;
  const told = [];
  const session = await page.attach({
    token: async () => {
      asked += 1;
      if (asked === 2) throw new Error('offline');
      return `t${asked}`;
    },
    onerror: ({ code }) => told.push(code),
  });
  page.socket.welcome();
  page.socket.lose(4401);
  await turn();
  assert.equal(session.state, 'unauthorized');
  await page.pass(1000);
  assert.deepEqual(page.socket.protocols, ['baton.v1', 'bearer.t3']);
  assert.deepEqual(told, ['token']);
});

test('expiring: the new token goes over the open connection', async () => {
  const page = new Page();
  const tokens = ['t1', 't2'];
  await page.attach({ token: () => tokens.shift() });
  page.socket.welcome();
  page.socket.receive({ type: 'expiring', inMs: 30000 });
  await turn();
  assert.deepEqual(page.socket.sent, [{ type: 'auth', token: 't2' }]);
});

test('a dead socket is found by a ping', async () => {
  const page = new Page();
  await page.attach();
  page.socket.welcome();
  await page.pass(25_000);
  assert.deepEqual(page.socket.sent, [{ type: 'ping' }]);
  await page.pass(10_000);
  assert.equal(page.sockets[0].closedWith, 4000);
  await page.pass(125);
  assert.equal(page.sockets.length, 2);
});

test('back/forward cache: closed when put aside, on again at the same place', async () => {
  const page = new Page();
  await page.attach();
  page.socket.welcome();
  page.socket.receive(token(1, 'a'));
  await page.window_('pagehide');
  assert.equal(page.socket.closedWith, 4000);
  await page.pass(100_000);
  assert.equal(page.sockets.length, 1);
  await page.window_('pageshow');
  assert.equal(page.socket.url.searchParams.get('offset'), '1-0.00000001');
});

test('online, offline and visibility reach the machine, until the session is closed', async () => {
  const page = new Page();
  const session = await page.attach();
  page.socket.welcome();
  await page.window_('offline');
  await page.show('visible');
  assert.equal(page.socket.sent.length, 2);
  await page.pass(3_000);
  assert.equal(session.state, 'waiting');
  await page.window_('online');
  await page.pass(125);
  assert.equal(page.sockets.length, 2);
  session.close();
  await page.window_('online');
  await page.pass(100_000);
  assert.equal(page.sockets.length, 2);
  assert.equal(page.timers.size, 0);
});

test('reload: by default everything again; with the tab’s store at the place, with the text', async () => {
  const page = new Page();
  await page.attach({ store: 'session' });
  page.socket.welcome();
  page.socket.receive(token(1, 'Hel'), token(2, 'lo'));
  await page.window_('pagehide');
  const shown = [];
  const again = await page.attach({ store: 'session', ontext: (text) => shown.push(text) });
  assert.equal(page.socket.url.searchParams.get('offset'), '2-0.00000002');
  assert.deepEqual(shown, []); // not before a gateway has let this person in
  page.socket.welcome('2-0.00000002');
  assert.deepEqual(shown, ['Hello']);
  page.socket.receive(token(3, '!'));
  assert.equal(again.text('r1'), 'Hello!');
  await page.attach();
  assert.equal(page.socket.url.searchParams.get('offset'), '0');
});

test('the tab’s store is written once a second; where all is too much for it, it keeps a part', async () => {
  const page = new Page();
  await page.attach({ store: 'session' });
  page.socket.welcome();
  page.socket.receive(token(1, 'a'), token(2, 'b'));
  assert.equal(page.storage.size, 0);
  await page.pass(1000);
  assert.match([...page.storage.values()][0], /"offset":"2-0.00000002".*"text":"ab"/);
  for (let n = 3; n <= 103; n++) page.socket.receive(token(n, 'x'.repeat(10_000)));
  await page.pass(1000);
  const again = await page.attach({ store: 'session' });
  const [place] = page.socket.url.searchParams.get('offset').split('-');
  assert.ok(place >= 40 && place <= 52, `${place} entries are kept`);
  page.socket.welcome(`${place}-0.0000000${place % 10}`);
  assert.equal(again.text('r1'), `ab${'x'.repeat((place - 2) * 10_000)}`);
});

test('a store of the app’s', async () => {
  const page = new Page();
  const saved = [];
  await page.attach({ store: { load: async () => ({ offset: '7-0.00000007' }), save: (snapshot) => saved.push(snapshot.offset) } });
  assert.equal(page.socket.url.searchParams.get('offset'), '7-0.00000007');
  page.socket.welcome('7-0.00000007');
  page.socket.receive(token(8, 'a'));
  await page.show('hidden');
  assert.deepEqual(saved, ['8-0.00000008']);
});

test('a store that can not be read or written does not stop the stream', async () => {
  const page = new Page();
  const told = [];
  globalThis.reportError = (error) => told.push(error.message);
  const broken = () => {
    throw new Error('no room');
  };
  const session = await page.attach({ store: { load: broken, save: broken }, onerror: ({ message }) => told.push(message) });
  page.socket.welcome();
  page.socket.receive(token(1, 'a'));
  await page.show('hidden');
  delete globalThis.reportError;
  assert.equal(session.text('r1'), 'a');
  assert.deepEqual(told, ['what was kept could not be read: no room', "the session can't be kept: no room"]);
});

test('a mistake in a callback does not stop the stream', async () => {
  const page = new Page();
  const told = [];
  globalThis.reportError = (error) => told.push(error.message);
  const session = await page.attach({
    onentry() {
      throw new Error('the app’s');
    },
  });
  page.socket.welcome();
  page.socket.receive(token(1, 'a'), token(2, 'b'));
  delete globalThis.reportError;
  assert.equal(session.text('r1'), 'ab');
  assert.deepEqual(told, ['the app’s', 'the app’s']);
});

test('frames of the wrong shape do not stop the stream', async () => {
  const page = new Page();
  const session = await page.attach();
  page.socket.welcome();
  page.socket.receive(token(1, undefined, { data64: 'not base64!' }), token(2, 7), 'null', '[]', { type: 'reset', from: 3 });
  assert.equal(session.text('r1'), '');
  page.socket.receive(token(3, 'a'), '{');
  assert.equal(page.socket.closedWith, 4000);
  await page.pass(125);
  assert.equal(page.socket.url.searchParams.get('offset'), '3-0.00000003');
  assert.equal(session.text('r1'), 'a');
});

test('closing inside a callback ends there', async () => {
  const page = new Page();
  const session = await page.attach({ onentry: ({ n }) => n === 1 && session.close() });
  page.socket.welcome();
  page.socket.receive(token(1, 'a'), token(2, 'b'));
  assert.equal(session.text('r1'), 'a');
  assert.deepEqual(await session.ended, { reason: 'closed' });
});

test('closing while actions are still to be taken leaves nothing behind', async () => {
  const page = new Page();
  const states = [];
  const session = await page.attach({ store: 'session', onstate: (state) => states.push(state), onattached: () => session.close() });
  page.socket.welcome();
  page.socket.receive(token(1, 'a'));
  assert.deepEqual(states, ['connecting', 'ended']); // nothing after close()
  assert.equal(page.timers.size, 0);
});

test('what is said at once, and closed at once, still happens in order', async () => {
  const page = new Page();
  const session = attach('http://gw', 's', { platform: page.platform });
  const typed = session.input('early', { key: 'k' });
  await turn();
  page.socket.welcome();
  assert.deepEqual(page.socket.sent, [{ type: 'input', key: 'k', data: 'early' }]);
  session.close();
  await assert.rejects(typed, { code: 'ended' });
});

test('an AbortSignal closes the session, or takes an input back', async () => {
  const page = new Page();
  const [all, one] = [new AbortController(), new AbortController()];
  const session = await page.attach({ signal: all.signal });
  const typed = session.input('hi', { key: 'k', signal: one.signal });
  one.abort();
  await assert.rejects(typed, { name: 'AbortError' });
  page.socket.welcome();
  assert.deepEqual(page.socket.sent, []);
  await assert.rejects(session.cancel('r1', { signal: one.signal }), { name: 'AbortError' });
  all.abort();
  assert.deepEqual(await session.ended, { reason: 'closed' });
});

test('listeners hear what callbacks hear', async () => {
  const page = new Page();
  const session = await page.attach();
  const heard = [];
  for (const type of ['text', 'state', 'entry', 'end']) session.addEventListener(type, ({ detail }) => heard.push([type, detail.text ?? detail.n ?? detail.reason ?? detail]));
  page.socket.welcome();
  page.socket.receive(token(1, 'a'));
  session.close();
  assert.deepEqual(heard, [['state', 'behind'], ['entry', 1], ['text', 'a'], ['state', 'ended'], ['end', 'closed']]);
});

test('for await over one response: its text to its end, whatever else comes', async () => {
  const page = new Page();
  const session = await page.attach();
  const reading = (async () => {
    const steps = [];
    for await (const { text, added, state } of session.response('r1')) steps.push([text, added, state]);
    return steps;
  })();
  page.socket.welcome();
  page.socket.receive(token(1, 'a'), token(1, 'x', { response: 'r2', id: '1-1.00000000' }));
  await turn();
  page.socket.receive(token(2, 'b'), token(3, 'c'));
  await turn();
  page.socket.receive({ id: '4-0.00000004', event: 'end', response: 'r1' }, token(5, 'y', { response: 'r2' }));
  assert.deepEqual(await reading, [['a', 'a', 'open'], ['ab', 'b', 'open'], ['abc', 'c', 'open'], ['abc', '', 'end']]);
  assert.equal(session.state, 'behind');
  const never = session.response('r9').next();
  session.close();
  assert.deepEqual(await never, { value: undefined, done: true });
});

test('an input from within the loop is answered, however much is unread', async () => {
  const page = new Page();
  const session = await page.attach({ maxBuffer: 10_000 });
  const reader = session[Symbol.asyncIterator]();
  page.socket.welcome();
  for (let n = 1; n <= 100; n++) page.socket.receive(token(n, 'x'.repeat(500)));
  const place = session.offset;
  const typed = session.input('yes', { key: 'k' });
  assert.equal(page.socket.url.searchParams.get('offset'), '$');
  page.socket.welcome('100-0.00000000');
  page.socket.receive(token(101, 'not for now'), { type: 'accepted', key: 'k', inboxId: '7-0' });
  assert.deepEqual(await typed, { key: 'k', inboxId: '7-0' });
  assert.equal(session.offset, place);
  for (let n = 0; n <= Number(place.split('-')[0]); n++) await reader.next(); // `attached` and every entry
  await turn();
  assert.equal(page.socket.url.searchParams.get('offset'), place);
});

test('half a character that a person typed is sent as U+FFFD', async () => {
  const page = new Page();
  const session = await page.attach();
  page.socket.welcome();
  session.input('a\ud83d', { key: 'k1' });
  const { toWellFormed } = String.prototype;
  delete String.prototype.toWellFormed;
  session.input('\ude00b😀', { key: 'k2' });
  if (toWellFormed) String.prototype.toWellFormed = toWellFormed;
  assert.deepEqual(page.socket.sent.map(({ data }) => data), ['a\ufffd', '\ufffdb😀']);
});

test('the same key and text sent twice at once is one input', async () => {
  const page = new Page();
  const session = await page.attach();
  page.socket.welcome();
  const both = [session.input('a', { key: 'k' }), session.input('a', { key: 'k' })];
  assert.equal(page.socket.sent.length, 1);
  page.socket.receive({ type: 'accepted', key: 'k', inboxId: '7-0' });
  assert.deepEqual(await Promise.all(both), [{ key: 'k', inboxId: '7-0' }, { key: 'k', inboxId: '7-0' }]);
});

test('what is kept between `attached` and `reset` is the place of what is shown', async () => {
  const page = new Page();
  await page.attach({ store: 'session' });
  page.socket.welcome();
  page.socket.receive(token(1, 'old'));
  page.socket.lose();
  await page.pass(125);
  page.socket.welcome('0');
  await page.show('hidden');
  assert.match([...page.storage.values()][0], /"offset":"1-0.00000001".*"text":"old"/);
});

test('what is kept in another form is dropped, and told once', async () => {
  for (const kept of ['{"offset":"1-0","responses":{"r1":null}}', '{"responses":[]}', '[]', '7', '{"offset":"$"}', '{"offset":"1-0","responses":[{"name":"r1"}]}']) {
    const page = new Page();
    const told = [];
    page.platform.sessionStorage.getItem = () => kept;
    await page.attach({ store: 'session', offset: '5-0', onerror: ({ code }) => told.push(code) });
    assert.equal(page.socket.url.searchParams.get('offset'), '5-0', kept);
    assert.deepEqual(told, ['store'], kept);
  }
});

test('the tab’s store: `offset` says where to begin where nothing is kept', async () => {
  const page = new Page();
  await page.attach({ store: 'session', offset: '5-0.00000005' });
  page.socket.welcome('5-0.00000005');
  page.socket.receive(token(6, 'a'));
  await page.window_('pagehide');
  const again = await page.attach({ store: 'session', offset: '5-0.00000005' });
  assert.equal(page.socket.url.searchParams.get('offset'), '6-0.00000006');
  page.socket.welcome('6-0.00000006');
  assert.equal(again.text('r1'), 'a');
});

test('what is kept is for one person; a refusal and a sign-out remove it', async () => {
  const page = new Page();
  const jwt = (sub) => `x.${btoa(JSON.stringify({ sub }))}.y`;
  const session = await page.attach({ store: 'session', token: jwt('alice') });
  page.socket.welcome();
  page.socket.receive(token(1, 'secret'));
  await page.window_('pagehide');
  const other = await page.attach({ store: 'session', token: jwt('bob') });
  assert.equal(other.text('r1'), '');
  session.forget();
  assert.equal(page.storage.size, 0);
  const again = await page.attach({ store: 'session', token: jwt('alice') });
  page.socket.welcome();
  page.socket.receive(token(1, 'secret'));
  await page.show('hidden');
  assert.equal(page.storage.size, 1);
  page.socket.lose(4403);
  assert.equal((await again.ended).reason, 'rejected');
  assert.equal(page.storage.size, 0);
});

test('a response that was kept to its end is finished once a gateway has let this person in', async () => {
  const page = new Page();
  await page.attach({ store: 'session', response: 'r1' });
  page.socket.welcome();
  page.socket.receive(token(1, 'all'), { id: '2-0.00000002', event: 'end', response: 'r1' });
  const again = await page.attach({ store: 'session', response: 'r1' });
  const steps = (async () => {
    const steps = [];
    for await (const { text, state } of again.response('r1')) steps.push([text, state]);
    return steps;
  })();
  assert.equal(again.text('r1'), '');
  page.socket.welcome('2-0.00000002');
  page.socket.receive({ type: 'live', offset: '2-0.00000002' });
  assert.deepEqual(await again.ended, { reason: 'finished' });
  assert.equal(again.text('r1'), 'all');
  assert.deepEqual(await steps, [['all', 'end']]);
});

test('what is kept shows nothing to who is refused, by whatever way it is asked for', async () => {
  const page = new Page();
  await page.attach({ store: 'session' });
  page.socket.welcome();
  page.socket.receive(token(1, 'secret'));
  await page.window_('pagehide');
  const shown = [];
  const next = await page.attach({ store: 'session', ontext: (text) => shown.push(text) });
  const step = next.response('r1').next();
  page.socket.open();
  page.socket.receive({ type: 'error', code: 'not_allowed', message: 'not for you' });
  page.socket.lose(4403);
  assert.deepEqual(await next.ended, { reason: 'rejected', code: 4403, detail: 'not for you' });
  await assert.rejects(step, /not for you/);
  assert.deepEqual([shown, next.text('r1'), next.responses.size, page.storage.size], [[], '', 0, 0]);
});

test('half a character is kept, and the other half comes after the reload', async () => {
  const page = new Page();
  await page.attach({ store: 'session' });
  page.socket.welcome();
  page.socket.receive(token(1, 'a'), token(2, undefined, { data64: 'ww==' }), token(3, 'x', { response: 'r2' }));
  await page.window_('pagehide');
  const again = await page.attach({ store: 'session' });
  page.socket.welcome('3-0.00000003');
  page.socket.receive(token(4, undefined, { data64: 'qQ==' }));
  assert.equal(again.text('r1'), 'aé');
});

test('what was typed without a network survives a reload, is sent once, and a refusal is told', async () => {
  const page = new Page();
  const session = await page.attach({ store: 'session' });
  session.input('typed offline', { key: 'k1' });
  session.cancel('r1', { key: 'k2' });
  await page.window_('pagehide');
  const told = [];
  const again = await page.attach({ store: 'session', onerror: ({ code, message }) => told.push(`${code}: ${message}`) });
  assert.deepEqual(again.unanswered.map(({ key }) => key), ['k1', 'k2']);
  page.socket.welcome();
  assert.deepEqual(page.socket.sent, [{ type: 'input', key: 'k1', data: 'typed offline' }, { type: 'cancel', key: 'k2', response: 'r1' }]);
  page.socket.receive({ type: 'accepted', key: 'k1', inboxId: '7-0' }, { type: 'error', key: 'k2', code: 'forbidden', message: 'no' });
  assert.deepEqual(told, ['forbidden: what was submitted before the reload was refused: no']);
  assert.deepEqual(again.unanswered, []);
  await page.attach({ store: 'session' });
  page.socket.welcome();
  assert.deepEqual(page.socket.sent, []);
});

test('what was typed before the first connection is kept, too; what was answered, withdrawn or ended is not', async () => {
  const page = new Page();
  const controller = new AbortController();
  const session = attach('http://gw-1:8080', 's', { store: 'session', platform: page.platform });
  session.input('early', { key: 'k1' }).catch(() => {});
  session.input('withdrawn', { key: 'k2', signal: controller.signal }).catch(() => {});
  await turn();
  controller.abort();
  const [kept] = page.storage.values();
  assert.deepEqual(JSON.parse(kept), [{ type: 'input', key: 'k1', data: 'early' }]);
  const ended = session.input('ended', { key: 'k3' }).catch(({ code }) => code);
  session.close();
  assert.equal(await ended, 'ended');
  assert.equal(page.storage.size, 0);
});

test('a gateway over http in a page over https is told at once; loopback may work', async () => {
  globalThis.location = new URL('https://app.example/chat');
  const told = [];
  for (const url of ['http://gw-1', 'ws://gw-1', 'https://gw-1', 'wss://gw-1', 'http://localhost:8080', 'http://127.0.0.1', '', '/base']) {
    const page = new Page();
    const session = await page.attach({ onerror: ({ code }) => told.push([url, code]) }, url);
    session.close();
  }
  delete globalThis.location;
  assert.deepEqual(told, [['http://gw-1', 'mixed_content'], ['ws://gw-1', 'mixed_content']]);
});

test('a token that is too long for the head of a request is told', async () => {
  const page = new Page();
  const told = [];
  const onerror = ({ code }) => told.push(code);
  await page.attach({ token: 'x'.repeat(8192), onerror });
  assert.deepEqual(told, []);
  await page.attach({ token: 'x'.repeat(8193), onerror });
  await page.attach({ token: () => 'x'.repeat(20_000), onerror });
  assert.deepEqual(told, ['token_too_long', 'token_too_long']);
});

test('a listener hears nothing after the callback beside it has closed the session', async () => {
  const page = new Page();
  const heard = [];
  const session = await page.attach({ onentry: () => session.close() });
  session.addEventListener('entry', () => heard.push('entry'));
  page.socket.welcome();
  page.socket.receive(token(1, 'a'));
  assert.deepEqual(heard, []);
});

test('answers named by numbers keep their order over a reload', async () => {
  const page = new Page();
  await page.attach({ store: 'session' });
  page.socket.welcome();
  page.socket.receive(token(1, 'a', { response: '43' }), token(2, 'b', { response: '42' }));
  await page.window_('pagehide');
  const again = await page.attach({ store: 'session' });
  page.socket.welcome('2-0.00000002');
  assert.deepEqual([...again.responses.keys()], ['43', '42']);
});

test('a store that does not answer is not waited for', async () => {
  const page = new Page();
  const told = [];
  await page.attach({ store: { load: () => new Promise(() => {}), save() {} }, onerror: ({ code }) => told.push(code) });
  assert.equal(page.sockets.length, 0);
  await page.pass(2000);
  assert.equal(page.sockets.length, 1);
  assert.deepEqual(told, ['store']);
});

test('a person who signs in for a while is asked once, and no clock runs', async () => {
  const page = new Page();
  let asked = 0;
  let answer;
  const session = await page.attach({ token: () => (asked++, new Promise((resolve) => (answer = resolve))) });
  await page.pass(60_000);
  assert.equal(asked, 1);
  assert.equal(page.sockets.length + page.requests.length, 0);
  answer(' t1\n');
  await turn();
  assert.deepEqual(page.socket.protocols, ['baton.v1', 'bearer.t1']);
  page.socket.welcome();
  page.socket.lose(4401);
  await page.pass(60_000);
  assert.equal(asked, 2);
  assert.equal(session.state, 'unauthorized');
});

test('a token that lives for seconds is asked for now and then, and told to be too short', async () => {
  const page = new Page();
  let asked = 0;
  const told = [];
  await page.attach({ token: () => `t${++asked}`, onerror: ({ code }) => told.push(code) });
  page.socket.welcome();
  for (let second = 0; second < 60; second++) {
    page.socket.receive({ type: 'expiring', inMs: 2000 });
    await page.pass(1000);
  }
  assert.ok(asked <= 15, `${asked} times in a minute`);
  assert.deepEqual(told, ['token_too_short']);
});

test('no word from any gateway is told once, with what was tried', async () => {
  const page = new Page();
  const told = [];
  const { warn } = console;
  console.warn = () => {};
  await page.attach({ onerror: ({ code, message }) => told.push([code, message]) }, ['http://gw-1', 'http://gw-2']);
  for (let n = 0; n < 10; n++) {
    page.socket.lose();
    page.request?.reject(new TypeError('failed'));
    await page.pass(10_000);
  }
  console.warn = warn;
  assert.equal(told.length, 1);
  assert.equal(told[0][0], 'unreachable');
  assert.match(told[0][1], /http:\/\/gw-1, http:\/\/gw-2/);
});

test('an error without a close is a lost connection', async () => {
  const page = new Page();
  const session = await page.attach();
  page.socket.onerror({});
  await page.pass(100);
  assert.equal(session.state, 'waiting');
});

test('Firefox closes a socket before the page goes: the app is told of no lost connection', async () => {
  const page = new Page();
  const states = [];
  const session = await page.attach({ onstate: (state) => states.push(state) });
  page.socket.welcome();
  page.socket.lose(1001);
  await page.pass(900);
  await page.window_('pagehide');
  assert.deepEqual(states, ['connecting', 'behind', 'suspended']);
  await page.window_('pageshow');
  page.socket.welcome();
  page.socket.lose(1001);
  await page.pass(1000);
  assert.equal(session.state, 'waiting'); // a page that stayed
  await page.pass(1000);
  page.socket.welcome();
  page.socket.receive({ type: 'draining', retryAfterMs: 100 });
  page.socket.lose(1001);
  assert.equal(session.state, 'waiting');
});

test('a mistake of ours in delivery loses no text: everything comes once more', async () => {
  const page = new Page();
  globalThis.reportError = () => {};
  const session = await page.attach();
  page.socket.welcome();
  page.socket.receive(token(1, 'a'));
  session.responses.set = () => {
    throw new Error('ours');
  };
  page.socket.receive(token(2, 'b', { response: 'r2' }));
  delete session.responses.set;
  delete globalThis.reportError;
  assert.equal(page.socket.url.searchParams.get('offset'), '0');
  page.socket.welcome();
  page.socket.receive(token(1, 'a'), token(2, 'b', { response: 'r2' }));
  assert.equal(session.text('r1') + session.text('r2'), 'ab');
});

test('the page’s own origin, also below a path', async () => {
  globalThis.location = new URL('https://app.example/chat/42');
  const page = new Page();
  await page.attach({}, '');
  assert.equal(page.socket.url.href, 'wss://app.example/v1/sessions/s?offset=0');
  delete globalThis.location;
  assert.throws(() => attach('ftp://gw', 's'), TypeError);
  assert.throws(() => attach('file:///x', 's'), TypeError);
});

test('offsets are compared as Redis orders them', () => {
  const places = ['10-2', '9-18446744073709551615.0000000a', '0', '10-10', '10-2.ffffffff'];
  assert.deepEqual(places.sort(compareOffsets), ['0', '9-18446744073709551615.0000000a', '10-2', '10-2.ffffffff', '10-10']);
  assert.throws(() => compareOffsets('$', '0'), TypeError);
});

test('names and addresses that are none are refused at once', () => {
  for (const name of ['', '..', 'a/b', 'a b', 'ä', 'x'.repeat(129)]) assert.throws(() => attach('http://gw', name), TypeError);
  assert.throws(() => attach([], 's'), TypeError);
  assert.throws(() => attach('no address', 's'), TypeError);
});

// Server-sent events

async function blocked(options = {}, urls = undefined) {
  const page = new Page();
  const session = await page.attach(options, urls);
  page.socket.lose();
  await page.pass(125);
  page.socket.lose();
  await page.pass(250);
  assert.equal(page.sockets.length, 2);
  return { page, session };
}

function stream(request) {
  let controller;
  const body = new ReadableStream({ start: (c) => (controller = c) });
  request.resolve(new Response(body, { headers: { 'Content-Type': 'text/event-stream' } }));
  const settled = () => new Promise((resolve) => setImmediate(resolve));
  return {
    async write(text) {
      controller.enqueue(new TextEncoder().encode(text));
      await settled();
    },
    async send(...frames) {
      for (const frame of frames) await this.write(`data: ${JSON.stringify(frame)}\n\n`);
    },
    async end() {
      controller.close();
      await settled();
    },
  };
}

const attached = { type: 'attached', session: 's', device: 'd', node: 'gw-1', offset: '0', pingMs: 25000 };

test('WebSocket does not get through: server-sent events, then back to WebSocket beside it', async () => {
  const { page, session } = await blocked();
  assert.equal(page.request.url.href, 'http://gw-1:8080/v1/sessions/s?offset=0');
  assert.equal(page.request.options.headers.Accept, 'text/event-stream');
  const events = stream(page.request);
  await events.send(attached, token(1, 'a'));
  assert.equal(session.transport, 'sse');
  assert.equal(session.text('r1'), 'a');
  await page.pass(1000);
  assert.equal(page.socket.url.searchParams.get('offset'), '$');
  await events.send(token(2, 'b'));
  const probe = page.socket;
  probe.welcome('2-0.00000002');
  await turn();
  assert.equal(probe.closedWith, 1000);
  assert.ok(page.request.options.signal.aborted);
  assert.equal(page.socket.url.searchParams.get('offset'), '2-0.00000002');
  page.socket.welcome('2-0.00000002');
  assert.equal(session.transport, 'websocket');
  assert.equal(session.text('r1'), 'ab');
});

test('a way back that hangs is given up, and what was typed goes beside the stream', async () => {
  const { page, session } = await blocked();
  const events = stream(page.request);
  await events.send(attached);
  const typed = session.input('hi', { key: 'k1' });
  const { url, options } = page.request;
  assert.equal(url.href, 'http://gw-1:8080/v1/sessions/s/input');
  assert.deepEqual([options.method, options.headers['Idempotency-Key'], options.body], ['POST', 'k1', '{"data":"hi"}']);
  page.request.reject(new TypeError('the network is away'));
  await turn();
  await page.pass(1000);
  const probe = page.socket;
  probe.open();
  assert.equal(page.request.options.body, '{"data":"hi"}');
  page.request.resolve(new Response('{"key":"k1","inboxId":"7-0"}', { status: 202 }));
  assert.deepEqual(await typed, { key: 'k1', inboxId: '7-0' });
  await page.pass(10_000);
  assert.equal(probe.closedWith, 1000);
  const stopped = session.cancel('r1');
  assert.equal(page.request.url.pathname, '/v1/sessions/s/responses/r1/cancel');
  const problem = JSON.stringify({ type: 'urn:baton:problem:not-allowed', detail: 'the scope cancel is missing' });
  page.request.resolve(new Response(problem, { status: 403, headers: { 'Content-Type': 'application/problem+json' } }));
  await assert.rejects(stopped, { code: 'forbidden', message: /cancel is missing/ });
  await events.send(token(1, 'a'));
  assert.equal(session.text('r1'), 'a');
});

test('an event stream that ends is opened again at its place', async () => {
  const { page } = await blocked();
  const events = stream(page.request);
  await events.send(attached, token(1, 'a'));
  await events.end();
  await page.pass(500);
  assert.equal(page.requests.length, 2);
  assert.equal(page.request.url.searchParams.get('offset'), '1-0.00000001');
});

test('a refusal over HTTP says what to mend', async () => {
  const { page, session } = await blocked({ token: 'wrong' });
  assert.equal(page.request.url.searchParams.get('token'), 'wrong');
  const problem = JSON.stringify({ type: 'urn:baton:problem:forbidden', detail: 'this token is for another session' });
  page.request.resolve(new Response(problem, { status: 403, headers: { 'Content-Type': 'application/problem+json' } }));
  assert.deepEqual(await session.ended, { reason: 'rejected', status: 403, detail: 'this token is for another session' });
});

test('204 is the end; 503 is waited for', async () => {
  const first = await blocked({ until: 'end' });
  first.page.request.resolve(new Response(null, { status: 204 }));
  assert.deepEqual(await first.session.ended, { reason: 'finished' });
  const second = await blocked();
  second.page.request.resolve(new Response('', { status: 503, headers: { 'Retry-After': '5' } }));
  await new Promise((resolve) => setImmediate(resolve));
  await second.page.pass(5_499);
  assert.equal(second.page.requests.length, 1);
  await second.page.pass(1);
  assert.equal(second.page.requests.length, 2);
});

test('a page that is no event stream is no gateway', async () => {
  const { page, session } = await blocked();
  page.request.resolve(new Response('<html>log in</html>', { headers: { 'Content-Type': 'text/html' } }));
  await new Promise((resolve) => setImmediate(resolve));
  assert.equal(session.state, 'waiting');
});

// Pages of history

const settled = () => new Promise((resolve) => setImmediate(resolve));

/** Neither a WebSocket nor a stream gets through: the answers are held. */
async function held(options = {}) {
  const page = new Page();
  const session = await page.attach(options);
  for (let n = 0; n < 4; n++) await page.pass(5000);
  assert.deepEqual([page.sockets.length, page.requests.length], [2, 3]);
  return { page, session };
}

async function answer(page, body, status = 200) {
  const type = status === 200 ? 'application/json' : 'application/problem+json';
  page.request.resolve(new Response(JSON.stringify({ session: 's', ...body }), { status, headers: { 'Content-Type': type } }));
  await settled();
  await settled();
}

const queryOf = ({ url }) => Object.fromEntries(url.searchParams);

test('a network that holds answers until they are whole: pages, at the same places', async () => {
  const { page, session } = await held();
  assert.equal(page.request.options.headers.Accept, 'application/json');
  assert.deepEqual(queryOf(page.request), { after: '0', limit: '1000' });
  await answer(page, { entries: [token(1, 'a')], first: '1-0', last: '2-0', more: true });
  assert.deepEqual(queryOf(page.request), { after: '1-0.00000001', limit: '1000' });
  assert.equal(session.state, 'behind');
  await answer(page, { entries: [{ type: 'skipped', offset: '2-0.00000002', reason: 'too_big', bytes: 9 }], first: '1-0', last: '2-0', more: false });
  assert.equal(session.state, 'live');
  assert.equal(session.transport, 'pages');
  assert.deepEqual(queryOf(page.request), { after: '2-0.00000002', limit: '1000', wait: '20s' });
  await answer(page, { entries: [token(3, 'b')], first: '1-0', last: '3-0', more: false });
  assert.equal(session.text('r1'), 'ab');
  await answer(page, { type: 'urn:baton:problem:continuity-broken', reason: 'deleted' }, 410);
  assert.equal(session.text('r1'), '');
  await answer(page, { type: 'urn:baton:problem:no-such-session' }, 404);
  assert.equal(session.state, 'live');
  page.request.reject(new TypeError('cut'));
  await settled();
  assert.equal(session.state, 'waiting');
  await page.pass(10_000);
  assert.deepEqual(queryOf(page.request), { after: '0', limit: '1000' });
  session.close();
});

test('pages: the newest entries, what comes from now on, one response, and the end', async () => {
  const newest = await held({ last: 2 });
  assert.deepEqual(queryOf(newest.page.request), { limit: '1' });
  await answer(newest.page, { entries: [token(1, 'a')], first: '1-0.00000001', last: '4-0.00000004', more: true });
  assert.deepEqual(queryOf(newest.page.request), { before: '4-0.00000004', limit: '2' });
  await answer(newest.page, { entries: [token(2, 'b'), token(3, 'c')], first: '1-0', last: '4-0', more: true });
  assert.equal(newest.page.request.url.searchParams.get('after'), '2-0.00000002');
  newest.session.close();

  const live = await held({ offset: '$' });
  await answer(live.page, { entries: [token(1, 'a')], first: '1-0', last: '4-0.00000004', more: true });
  assert.equal(live.page.request.url.searchParams.get('after'), '4-0.00000004');
  live.session.close();

  const one = await held({ response: 'r1' });
  await answer(one.page, { entries: [token(1, 'x', { response: 'r2' }), token(2, 'a'), { id: '3-0', event: 'end', response: 'r1' }], first: '1-0', last: '3-0', more: false });
  assert.deepEqual(await one.session.ended, { reason: 'finished' });
  assert.deepEqual([...one.session.responses.keys()], ['r1']);

  const end = await held({ until: 'end' });
  await answer(end.page, { entries: [token(1, 'a'), { id: '2-0', event: 'end', response: 'r1' }], first: '1-0', last: '2-0', more: false });
  assert.deepEqual(await end.session.ended, { reason: 'finished' });
});

test('many sessions that hold connections of one page are told', async () => {
  const told = [];
  const pages = [];
  for (let n = 0; n < 6; n++) {
    const { page, session } = await blocked({ onerror: ({ code }) => told.push(`${n} ${code}`) }, 'http://many');
    await stream(page.request).send(attached);
    pages.push(session);
  }
  assert.deepEqual(told, ['4 too_many_streams', '5 too_many_streams']);
  for (const session of pages) session.close();
  const { page, session } = await blocked({ onerror: ({ code }) => told.push(code) }, 'http://many');
  await stream(page.request).send(attached);
  session.close();
  assert.equal(told.length, 2);
});

test('pages: what is no page of this session is no gateway’s word, and shows nothing', async () => {
  for (const body of [{ entries: [token(1, 'a')], session: 'other' }, { entries: 7 }, { ok: true }]) {
    const { page, session } = await held();
    await answer(page, body);
    assert.deepEqual([session.state, session.node, session.offset, session.responses.size], ['waiting', undefined, undefined, 0]);
    session.close();
  }
  const { page, session } = await held();
  page.request.resolve(new Response('<html>log in</html>', { headers: { 'Content-Type': 'text/html' } }));
  await settled();
  assert.equal(session.state, 'waiting');
  session.close();
});

test('signing out at once, before a gateway was asked', async () => {
  const page = new Page();
  await page.attach({ store: 'session' });
  page.socket.welcome();
  page.socket.receive(token(1, 'secret'));
  await page.window_('pagehide');
  assert.equal(page.storage.size, 1);
  attach('http://gw-1:8080', 's', { store: 'session', platform: page.platform }).forget();
  assert.equal(page.storage.size, 0);
});
