// Baton in the browser. It goes on by itself across lost connections, gateways, sleep and networks:
//
//   import { attach } from 'https://gateway.example/baton.js';
//   const chat = attach('https://gateway.example', 'chat-42', {
//     ontext: (text, response) => { document.getElementById('answer').textContent = text; },
//   });
//
// What decides is in baton-machine.js, what is shown in baton-text.js, what is sent in baton-wire.js;
// this file joins them to the page. Nothing is shared between tabs: each is a device of its own.

import { BatonMachine } from './baton-machine.js';
import { pageStore, randomKey, realPlatform, reportError } from './baton-page.js';
import { Reader } from './baton-reader.js';
import { Responses } from './baton-text.js';
import { openEventStream, openWebSocket, sessionURL } from './baton-wire.js';

const sessionName = /^(?!\.{1,2}$)[A-Za-z0-9._~:@-]{1,128}$/;
const maxFrame = 64 * 1024; // PROTOCOL.md section 5
const saveEvery = 1000;
const probeFor = 10_000;

export class BatonError extends Error {
  /** @param {string} code @param {string} message @param {object} [detail] */
  constructor(code, message, detail = {}) {
    super(message);
    this.name = 'BatonError';
    this.code = code;
    Object.assign(this, detail);
  }
}

/**
 * Attaches to a session; stays attached until `close()`, an end (`until: 'end'`, `response`) or a refusal.
 * @param {string|string[]} urls Gateways to take turns with; '' is the page's own origin.
 * @param {string} session 1 to 128 characters out of A-Z a-z 0-9 . _ ~ : @ -
 * @param {import('./baton.js').Options} [options]
 * @throws {TypeError} if the session's name, or a URL, is not one
 */
export function attach(urls, session, options = {}) {
  return new Session([urls].flat(), session, options);
}

class Session {
  #urls;
  #machine;
  #platform;
  #responses;
  #connection = undefined;
  #connections = 0;
  #timer = undefined;
  #events = [];
  #acting = false;
  #suspended = new Set();
  #answers = new Map();
  #token = undefined;
  #askingForToken = false;
  #reader = undefined;
  #saveTimer = undefined;
  #page = new AbortController();

