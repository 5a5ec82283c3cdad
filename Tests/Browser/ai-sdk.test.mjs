// The AI SDK's transport over Baton: chunks of entries, and one stream whatever becomes of connections.
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';
import { BatonChatTransport, UIMessage } from '../../Sources/BatonGateway/Web/client/baton-ai-sdk.js';
import { Page, turn } from './fakes.mjs';

const { cases } = JSON.parse(readFileSync(new URL('../Conformance/ui/messages.json', import.meta.url)));

for (const { name, responses = ['r1'], entries, chunks } of cases) {
  test(name, () => {
    const message = new UIMessage(responses, true);
    assert.deepEqual(entries.flatMap((entry) => message.take(entry)), chunks);
    assert.equal(message.isOver, true);
  });
}

test('a client that has the tool calls is told their outputs', () => {
  const message = new UIMessage(['r1'], false);
  const output = { type: 'tool-output-available', toolCallId: 'c', output: 1 };
  assert.deepEqual(message.take({ event: 'ui', response: 'r1', n: 1, data: JSON.stringify(output) }).at(-1), output);
});

test('an entry that is too large ends the message by an error', () => {
  const message = new UIMessage(['r1'], true);
  message.take({ response: 'r1', data: 'a' });
  assert.deepEqual([message.skip('r0'), message.isOver], [[], false]);
  assert.equal(message.skip('r1')[0].type, 'error');
  assert.equal(new UIMessage(['r1'], true).skip().at(-1).type, 'error');
  assert.deepEqual([message.isOver, message.skip('r1'), message.take({ response: 'r1', data: 'b' })], [true, [], []]);
});

test('an event that goes on without end is left out', () => {
  const message = new UIMessage(['r1'], true);
  const piece = ' '.repeat(1024 * 1024);
  for (let n = 1; n <= 20; n++) assert.deepEqual(message.take({ event: 'ui', response: 'r1', n, data: piece, more: true }), []);
  assert.deepEqual(message.take({ event: 'ui', response: 'r1', n: 21, data: '{"type":"data-a"}' }), []);
  assert.equal(message.take({ event: 'ui', response: 'r1', n: 22, data: '{"type":"data-b"}' }).at(-1).type, 'data-b');
});

const ui = (n, chunk) => ({ id: `${n}-0.0000000${n % 10}`, event: 'ui', response: 'r1', n, data: JSON.stringify(chunk) });
const json = (value, status = 200) => new Response(value === undefined ? null : JSON.stringify(value), { status });
const question = { chatId: 's', messages: [{ id: 'u1', role: 'user', parts: [] }], trigger: 'submit-message', messageId: undefined };

/** A page with a transport that is asking. */
function asking(options = {}, request = question) {
  const page = new Page();
  const transport = new BatonChatTransport({ url: 'http://gw-1:8080', ...options, platform: page.platform });
  return { page, transport, asked: transport.sendMessages(request) };
}

async function streaming(options, request) {
  const { page, transport, asked } = asking(options, request);
  await turn();
  page.request.resolve(json({ responses: ['r1'], offset: '1-0.00000001' }));
  const stream = await asked;
  await turn(100);
  return { page, transport, stream, reader: stream.getReader() };
}

const read = async (reader) => (await reader.read()).value;

test('what is asked, and where it is read', async () => {
  const { page } = await streaming({ token: () => 'jwt', body: { model: 'm' }, headers: { 'X-Tenant': 't' } });
  const { url, options } = page.requests[0];
  assert.equal(url.href, 'http://gw-1:8080/v1/ai-sdk');
  assert.deepEqual(JSON.parse(options.body), { model: 'm', id: 's', messages: question.messages, trigger: 'submit-message' });
  assert.deepEqual(options.headers, { Accept: 'application/json', 'Content-Type': 'application/json', Authorization: 'Bearer jwt', 'X-Tenant': 't' });
  assert.equal(page.socket.url.searchParams.get('offset'), '1-0.00000001');
});

