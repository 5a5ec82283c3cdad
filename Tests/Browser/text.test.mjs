import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Responses } from '../../Sources/BatonGateway/Web/client/baton-text.js';
import { EventParser } from '../../Sources/BatonGateway/Web/client/baton-wire.js';
import { token } from './fakes.mjs';

const base64 = (...bytes) => Buffer.from(bytes).toString('base64');

test('text, count and state of each response', () => {
  const responses = new Responses();
  responses.add({ id: '1-0.00000001', event: 'start', response: 'r1' });
  assert.equal(responses.add(token(2, 'Hel')), 'Hel');
  responses.add({ id: '3-0', event: 'token', response: 'r2', n: 1, data: 'other' });
  responses.add(token(9, 'lo', { joined: 7 }));
  responses.add({ id: '10-0', event: 'input', data: 'a question' });
  responses.add({ id: '11-0', event: 'token', data: 'nobody' });
  responses.add({ id: '12-0', event: 'token', response: 'r1' });
  assert.equal(responses.add({ id: '13-0', event: 'cancelled', response: 'r1' }), undefined);
  assert.deepEqual(responses.snapshot(), [
    { name: 'r1', text: 'Hello', n: 10, state: 'cancelled' },
    { name: 'r2', text: 'other', n: 1, state: 'open' },
    { name: '', text: 'nobody', n: 1, state: 'open' },
  ]);
});

test('only parts of text are text, and all are counted', () => {
  const responses = new Responses();
  assert.equal(responses.add(token(1, 'hm', { part: 'reasoning:0' })), undefined);
  assert.equal(responses.add(token(2, 'a', { part: 'text:0' })), 'a');
  assert.equal(responses.add(token(3, 'b')), 'b');
  assert.equal(responses.add(token(3, 'b', { part: 'text:0' })), undefined);
  assert.deepEqual(responses.snapshot(), [{ name: 'r1', text: 'ab', n: 3, state: 'open' }]);
  responses.dropAfter('1-0');
  assert.deepEqual(responses.snapshot(), [{ name: 'r1', text: '', n: 1, state: 'open' }]);
});

test('a character split over deltas is put together, whatever the cut', () => {
  for (const [bytes, text] of [[[0xf0, 0x9f, 0x8e, 0xbb], '🎻'], [[0xe2, 0x82, 0xac], '€'], [[0xc3, 0xa9], 'é']]) {
    for (let cut = 1; cut < bytes.length; cut++) {
      const responses = new Responses();
      assert.equal(responses.add(token(1, undefined, { data64: base64(0x61, ...bytes.slice(0, cut)) })), 'a');
      const again = new Responses('1-0', responses.snapshot());
      assert.equal(again.add(token(2, undefined, { data64: base64(...bytes.slice(cut), 0x62) })), text + 'b');
      assert.equal(responses.add(token(2, undefined, { data64: base64(...bytes.slice(cut), 0x62) })), text + 'b');
    }
  }
});

test('bytes that never become a character are shown as such, and hold nothing up', () => {
  const responses = new Responses();
  responses.add(token(1, undefined, { data64: base64(0xff, 0x61, 0xf0) }));
  responses.add(token(2, 'b'));
  assert.equal(responses.all.get('r1').text, '\ufffda\ufffdb');
});

test('a delta that was appended twice is shown once', () => {
  const responses = new Responses();
  assert.deepEqual([responses.add(token(1, 'a')), responses.add({ ...token(1, 'a'), id: '1-1' }), responses.add(token(2, 'b'))], ['a', undefined, 'b']);
  assert.equal(responses.all.get('r1').text, 'ab');
  responses.dropAfter('1-0');
  assert.equal(responses.add(token(2, 'c')), 'c');
});

