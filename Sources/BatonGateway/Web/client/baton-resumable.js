// The interface of the package `resumable-stream` over Baton, for an app's own server (Node 20 and newer): a stream of strings is kept in a
// session as it is made, and resumed by any process of the app, through any gateway (the article Relay).
//
//   import { createResumableStreamContext } from 'baton/resumable';
//   const streams = createResumableStreamContext({ waitUntil: after, url: 'https://gateway.example' });
//
// Apache-2.0.

import { randomKey } from './baton-page.js';
import { EventParser, sessionURL } from './baton-wire.js';

/** Of the entries that hold the strings: no text that other devices show. */
const part = 'stream:raw';
// In characters
const maxPiece = 16 * 1024;
const maxWaiting = 1024 * 1024;
const maxUpload = 256 * 1024;
// In milliseconds. A lease is over after 15 s; by then an upload has failed and another has begun.
const uploadFor = 5000;
const answerWithin = 5000;
/** A gateway is heard every 25 s. */
const silence = 45_000;
/** No gateway has done anything. */
const giveUpAfter = 60_000;
/** Of a stream that was cancelled. */
const endWithin = 2000;
/** Between a claim and the stream's beginning. */
const beginWithin = 10_000;
const maxTurns = 5;

const passing = new Set([408, 425, 429, 500, 502, 503, 504]);
const ends = new Set(['end', 'error', 'cancelled']);

/** @param {import('./baton-resumable.js').CreateResumableStreamContextOptions} [options] */
export function createResumableStreamContext(options = {}) {
  const gateways = new Gateways(options);
  const keepAlive = options.waitUntil ?? (() => {});

  async function made(session, makeStream, cancellation) {
    const production = new Production(gateways, session, cancellation);
    await production.begin();
    keepAlive(production.run(makeStream));
    return production.stream;
  }

  async function resumed(session, found, skipCharacters) {
    return found.state === 'open' ? streamOf(gateways, session, found.response, skipCharacters) : null;
  }

  return {
    async resumableStream(streamId, makeStream, skipCharacters, cancellation) {
      const session = gateways.session(streamId);
      const found = (await gateways.newest(session)) ?? (await gateways.claimed(session));
      return found ? resumed(session, found, skipCharacters) : made(session, makeStream, cancellation);
    },

    async createNewResumableStream(streamId, makeStream, _skipCharacters, cancellation) {
      return made(gateways.session(streamId), makeStream, cancellation);
    },

    async resumeExistingStream(streamId, skipCharacters) {
      const session = gateways.session(streamId);
      const found = await gateways.newest(session);
      return found && resumed(session, found, skipCharacters);
    },

    async hasExistingStream(streamId) {
      const found = await gateways.newest(gateways.session(streamId));
      if (!found) return null;
      return found.state === 'open' ? true : 'DONE';
    },

    async sendCancellationSignal(streamId) {
      const session = gateways.session(streamId);
      const found = await gateways.newest(session);
      if (found?.state === 'open') await gateways.ask('POST', session, `/responses/${found.response}/cancel`, { key: randomKey() });
    },
  };
}

/** A gateway's refusal. */
class Refusal extends Error {
  constructor(status, { detail, type, n } = {}) {
    super(detail ?? `The gateway answered ${status}.`);
    this.status = status;
    this.problem = type?.replace('urn:baton:problem:', '');
    /** What the stream has. */
    this.n = n;
  }

  static async of(answer) {
    return new Refusal(answer.status, await answer.json().catch(() => undefined));
  }

  /** The same may be asked again, and anything that is not a gateway's own word. */
  get isPassing() {
    return passing.has(this.status);
  }
}

const isPassing = (failure) => !(failure instanceof Refusal) || failure.isPassing;

/** How gateways are asked, in turn. */
class Gateways {
  #urls;
  #token;
  #prefix;
  /** The one whose turn it is. */
  #at = 0;

