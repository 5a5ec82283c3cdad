// baton-resumable.js against gateways: what users of `resumable-stream` rely on, and what that can't do. Run by test_resumable.py, which
// starts the gateways: two that stay, and one that may be killed.
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { once } from 'node:events';
import { describe, test } from 'node:test';
import { createResumableStreamContext } from '../../Sources/BatonGateway/Web/client/baton-resumable.js';

const { GATEWAYS, MORTAL, MORTAL_PID } = process.env;
const urls = GATEWAYS.split(' ');

/** A context, as another process of the app has it. */
function app({ at = 0, keyPrefix = randomUUID(), ...options } = {}) {
  const kept = [];
  const context = createResumableStreamContext({ url: urls[at], keyPrefix, waitUntil: (promise) => kept.push(promise), ...options });
  return { ...context, keyPrefix, kept, another: (more) => app({ at: 1, keyPrefix, ...more }) };
}

/** A stream, and the hand that writes it. */
function written() {
  let writer;
  const made = { count: 0, left: false };
  const stream = new ReadableStream({ start: (controller) => (writer = controller), cancel: () => (made.left = true) });
  return Object.assign(made, {
    make: () => (made.count++, stream),
    write: (...texts) => texts.forEach((text) => writer.enqueue(text)),
    close: () => writer.close(),
    fail: (message) => writer.error(new Error(message)),
  });
}

async function all(stream) {
  let text = '';
  for await (const piece of stream) text += piece;
  return text;
}

/** Reads so many characters, or what there is before an error. */
async function some(reader, count) {
  let text = '';
  while (text.length < count) {
    const { done, value } = await reader.read();
    if (done) break;
    text += value;
  }
  return text;
}

async function eventually(condition, what) {
  for (const deadline = Date.now() + 60_000; !(await condition()); await new Promise((next) => setTimeout(next, 20))) {
    assert.ok(Date.now() < deadline, what);
  }
}