test('a response that another one supersedes is not shown', () => {
  const responses = new Responses();
  responses.add(token(1, 'a'));
  responses.add({ id: '2-0', event: 'start', response: 'r2', data: '{"supersedes":"r1"}' });
  assert.deepEqual([...responses.all.keys()], ['r2']);
  assert.equal(responses.add({ id: '3-0', event: 'error', response: 'r1', data: '{"reason":"superseded"}' }), undefined);
  responses.add({ id: '4-0', event: 'token', response: 'r2', n: 1, data: 'x' });
  assert.deepEqual(responses.snapshot(), [{ name: 'r2', text: 'x', n: 1, state: 'open' }]);
  responses.dropAfter('1-0');
  assert.deepEqual(responses.snapshot(), [{ name: 'r1', text: 'a', n: 1, state: 'open' }]);
});

test('the end of a superseded response that is not known shows nothing', () => {
  const responses = new Responses();
  responses.add({ id: '3-0', event: 'error', response: 'r1', data: '{"reason":"superseded"}' });
  assert.equal(responses.all.size, 0);
});

test('everything after a place is taken back', () => {
  const responses = new Responses();
  for (const [n, text] of ['a', 'b', 'c', 'd'].entries()) responses.add(token(n + 1, text));
  responses.add({ id: '5-0', event: 'end', response: 'r1' });
  responses.add({ id: '6-0', event: 'token', response: 'r2', n: 1, data: 'x' });
  assert.equal(responses.dropAfter('2-0.ffffffff'), true);
  assert.deepEqual(responses.snapshot(), [{ name: 'r1', text: 'ab', n: 2, state: 'open' }]);
  responses.add(token(3, 'C'));
  assert.equal(responses.all.get('r1').text, 'abC');
  assert.equal(responses.dropAfter('0'), true);
  assert.deepEqual(responses.snapshot(), []);
});

test('taking back half a character brings the other half back', () => {
  const responses = new Responses();
  responses.add(token(1, undefined, { data64: base64(0xc3) }));
  responses.add(token(2, undefined, { data64: base64(0xa9) }));
  responses.dropAfter('1-0');
  assert.equal(responses.add(token(2, undefined, { data64: base64(0xa8) })), 'è');
});

test('an answer that ends within a character shows the cut, and can be kept', () => {
  const responses = new Responses();
  responses.add(token(1, undefined, { data64: base64(0xc3) }));
  assert.deepEqual(responses.snapshot(), [{ name: 'r1', text: '', n: 1, state: 'open', pending: 'ww==' }]);
  assert.equal(responses.add({ id: '2-0', event: 'error', response: 'r1' }), '\ufffd');
  assert.deepEqual(responses.snapshot(), [{ name: 'r1', text: '\ufffd', n: 1, state: 'error' }]);
  responses.dropAfter('1-0');
  assert.equal(responses.add(token(2, undefined, { data64: base64(0xa9) })), 'é');
});

test('a place inside a joined entry, or before what is remembered, is not known', () => {
  const responses = new Responses('5-0.00000005');
  responses.add(token(9, 'abcd', { joined: 4 }));
  assert.equal(responses.dropAfter('7-0'), false);
  assert.equal(responses.dropAfter('4-0'), false);
  assert.equal(responses.dropAfter('5-0'), true);
  assert.equal(responses.all.size, 0);
});

test('what is remembered for taking back is bounded', () => {
  const responses = new Responses();
  for (let n = 1; n <= 9000; n++) responses.add(token(n, 'x'));
  assert.equal(responses.dropAfter('100-0'), false);
  assert.equal(responses.dropAfter('8000-0'), true);
  assert.equal(responses.all.get('r1').text.length, 8000);
});

test('server-sent events in any cut, with comments, other fields and both line ends', () => {
  const wire = 'retry: 100\n\n: still here\n\nid: 1-0\r\ndata: {"id":"1-0"}\r\n\r\ndata:{"type":\ndata:"live"}\n\nevent: x\n\ndata: {oops\n\n';
  const expected = [{ event: 'heard' }, { event: 'frame', frame: { id: '1-0' } }, { event: 'frame', frame: { type: 'live' } }, { event: 'garbled' }];
  for (let size = 1; size < wire.length; size++) {
    const told = [];
    const parser = new EventParser((event) => told.push(event));
    for (let i = 0; i < wire.length; i += size) parser.feed(wire.slice(i, i + size));
    assert.deepEqual(told, expected, `in pieces of ${size}`);
  }
});