  constructor({ url, token, keyPrefix = 'resumable-stream' }) {
    const { BATON_URL, BATON_TOKEN } = globalThis.process?.env ?? {};
    this.#urls = [url ?? BATON_URL?.split(/[\s,]+/).filter(Boolean) ?? 'http://127.0.0.1:8080'].flat();
    this.#token = token ?? BATON_TOKEN;
    this.#prefix = keyPrefix;
    for (const one of this.#urls) sessionURL(one, this.session(''), {});
  }

  /** A stream's id may have characters that a session's name has not. */
  session(streamId) {
    const name = `${this.#prefix}:${streamId}`.replace(/[^A-Za-z0-9._:@-]/gu, (one) =>
      Array.from(new TextEncoder().encode(one), (byte) => `~${byte.toString(16).padStart(2, '0')}`).join(''),
    );
    if (name.length > 128) throw new TypeError(`A stream's id and prefix may have 128 characters, not ${name.length}.`);
    return name;
  }

  async request(method, session, path, { query = {}, headers, ...rest } = {}) {
    const token = typeof this.#token === 'function' ? await this.#token() : this.#token;
    const url = sessionURL(this.#urls[this.#at % this.#urls.length], session + path, query);
    const all = { ...(token ? { Authorization: `Bearer ${token}` } : {}), ...headers };
    return fetch(url, { method, headers: all, cache: 'no-store', ...rest });
  }

  /** The next one has its turn, after a pause that grows. */
  async next(attempt) {
    this.#at += 1;
    await pause(Math.min(50 * 2 ** attempt, 2000) * (0.5 + Math.random() / 2));
  }

  /** Asks until one answers. What is asked may be asked twice. */
  async ask(method, session, path, { key, type = 'application/json', body, query } = {}) {
    const headers = { ...(body === undefined ? {} : { 'Content-Type': type }), ...(key ? { 'Idempotency-Key': key } : {}) };
    const begun = performance.now();
    for (let attempt = 0; ; attempt++) {
      try {
        const answer = await this.request(method, session, path, { headers, body, query, signal: AbortSignal.timeout(answerWithin) });
        if (answer.ok) return await answer.json();
        throw await Refusal.of(answer);
      } catch (failure) {
        if (!isPassing(failure) || performance.now() - begun > giveUpAfter) throw failure;
      }
      await this.next(attempt);
    }
  }

  /** Of the streams under an id the one that was written last. @returns {Promise<{response: string, state: string}|undefined>} */
  async newest(session) {
    return (await this.ask('GET', session, '/responses')).responses[0];
  }

  /** Of those that come at the same time one makes the stream, and gets undefined; the others get what it begins. */
  async claimed(session) {
    for (let turn = 1; turn <= maxTurns; turn++) {
      try {
        // The same key with another body is a conflict, and with the same body it is the same request.
        await this.ask('POST', session, '', { key: `resumable-stream ${turn}`, body: JSON.stringify({ event: 'claim', data: randomKey() }) });
        return undefined;
      } catch (failure) {
        if (failure.problem !== 'key-conflict') throw failure;
      }
      for (const begun = performance.now(); performance.now() - begun < beginWithin; await pause(50)) {
        const found = await this.newest(session);
        if (found) return found;
      }
      // Who was to make it has died, or was refused.
    }
    throw new Error('Nobody of those who were to make this stream has begun it.');
  }

  /**
   * The frames of an event stream, which is opened again wherever it breaks off.
   * @param {(frame: object) => string|undefined} placeOf where to go on after a frame
   * @param {AbortSignal} signal ends it
   */
  async *frames(session, path, query, placeOf, signal) {
    let place;
    for (let [attempt, heard] = [0, performance.now()]; !signal.aborted; attempt++) {
      const stop = new AbortController();
      const abort = () => stop.abort();
      signal.addEventListener('abort', abort, { once: true });
      const opened = performance.now();
      try {
        const headers = { Accept: 'text/event-stream', ...(place === undefined ? {} : { 'Last-Event-ID': place }) };
        const answer = await within(silence, this.request('GET', session, path, { query, headers, signal: stop.signal }));
        if (answer.status === 204) return;
        if (!answer.ok) throw await Refusal.of(answer);
        const told = [];
        const parser = new EventParser(({ event, frame }) => event === 'frame' && told.push(frame));
        const decoder = new TextDecoder();
        const reader = answer.body.getReader();
        for (let piece = await within(silence, reader.read()); !piece.done; piece = await within(silence, reader.read())) {
          parser.feed(decoder.decode(piece.value, { stream: true }));
          const isAway = told.some(({ type }) => type === 'stalled' || type === 'draining');
          if (!isAway) heard = performance.now();
          for (const frame of told.splice(0)) {
            // Who lets everybody in, and says no more, is not asked faster for that.
            const isNews = frame.type !== 'attached' && frame.type !== 'live';
            if (!isAway && (isNews || performance.now() - opened > 5000)) attempt = 0;
            place = placeOf(frame) ?? place;
            yield frame;
          }
          // However long it took whoever reads them.
          if (!isAway) heard = performance.now();
        }
      } catch (failure) {
        if (signal.aborted) return;
        if (!isPassing(failure) || performance.now() - heard > giveUpAfter) throw failure;
      } finally {
        signal.removeEventListener('abort', abort);
        stop.abort();
      }
      await this.next(attempt);
    }
  }
}

/** Of whatever was thrown. */
function textOf(error) {
  try {
    return String(error?.message ?? error);
  } catch {
    return 'unknown';
  }
}

/** A stream of a session as it was made, but for its first characters. */
function streamOf(gateways, session, response, skipCharacters = 0) {
  const stop = new AbortController();
  const frames = gateways.frames(session, '', { response }, ({ id, offset }) => id ?? offset, stop.signal);
  let [left, n] = [skipCharacters, 0];
  const pull = async (controller) => {
    for (let next = await frames.next(); !next.done; next = await frames.next()) {
      const frame = next.value;
      if (frame.type === 'reset' && n > 0) throw new Error(`The stream does not go on (${frame.reason}).`);
      if (frame.event === 'error') throw new Error(wordsOf(frame));
      if (ends.has(frame.event)) {
        stop.abort();
        return controller.close();
      }
      if (frame.part !== part || frame.n <= n) continue;
      n = frame.n;
      const text = frame.data.slice(left);
      left -= frame.data.length - text.length;
      if (text) return controller.enqueue(text);
    }
    throw new Error('The stream is not there any more.');
  };
  return new ReadableStream(
    {
      pull: (controller) =>
        pull(controller).catch((error) => {
          stop.abort();
          throw error;
        }),
      cancel: () => stop.abort(),
    },
    { highWaterMark: 0 },
  );
}

function wordsOf({ data }) {
  let told;
  try {
    told = JSON.parse(data);
  } catch {}
  return told?.message ?? told?.reason ?? 'The stream broke off.';
}

/** A stream that is being made: uploaded, and told to who makes it. */
class Production {
  #gateways;
  #session;
  #cancellation;
  #response = `rs_${randomKey().slice(0, 24)}`;
  /** What no gateway has confirmed. */
  #lines = [];
  #waiting = 0;
  #n = 0;
  /** The first half of a character. */
  #half = '';
  #changed = signal();
  #isOver = false;
  #isCancelled = false;
  /** Why nothing is uploaded any more. */
  #failure;
  #copy;
  #reader;
  #timer;
  #stop = new AbortController();

  constructor(gateways, session, cancellation) {
    [this.#gateways, this.#session, this.#cancellation] = [gateways, session, cancellation];
    this.#copy = new Copy((from) => streamOf(gateways, session, this.#response, from));
  }

  get stream() {
    return this.#copy.stream;
  }

  #line(members) {
    return `${JSON.stringify({ response: this.#response, ...members })}\n`;
  }

  /** The response has begun when this returns. */
  async begin() {
    await this.#gateways.ask('POST', this.#session, '', {
      type: 'application/x-ndjson',
      query: { epoch: '1', lease: 'keep' },
      body: this.#line({ event: 'start' }),
    });
  }