describe('resumable streams', { concurrency: 6 }, () => {
  test('who makes it reads it as it is made', async () => {
    const [context, source] = [app(), written()];
    const stream = await context.resumableStream('a', source.make);
    source.write('1\n', '2\n');
    const reader = stream.getReader();
    assert.deepEqual([(await reader.read()).value, (await reader.read()).value], ['1\n', '2\n']);
    source.write('3\n');
    source.close();
    assert.deepEqual([(await reader.read()).value, (await reader.read()).done], ['3\n', true]);
    await Promise.all(context.kept);
  });

  for (const order of ['first', 'last']) {
    test(`others read it all, the maker ${order}`, async () => {
      const [context, source] = [app(), written()];
      const streams = [await context.resumableStream('a', source.make)];
      source.write('1\n');
      streams.push(await context.another().resumableStream('a', source.make));
      source.write('2\n');
      streams.push(await context.resumeExistingStream('a'), await context.another().resumeExistingStream('a'));
      source.close();
      if (order === 'last') streams.reverse();
      for (const stream of streams) assert.equal(await all(stream), '1\n2\n');
      assert.equal(source.count, 1);
    });
  }

  test('streams are told apart, and so are prefixes', async () => {
    const [context, sources] = [app(), [written(), written(), written()]];
    const made = [await context.resumableStream('a', sources[0].make), await context.resumableStream('b', sources[1].make)];
    made.push(await app().resumableStream('a', sources[2].make));
    sources.forEach((source, index) => (source.write(`${index}`), source.close()));
    assert.deepEqual(await Promise.all(made.map(all)), ['0', '1', '2']);
  });

  test('what there is', async () => {
    const [context, source] = [app(), written()];
    const states = () => Promise.all([context.hasExistingStream('a'), context.resumeExistingStream('a')]);
    assert.deepEqual(await states(), [null, undefined]);
    const stream = await context.createNewResumableStream('a', source.make);
    assert.equal(await context.another().hasExistingStream('a'), true);
    source.write('1');
    source.close();
    assert.equal(await all(stream), '1');
    await Promise.all(context.kept);
    assert.deepEqual(await states(), ['DONE', null]);
    assert.equal(await context.resumableStream('a', () => assert.fail('made twice')), null);
    const again = written();
    const second = await context.createNewResumableStream('a', again.make);
    again.write('2');
    assert.equal(await some((await context.another().resumeExistingStream('a')).getReader(), 1), '2');
    again.close();
    assert.equal(await all(second), '2');
  });

  test('the first characters are skipped', async () => {
    const [context, source] = [app(), written()];
    await context.resumableStream('a', source.make);
    source.write('Hel', 'lo 🎻', ' there');
    const streams = await Promise.all([0, 2, 3, 8, 13].map((skip) => context.another().resumeExistingStream('a', skip)));
    streams.push(await context.resumableStream('a', source.make, 4));
    source.write('.');
    source.close();
    const whole = 'Hello 🎻 there.';
    assert.deepEqual(await Promise.all(streams.map(all)), [0, 2, 3, 8, 13, 4].map((skip) => whole.slice(skip)));
  });

  test('of those who come at the same time one makes it', async () => {
    const [context, source] = [app(), written()];
    const come = Array.from({ length: 8 }, (_, number) => context.another({ at: number % 2 }).resumableStream('a', source.make));
    const streams = await Promise.all(come);
    source.write('once', ' only');
    source.close();
    assert.deepEqual(await Promise.all(streams.map(all)), Array(8).fill('once only'));
    assert.equal(source.count, 1);
  });

  test('another one makes it where the first never begins', async () => {
    const [context, source] = [app(), written()];
    const headers = { 'Content-Type': 'application/json', 'Idempotency-Key': 'resumable-stream 1' };
    const claim = await fetch(`${urls[0]}/v1/sessions/${context.keyPrefix}:a`, { method: 'POST', headers, body: '{"event":"claim","data":"x"}' });
    assert.equal(claim.status, 201);
    const streams = await Promise.all([0, 1].map((at) => context.another({ at }).resumableStream('a', source.make)));
    source.write('late');
    source.close();
    assert.deepEqual(await Promise.all(streams.map(all)), ['late', 'late']);
    assert.equal(source.count, 1);
  });

  test('an error in the middle is everybody’s', async () => {
    const [context, source] = [app(), written()];
    const readers = [(await context.resumableStream('a', source.make)).getReader()];
    source.write('so far');
    readers.push((await context.another().resumeExistingStream('a')).getReader());
    for (const reader of readers) assert.equal(await some(reader, 6), 'so far');
    source.fail('the model is gone');
    for (const reader of readers) await assert.rejects(reader.read(), /the model is gone/);
    await Promise.all(context.kept);
    assert.equal(await context.hasExistingStream('a'), 'DONE');
  });

  test('what can’t be made is everybody’s error', async () => {
    const context = app();
    const stream = await context.createNewResumableStream('a', () => {
      throw new Error('no model');
    });
    await assert.rejects(all(stream), /no model/);
    // Whatever is thrown.
    const odd = await context.createNewResumableStream('b', () => {
      throw Symbol('odd');
    });
    await assert.rejects(all(odd), (error) => typeof error === 'symbol');
    await Promise.all(context.kept);
    assert.equal(await context.hasExistingStream('a'), 'DONE');
    assert.equal(await context.hasExistingStream('b'), 'DONE');
  });

  test('who leaves ends nothing', async () => {
    const [context, source] = [app(), written()];
    const stream = await context.resumableStream('a', source.make);
    const other = (await context.another().resumeExistingStream('a')).getReader();
    source.write('1');
    await some(other, 1);
    await stream.cancel();
    await other.cancel();
    source.write('2');
    const last = await context.another().resumeExistingStream('a');
    source.close();
    assert.deepEqual([await all(last), source.left], ['12', false]);
  });

  test('a cancel from elsewhere ends it for everybody', async () => {
    const [context, source, abort] = [app(), written(), new AbortController()];
    abort.signal.addEventListener('abort', () => (source.write(', and out'), source.close()));
    const streams = [await context.resumableStream('a', source.make, undefined, abort)];
    source.write('over');
    streams.push(await context.another().resumeExistingStream('a'));
    await context.another().sendCancellationSignal('a');
    assert.deepEqual(await Promise.all(streams.map(all)), ['over, and out', 'over, and out']);
    await context.sendCancellationSignal('a');

    const [plain, deaf] = [app(), written()];
    const stream = await plain.createNewResumableStream('a', deaf.make);
    deaf.write('over');
    await plain.another().sendCancellationSignal('a');
    assert.equal(await all(stream), 'over');
    assert.equal(deaf.left, true);
    await Promise.all([...context.kept, ...plain.kept]);
    assert.equal(await plain.hasExistingStream('a'), 'DONE');
  });

  test('characters in halves, and long pieces', async () => {
    const [context, source] = [app(), written()];
    const stream = await context.resumableStream('a', source.make);
    const long = `${'x'.repeat(16 * 1024 - 1)}🎻${'\u0000"é'.repeat(30_000)}`;
    source.write('a\ud83c', '\udfbb', 'b', long, 'c', 'd\ud83c');
    const other = await context.another().resumeExistingStream('a');
    source.close();
    const whole = `a🎻b${long}cd\ud83c`;
    assert.equal(await all(stream), whole);
    assert.equal(await all(other), whole.toWellFormed());
  });

  test('more than is kept in memory waits for who makes it', async () => {
    const [context, source] = [app(), written()];
    const stream = await context.resumableStream('a', source.make);
    const pieces = Array.from({ length: 60 }, (_, number) => `${number}:`.padEnd(50_000, 'x'));
    const reader = stream.getReader();
    source.write(pieces[0]);
    assert.equal((await reader.read()).value, pieces[0]);
    source.write(...pieces.slice(1));
    source.close();
    await Promise.all(context.kept);
    assert.equal(await some(reader, Infinity), pieces.slice(1).join(''));
  });

  test('any id, up to a length', async () => {
    const [context, source] = [app(), written()];
    const id = 'chat/42 é🎻~%7E';
    const stream = await context.resumableStream(id, source.make);
    assert.deepEqual([await context.hasExistingStream(id), await context.hasExistingStream('chat/42')], [true, null]);
    source.close();
    assert.equal(await all(stream), '');
    await assert.rejects(context.resumableStream('x'.repeat(128), source.make), TypeError);
  });

  test('a gateway that refuses is told, and one that is away is passed over', async () => {
    const [source, refused] = [written(), app({ url: `${urls[0]}/nowhere` })];
    await assert.rejects(refused.resumableStream('a', source.make), /./);
    await assert.rejects(refused.createNewResumableStream('a', source.make), /./);
    assert.equal(source.count, 0);
    const context = app({ url: ['http://127.0.0.1:1', urls[0]] });
    const stream = await context.resumableStream('a', source.make);
    source.write('1');
    source.close();
    assert.equal(await all(stream), '1');
  });

  test('a gateway dies under those who make and read it', async () => {
    const [context, source] = [app({ url: [MORTAL, urls[0]] }), written()];
    const own = (await context.resumableStream('a', source.make)).getReader();
    const other = (await context.another({ url: [MORTAL, urls[1]] }).resumeExistingStream('a')).getReader();
    source.write('before, ');
    assert.deepEqual(await Promise.all([some(own, 8), some(other, 8)]), ['before, ', 'before, ']);
    process.kill(Number(MORTAL_PID), 'SIGKILL');
    source.write('meanwhile, ');
    assert.equal(await some(other, 11), 'meanwhile, ');
    source.write('after');
    source.close();
    assert.deepEqual(await Promise.all([some(own, Infinity), some(other, Infinity)]), ['meanwhile, after', 'after']);
    assert.deepEqual(await eventsOf(context), ['claim', 'start', 'token', 'token', 'token', 'end']);
  });

  /** What the session holds of a stream. */
  async function eventsOf({ keyPrefix, kept }) {
    await Promise.all(kept);
    const { entries } = await (await fetch(`${urls[0]}/v1/sessions/${keyPrefix}:a?limit=1000`)).json();
    return entries.map(({ event }) => event);
  }

  test('the process that makes it is killed', async () => {
    const context = app({ at: 1 });
    // One that lives says nothing for as long.
    const [living, source] = [app(), written()];
    const stream = await living.createNewResumableStream('a', source.make);
    const code = `
      import { createResumableStreamContext } from ${JSON.stringify(import.meta.resolve('../../Sources/BatonGateway/Web/client/baton-resumable.js'))};
      const context = createResumableStreamContext({ keyPrefix: ${JSON.stringify(context.keyPrefix)} });
      const stream = await context.createNewResumableStream('a', () => new ReadableStream({ start: (to) => to.enqueue('half an ans') }));
      for await (const piece of stream) console.log(piece);`;
    const child = spawn(process.execPath, ['--input-type=module', '-e', code], { env: { ...process.env, BATON_URL: urls[0] }, stdio: ['ignore', 'pipe', 'inherit'] });
    await eventually(async () => (await context.hasExistingStream('a')) === true, 'the child has begun');
    const reader = (await context.resumeExistingStream('a')).getReader();
    assert.equal(await some(reader, 11), 'half an ans');
    child.kill('SIGKILL');
    await once(child, 'exit');
    await assert.rejects(reader.read(), /producer_lost/);
    assert.equal(await context.resumeExistingStream('a'), null);
    const again = await living.another().resumeExistingStream('a');
    source.write('still there');
    source.close();
    assert.deepEqual([await all(stream), await all(again)], ['still there', 'still there']);
    assert.deepEqual(await eventsOf(living), ['start', 'token', 'end']);
  });
});