  constructor(urls, session, options) {
    if (!sessionName.test(session)) throw new TypeError(`not a session's name: ${session}`);
    if (urls.length === 0) throw new TypeError('no gateway to attach to');
    for (const url of urls) sessionURL(url, session, {});
    this.#urls = urls;
    this.session = session;
    this.options = options;
    /** The gateway's name, once attached. @type {string|undefined} */
    this.node = undefined;
    this.#platform = { ...realPlatform(), ...options.platform };
    /** Resolves when this session ends, with the reason. */
    this.ended = new Promise((resolve) => (this.#settleEnd = resolve));
    queueMicrotask(() => this.#begin());
  }

  #settleEnd = (_) => {};

  /** The place after the last entry that was delivered. Undefined until a gateway named one. */
  get offset() {
    return this.#machine?.offset;
  }

  /** connecting, behind, live, stalled, waiting, unauthorized, suspended or ended. */
  get state() {
    return this.#machine?.state ?? 'connecting';
  }

  /** `websocket`, or `sse` while WebSocket does not get through. */
  get transport() {
    return this.#machine?.transport ?? 'websocket';
  }

  /** The URL in use. */
  get url() {
    return this.#urls[this.#machine?.url ?? 0];
  }

  /** By name: text, number of the last delta, and `open`, `end`, `error` or `cancelled`. */
  get responses() {
    return this.#responses?.all ?? new Map();
  }

  /** The text of a response so far; without a name: of the entries that have none. */
  text(response = '') {
    return this.responses.get(response)?.text ?? '';
  }

  /** Adds what a person typed to the session, for every device and for the running answer. Safe to repeat with the same key. */
  input(data, { key = randomKey() } = {}) {
    return this.#submit({ type: 'input', key, data });
  }

  /** Asks the producer of a response to stop. Safe to repeat with the same key. */
  cancel(response, { key = randomKey() } = {}) {
    return this.#submit({ type: 'cancel', key, response });
  }

  /** Goes to the next gateway now, at the same place. */
  move() {
    this.#tell({ event: 'move' });
  }

  close() {
    this.#tell({ event: 'close' });
  }

  /**
   * Every event from now on. One reader at a time; leaving the loop closes the session. A reader that lags by more than
   * `maxBuffer` bytes suspends the connection, which goes on at its place when the reader has caught up.
   */
  [Symbol.asyncIterator]() {
    if (this.#reader) throw new BatonError('one_reader', 'a session is read by one loop at a time');
    this.#reader = new Reader(this.options.maxBuffer ?? 1024 * 1024, {
      full: () => this.#suspend('reader'),
      empty: () => this.#resume('reader'),
      left: () => this.close(),
    });
    if (this.#endInfo) this.#reader.end(refusal(this.#endInfo));
    return this.#reader;
  }

  #endInfo = undefined;
  #problem = undefined;

  async #begin() {
    const { offset, last, response, rollup, until, device, token, store } = this.options;
    let kept;
    try {
      kept = offset === undefined ? await this.#store?.load() : undefined;
    } catch (error) {
      this.#give({ type: 'error', code: 'store', message: `what was kept could not be read: ${error}` });
    }
    if (this.#endInfo) return;
    const start = kept?.offset ?? offset;
    this.#responses = new Responses(start, kept?.responses);
    this.#machine = new BatonMachine({
      urls: this.#urls.length,
      offset: start,
      last,
      response,
      rollup,
      until,
      device,
      renewsToken: typeof token === 'function',
      sse: true,
    });
    this.#token = typeof token === 'string' ? token : undefined;
    this.#watchPage();
    for (const name of this.responses.keys()) this.#giveText(name, '');
    this.#events.unshift({ event: 'start' });
    this.#tell();
  }

  // Events in, actions out; an event that comes while acting waits for its turn

  #tell(event) {
    if (event) this.#events.push(event);
    if (this.#acting || !this.#machine) return;
    this.#acting = true;
    try {
      for (let next = this.#events.shift(); next; next = this.#events.shift()) {
        const now = { at: this.#platform.now(), random: this.#platform.random() };
        for (const action of this.#machine.handle({ ...now, ...next })) this.#try(() => this.#act(action));
      }
    } finally {
      this.#acting = false;
    }
  }

  #act(action) {
    switch (action.do) {
      case 'connect':
        return void this.#connect(action);
      case 'disconnect':
        return this.#disconnect(action.code);
      case 'send':
        return this.#connection?.send(action.frame);
      case 'timer':
        this.#platform.clearTimeout(this.#timer);
        this.#timer = this.#platform.setTimeout(() => this.#tell({ event: 'timer' }), action.ms);
        return;
      case 'deliver':
        return this.#deliver(action.frame);
      case 'settle':
        return this.#settle(action);
      case 'needToken':
        return void this.#renewToken();
      case 'probe':
        return void this.#probe();
      case 'state':
        return this.#call('onstate', action.state);
      case 'end':
        return this.#end(action);
    }
  }

  async #connect({ url, transport, query }) {
    const number = ++this.#connections;
    const tell = (event) => {
      if (number !== this.#connections) return;
      this.#problem = event.detail;
      this.#tell(event);
    };
    try {
      await this.#firstToken();
      if (number !== this.#connections) return;
      const open = transport === 'sse' ? openEventStream : openWebSocket;
      this.#connection = open(this.#platform, sessionURL(this.#urls[url], this.session, query), this.#token, tell);
    } catch (error) {
      if (number === this.#connections) this.#give({ type: 'error', code: 'connect', message: String(error?.message ?? error) });
      tell({ event: 'failed' });
    }
  }

  #disconnect(code) {
    this.#connections += 1;
    this.#connection?.close(code);
    this.#connection = undefined;
  }

  #probe() {
    const number = this.#connections;
    const query = { offset: '$', ...(this.options.device && { device: this.options.device }) };
    let wire;
    const settle = (passed) => {
      this.#platform.clearTimeout(deadline);
      wire?.close(1000);
      wire = undefined;
      if (number === this.#connections) this.#tell({ event: 'probed', passed });
    };
    const deadline = this.#platform.setTimeout(() => settle(false), probeFor);
    try {
      wire = openWebSocket(this.#platform, sessionURL(this.url, this.session, query), this.#token, ({ event }) => {
        if (event !== 'opened' && wire) settle(event === 'frame');
      });
    } catch {
      settle(false);
    }
  }

  // What comes, to the app

  #deliver(frame) {
    if (frame.type === undefined) return this.#entry(frame);
    if (frame.type === 'attached') this.node = frame.node;
    if (frame.type === 'reset') return this.#reset(frame);
    this.#give(frame);
  }

  #entry(entry) {
    const added = this.#responses.add(entry);
    this.#give({ type: 'entry', ...entry });
    if (added !== undefined) this.#giveText(entry.response ?? '', added);
    this.#saveSoon();
  }

  #reset(frame) {
    const known = [...this.responses].map(([name, { text }]) => [name, text]);
    if (!this.#responses.dropAfter(frame.from)) return this.#tell({ event: 'replay' });
    this.#give(frame);
    for (const [name, text] of known) if (this.text(name) !== text) this.#giveText(name, undefined);
    this.#save();
  }