  /** Until all is uploaded. */
  async run(makeStream) {
    const uploading = this.#upload();
    const listening = this.#listen().catch(() => {});
    try {
      this.#reader = makeStream().getReader();
      if (this.#isCancelled) this.#leave();
      for (let next = await this.#reader.read(); !next.done; next = await this.#reader.read()) {
        if (typeof next.value !== 'string') throw new TypeError('A resumable stream is one of strings: use TextDecoderStream.');
        this.#copy.push(next.value);
        this.#append(next.value);
        while (this.#waiting > maxWaiting && !this.#failure) await this.#changed.next();
      }
      this.#end(this.#isCancelled ? 'cancelled' : 'end');
    } catch (error) {
      if (this.#isCancelled) this.#end('cancelled');
      else this.#end('error', error);
      this.#leave();
    }
    await uploading;
    this.#stop.abort();
    clearTimeout(this.#timer);
    await listening;
  }

  /** What makes the stream may have something to say about its end. */
  #cancel() {
    this.#isCancelled = true;
    this.#cancellation?.abort();
    if (this.#cancellation) this.#timer = setTimeout(() => this.#leave(), endWithin);
    else this.#leave();
  }

  #leave() {
    this.#reader?.cancel().catch(() => {});
  }

  #append(value) {
    const text = this.#half + value;
    const isWhole = !/[\uD800-\uDBFF]$/.test(text);
    this.#half = isWhole ? '' : text.slice(-1);
    for (let rest = isWhole ? text : text.slice(0, -1); rest !== ''; ) {
      const cut = rest.length > maxPiece && /[\uD800-\uDBFF]/.test(rest[maxPiece - 1]) ? maxPiece - 1 : maxPiece;
      this.#take({ n: ++this.#n, part, data: rest.slice(0, cut) }, cut);
      rest = rest.slice(cut);
    }
  }

  #end(event, error) {
    this.#copy.end(event === 'error' ? error : undefined);
    if (this.#half) this.#take({ n: ++this.#n, part, data: this.#half }, 1);
    const message = textOf(error).slice(0, 1000);
    this.#take({ event, ...(event === 'error' && { data: JSON.stringify({ reason: 'stream_error', message }) }) }, 0);
    this.#isOver = true;
    this.#changed.tell();
  }

  #take(members, size) {
    if (this.#failure) return;
    this.#lines.push({ text: this.#line(members), n: members.n ?? Infinity, size });
    this.#waiting += size;
    this.#changed.tell();
  }

  /** A gateway has so many. */
  #confirmed(n) {
    while (this.#lines.length > 0 && this.#lines[0].n <= n) this.#waiting -= this.#lines.shift().size;
    this.#changed.tell();
  }

  /** Upload after upload, each of which begins with what is not confirmed: what a gateway has is not appended again. */
  async #upload() {
    for (let [attempt, heard] = [0, performance.now()]; !(this.#isOver && this.#lines.length === 0); ) {
      try {
        this.#confirmed(await this.#uploaded());
        [attempt, heard] = [0, performance.now()];
        continue;
      } catch (failure) {
        if (failure.n !== undefined) this.#confirmed(failure.n);
        const isBehind = failure.problem === 'gap' && this.#lines[0]?.n <= failure.n + 1;
        if ((!isBehind && !isPassing(failure)) || performance.now() - heard > giveUpAfter) return this.#give(failure);
      }
      await this.#gateways.next(attempt++);
    }
  }

  #give(failure) {
    this.#failure = failure;
    [this.#lines, this.#waiting] = [[], 0];
    // One that has ended is there to be read.
    if (failure.problem !== 'ended') this.#copy.lose(failure);
    this.#changed.tell();
  }

  /** One upload; returns the number of the last line in it, once a gateway has confirmed it. */
  async #uploaded() {
    const stop = new AbortController();
    const encoder = new TextEncoder();
    let [index, size, n, isDue] = [0, 0, 0, false];
    let timer = setTimeout(() => {
      isDue = true;
      this.#changed.tell();
    }, uploadFor);
    const body = new ReadableStream({
      start: (controller) => controller.enqueue(encoder.encode(this.#line({ event: 'start' }))),
      pull: async (controller) => {
        while (index === this.#lines.length && !this.#isOver && !isDue) await this.#changed.next();
        if (index === this.#lines.length || size > maxUpload) {
          clearTimeout(timer);
          timer = setTimeout(() => stop.abort(), answerWithin);
          return controller.close();
        }
        let text = '';
        for (; index < this.#lines.length && text.length < maxPiece; index++) {
          text += this.#lines[index].text;
          [n, size] = [this.#lines[index].n, size + this.#lines[index].size];
        }
        controller.enqueue(encoder.encode(text));
      },
    });
    try {
      const query = { epoch: '1', lease: 'keep' };
      const headers = { 'Content-Type': 'application/x-ndjson' };
      const answer = await this.#gateways.request('POST', this.#session, '', { query, headers, body, duplex: 'half', signal: stop.signal });
      if (!answer.ok) throw await Refusal.of(answer);
      await answer.arrayBuffer();
      return n;
    } finally {
      clearTimeout(timer);
      stop.abort();
    }
  }

  /** Whoever cancels it, on any device. */
  async #listen() {
    const frames = this.#gateways.frames(this.#session, `/responses/${this.#response}/controls`, {}, ({ id }) => id, this.#stop.signal);
    for await (const { event } of frames) {
      if (ends.has(event)) return;
      if (event === 'cancel') return this.#cancel();
    }
  }
}

/** What is made, for who makes it: from memory, and from a gateway where more waits than is kept. */
class Copy {
  #resume;
  #pieces = [];
  #waiting = 0;
  #told = 0;
  #state = 'open';
  #error;
  /** Why no gateway has the rest. */
  #lost;
  #remote;
  #isLeft = false;
  #changed = signal();

  constructor(resume) {
    this.#resume = resume;
    this.stream = new ReadableStream(
      {
        pull: (controller) => this.#pull(controller),
        cancel: () => {
          [this.#isLeft, this.#pieces] = [true, []];
          return this.#remote?.cancel();
        },
      },
      { highWaterMark: 0 },
    );
  }

  push(text) {
    if (this.#isLeft || this.#state !== 'open') return;
    this.#pieces.push(text);
    this.#waiting += text.length;
    if (this.#waiting > maxWaiting) this.#fallBehind();
    this.#changed.tell();
  }

  end(error) {
    if (this.#state === 'open') [this.#state, this.#error] = ['ended', error];
    this.#changed.tell();
  }

  lose(error) {
    this.#lost = error;
    if (this.#state === 'behind' && !this.#remote) this.#fallBehind();
    this.#changed.tell();
  }

  #fallBehind() {
    [this.#state, this.#pieces, this.#error] = [this.#lost ? 'ended' : 'behind', [], this.#lost];
  }

  async #pull(controller) {
    for (;;) {
      if (this.#pieces.length > 0) {
        const text = this.#pieces.shift();
        this.#waiting -= text.length;
        this.#told += text.length;
        return controller.enqueue(text);
      }
      if (this.#state === 'behind') {
        this.#remote ??= this.#resume(this.#told).getReader();
        const { done, value } = await this.#remote.read();
        return done ? controller.close() : controller.enqueue(value);
      }
      if (this.#state === 'ended') return this.#error === undefined ? controller.close() : controller.error(this.#error);
      await this.#changed.next();
    }
  }
}

/** Wakes whoever waits. */
function signal() {
  let wake, woken;
  const renew = () => (woken = new Promise((resolve) => (wake = resolve)));
  renew();
  return {
    next: () => woken,
    tell() {
      wake();
      renew();
    },
  };
}

function pause(ms) {
  return new Promise((resolve) => setTimeout(resolve, ms));
}

/** @template T @param {Promise<T>} promised @returns {Promise<T>} */
function within(ms, promised) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error('Nothing was heard of the gateway.')), ms);
  });
  return Promise.race([promised, late]).finally(() => clearTimeout(timer));
}