test('one stream over a lost connection, at the exact chunk', async () => {
  const { page, reader } = await streaming();
  page.socket.welcome('1-0.00000001');
  page.socket.receive(ui(2, { type: 'start', messageId: 'm' }), ui(3, { type: 'start-step' }));
  assert.equal((await read(reader)).type, 'start');
  assert.equal((await read(reader)).type, 'start-step');
  page.socket.lose();
  await page.pass(10000);
  assert.equal(page.socket.url.searchParams.get('offset'), '3-0.00000003');
  page.socket.welcome('3-0.00000003');
  page.socket.receive(ui(4, { type: 'finish' }), { id: '5-0.00000005', event: 'end', response: 'r1' });
  assert.equal((await read(reader)).type, 'finish');
  assert.equal((await reader.read()).done, true);
  assert.equal(page.socket.closedWith !== undefined, true);
});

test('a reset before anything was told is none', async () => {
  const { page, reader } = await streaming();
  page.socket.welcome('0');
  page.socket.receive({ type: 'reset', reason: 'trimmed', from: '0', offset: '0', first: '2-0', last: '3-0' }, ui(2, { type: 'start', messageId: 'm' }));
  assert.equal((await read(reader)).type, 'start');
  page.socket.receive({ type: 'reset', reason: 'deleted', from: '0', offset: '0', first: null, last: null });
  await assert.rejects(reader.read(), /does not go on \(deleted\)/);
});

test('an abort and a cancel only stop reading', async () => {
  for (const leave of [(stream, reader, abort) => abort.abort(), (stream, reader) => reader.cancel()]) {
    const abort = new AbortController();
    const { page, stream, reader } = await streaming({}, { ...question, abortSignal: abort.signal });
    page.socket.welcome('1-0.00000001');
    const next = reader.read().catch((error) => error.name);
    leave(stream, reader, abort);
    const told = await next;
    assert.equal(told === 'AbortError' || told.done, true);
    await turn();
    assert.equal(page.socket.closedWith !== undefined, true);
    assert.deepEqual(page.requests.map((one) => one.options.method), ['POST']);
  }
});

test('a question is asked again elsewhere, and to regenerate is one question', async () => {
  const { page, asked } = asking({ url: ['http://gw-1:8080', 'http://gw-2:8080'] }, { ...question, trigger: 'regenerate-message' });
  await turn();
  page.request.reject(new TypeError('fetch failed'));
  await turn();
  await page.pass(5000);
  page.request.resolve(json({}, 503));
  await turn(50);
  await page.pass(5000);
  page.request.resolve(json({ responses: ['r1'], offset: '0' }));
  await asked;
  assert.deepEqual(page.requests.map((one) => one.url.host), ['gw-1:8080', 'gw-2:8080', 'gw-1:8080']);
  assert.equal(new Set(page.requests.map((one) => one.options.headers['Idempotency-Key'])).size, 1);
});

test('what is refused is told', async () => {
  const { page, asked } = asking();
  await turn();
  page.request.resolve(json({ detail: 'not you' }, 403));
  await assert.rejects(asked, /not you/);
  assert.equal(page.requests.length, 1);
});

test('nothing to resume, and stop', async () => {
  const page = new Page();
  const transport = new BatonChatTransport({ url: 'http://gw-1:8080/', platform: page.platform });
  const resumed = transport.reconnectToStream({ chatId: 'a~b' });
  await turn();
  assert.equal(page.request.url.pathname, '/v1/ai-sdk/a~b/stream');
  page.request.resolve(json(undefined, 204));
  assert.equal(await resumed, null);
  const stopped = transport.stop('a~b');
  await turn();
  assert.deepEqual([page.request.url.pathname, page.request.options.method], ['/v1/ai-sdk/a~b/stop', 'POST']);
  page.request.resolve(json(undefined, 204));
  await stopped;
});

test('responses that begin elsewhere are told, and its own are not', async () => {
  const { page, transport, asked } = asking();
  const started = [];
  await turn();
  const end = transport.watch('s', (response) => started.push(response));
  await turn();
  const socket = page.socket;
  socket.welcome('0');
  // Its beginning may come before the answer that names it.
  socket.receive({ id: '1-0.00000001', event: 'start', response: 'r1' }, { id: '2-0.00000002', event: 'start', response: 'r2' });
  await turn();
  assert.deepEqual(started, []);
  page.request.resolve(json({ responses: ['r1'], offset: '0' }));
  await asked;
  socket.receive({ id: '3-0.00000003', response: 'r2', n: 1, data: 'a' }, { id: '4-0.00000004', event: 'end', response: 'r0' });
  await turn();
  assert.deepEqual(started, ['r2']);
  end();
  assert.equal(socket.closedWith !== undefined, true);
});