  #give(event) {
    this.#call(`on${event.type}`, event);
    this.#reader?.push(event);
  }

  /** @param {string|undefined} added undefined where text was taken back */
  #giveText(response, added) {
    this.#call('ontext', this.text(response), response, added);
  }

  #call(name, ...values) {
    this.#try(() => this.options[name]?.(...values));
  }

  /** Neither the app's mistake nor the platform's must stop the stream. */
  #try(step) {
    try {
      step();
    } catch (error) {
      reportError(error);
    }
  }

  #end(action) {
    const { do: _, ...info } = action;
    if (this.#problem) info.detail = this.#problem;
    this.#endInfo = info;
    this.#save();
    this.#disconnect(1000);
    this.#platform.clearTimeout(this.#timer);
    this.#platform.clearTimeout(this.#saveTimer);
    this.#page.abort();
    this.#call('onend', info);
    this.#reader?.end(refusal(info));
    this.#settleEnd(info);
  }

  // What the app says

  #submit(frame) {
    if (new TextEncoder().encode(JSON.stringify(frame)).length > maxFrame) {
      return Promise.reject(new BatonError('too_big', 'an input may take 64 KiB'));
    }
    if (this.#answers.has(frame.key)) return Promise.reject(new BatonError('key_conflict', 'this key waits for its answer'));
    if (this.#endInfo) return Promise.reject(new BatonError('ended', submitErrors.ended));
    return new Promise((resolve, reject) => {
      this.#answers.set(frame.key, { resolve, reject });
      this.#tell({ event: 'submit', frame });
    });
  }

  #settle({ key, inboxId, error, message }) {
    const answer = this.#answers.get(key);
    this.#answers.delete(key);
    if (error === undefined) answer?.resolve({ key, inboxId });
    else answer?.reject(new BatonError(error, message ?? submitErrors[error] ?? error));
  }

  // Tokens

  async #firstToken() {
    if (this.#token === undefined && typeof this.options.token === 'function') this.#token = await this.options.token();
  }

  async #renewToken() {
    if (this.#askingForToken) return;
    this.#askingForToken = true;
    for (let pause = 500; !this.#endInfo; pause = Math.min(pause * 2, 30_000)) {
      try {
        this.#token = await this.options.token();
        break;
      } catch (error) {
        this.#give({ type: 'error', code: 'token', message: `no new token: ${error?.message ?? error}` });
        await new Promise((resolve) => this.#platform.setTimeout(resolve, pause * (0.5 + this.#platform.random())));
      }
    }
    this.#askingForToken = false;
    this.#tell({ event: 'token', token: this.#token });
  }

  // The page's life

  #suspend(cause) {
    this.#suspended.add(cause);
    if (this.#suspended.size === 1) this.#tell({ event: 'suspend' });
  }

  #resume(cause) {
    if (this.#suspended.delete(cause) && this.#suspended.size === 0) this.#tell({ event: 'resume' });
  }

  #watchPage() {
    const { window, document } = this.#platform;
    const on = (target, name, then) => target?.addEventListener?.(name, then, { signal: this.#page.signal });
    on(window, 'online', () => this.#tell({ event: 'online' }));
    on(window, 'offline', () => this.#tell({ event: 'offline' }));
    on(window, 'pagehide', () => {
      this.#save();
      this.#suspend('page'); // an open socket would keep the page out of the back/forward cache
    });
    on(window, 'pageshow', () => this.#resume('page'));
    on(document, 'freeze', () => this.#save());
    on(document, 'resume', () => this.#tell({ event: 'wake' }));
    on(document, 'visibilitychange', () => {
      if (document.visibilityState === 'visible') this.#tell({ event: 'wake' });
      else this.#save();
    });
  }

  // What outlives the page: the offset together with the text before it

  get #store() {
    const { store } = this.options;
    return store === 'session' ? pageStore(this.#platform.sessionStorage, this.session, this.options.device) : store;
  }

  #saveSoon() {
    if (!this.options.store || this.#saveTimer !== undefined) return;
    this.#saveTimer = this.#platform.setTimeout(() => this.#save(), saveEvery);
  }

  #save() {
    this.#platform.clearTimeout(this.#saveTimer);
    this.#saveTimer = undefined;
    const responses = this.#store && this.#responses?.snapshot();
    if (!responses || this.offset === undefined) return;
    try {
      Promise.resolve(this.#store.save({ offset: this.offset, responses })).catch(reportError);
    } catch (error) {
      reportError(error);
    }
  }
}

const submitErrors = {
  ended: 'the session is closed on this device',
  needs_websocket: 'this network lets no WebSocket through: reading works, sending does not',
  too_many: 'too many inputs wait for their answer',
};

function refusal({ reason, code, status, detail }) {
  if (reason !== 'rejected') return undefined;
  const why = detail ?? {
    401: 'the token is missing, wrong or expired',
    4401: 'the token is missing, wrong or expired',
    403: 'the token does not allow this session',
    4403: 'the token does not allow this session',
  }[status ?? code];
  const what = status ? `HTTP status ${status}` : `close code ${code}`;
  return new BatonError('rejected', `the gateway refused this session: ${why ?? what}`, status ? { status } : { closeCode: code });
}
