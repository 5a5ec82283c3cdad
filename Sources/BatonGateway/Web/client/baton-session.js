// One session in a page: events from the wires and the page go into the machine, and what it decides is done.

import { BatonMachine } from './baton-machine.js';
import { Connector } from './baton-connector.js';
import { BatonError, refusal, submitErrors } from './baton-error.js';
import { Keeper, tabStore } from './baton-keeper.js';
import { isBlockable, isTooOld, oldest, randomKey, realPlatform, reportError, watchPage, wellFormed } from './baton-page.js';
import { Reader, ResponseReader } from './baton-reader.js';
import { Responses } from './baton-text.js';
import { sessionURL } from './baton-wire.js';

const sessionName = /^(?!\.{1,2}$)[A-Za-z0-9._~:@-]{1,128}$/;
const maxFrame = 64 * 1024; // bytes, section 5 of the protocol

class BatonEvent extends Event {
  constructor(type, detail) {
    super(type);
    this.detail = detail;
  }
}

export class Session extends EventTarget {
  #urls;
  #machine;
  #platform;
  #responses;
  #connector;
  #keeper = undefined;
  #timer = undefined;
  #events = [];
  #acting = false;
  #suspended = new Set();
  #answers = new Map();
  #reader = undefined;
  #responseReaders = new Set();
  #page = new AbortController();
  #endInfo = undefined;
  #problem = undefined;
  /** The end was told: nothing comes after it. */
  #isOver = false;
  #warned = false;
  #replayed = false;
  /** A gateway has let this person in: only now what was kept is shown. */
  #isLetIn = false;
  /** Where what is shown ends; `attached` alone moves it only where nothing is shown. */
  #shownTo = undefined;

  constructor(urls, session, options) {
    super();
    if (!sessionName.test(session)) throw new TypeError(`not a session's name: ${session}`);
    if (urls.length === 0) throw new TypeError('no gateway to attach to');
    for (const url of urls) sessionURL(url, session, {});
    if (isTooOld()) throw new TypeError(`this browser is too old; Baton needs ${oldest}`);
    this.#urls = urls;
    this.session = session;
    this.options = options;
    /** The gateway's name, once attached. @type {string|undefined} */
    this.node = undefined;
    this.#platform = { ...realPlatform(), ...options.platform };
    this.#connector = new Connector({
      urls,
      session,
      options,
      platform: this.#platform,
      tell: (event) => {
        if (event.detail) this.#problem = event.detail;
        this.#tell(event);
      },
      complain: (code, message) => this.#complain(code, message),
    });
    /** Resolves when this session ends, with the reason. */
    this.ended = new Promise((resolve) => (this.#settleEnd = resolve));
    if (options.signal) {
      const abort = () => this.close();
      if (options.signal.aborted) queueMicrotask(abort);
      else options.signal.addEventListener('abort', abort, { once: true, signal: this.#page.signal });
    }
    queueMicrotask(() => this.#begin());
  }

  #settleEnd = (_) => {};

  /** The place after the last entry that was delivered. Undefined until a gateway named one. */
  get offset() {
    return this.#machine?.offset;
  }

  /** connecting, behind, live, stalled, waiting, unauthorized, suspended or ended. */
  get state() {
    if (this.#endInfo) return 'ended';
    return this.#machine?.state ?? 'connecting';
  }

  /** `websocket`; `sse` while that does not get through; `pages` while neither does. */
  get transport() {
    return this.#machine?.transport ?? 'websocket';
  }

  /** The URL in use. */
  get url() {
    return this.#urls[this.#machine?.url ?? 0];
  }

  /** By name: text, number of the last delta, and `open`, `end`, `error` or `cancelled`. */
  get responses() {
    return (this.#isLetIn && this.#responses?.all) || new Map();
  }

  /** The inputs and cancels that wait for their answer, oldest first; those of before a reload, too. */
  get unanswered() {
    return [...(this.#machine?.unanswered.values() ?? [])];
  }

  /** The text of a response so far; without a name: of the entries that have none. */
  text(response = '') {
    return this.responses.get(response)?.text ?? '';
  }

  /** One response as it grows, for `for await`; ends with it. */
  response(name) {
    const reader = new ResponseReader(name, () => this.responses.get(name), () => this.#responseReaders.delete(reader));
    this.#responseReaders.add(reader);
    if (this.#endInfo) reader.end(refusal(this.#endInfo));
    return reader;
  }

  /** Adds what a person typed to the session, for every device and for the running answer. Safe to repeat with the same key. */
  input(data, { key = randomKey(), signal } = {}) {
    return this.#submit({ type: 'input', key: wellFormed(key), data: wellFormed(data) }, signal);
  }

  /** Asks the producer of a response to stop. Safe to repeat with the same key. */
  cancel(response, { key = randomKey(), signal } = {}) {
    return this.#submit({ type: 'cancel', key: wellFormed(key), response }, signal);
  }

  /** Goes to the next gateway now, at the same place. */
  move() {
    this.#tell({ event: 'move' });
  }

  close() {
    if (this.#endInfo) return;
    this.#events = [];
    if (!this.#machine) return this.#end({ reason: 'closed' });
    this.#handle({ event: 'close' }); // at once, also within a callback: nothing is told after it
  }

  /** For sign-out: closes, and removes what was kept of this session. */
  forget() {
    this.close();
    if (this.#keeper) this.#keeper.forget();
    else this.#store()?.forget?.(); // as far as it is known whose it is
  }

  /**
   * Every event from now on. One reader at a time; leaving the loop closes the session. A reader that lags by more than
   * `maxBuffer` bytes suspends the connection, which goes on at its place when the reader has caught up.
   */
  [Symbol.asyncIterator]() {
    if (this.#reader) throw new BatonError('one_reader', 'a session is read by one loop at a time');
    this.#reader = new Reader(this.options.maxBuffer ?? 1024 * 1024, {
      full: () => {
        this.#suspend('reader');
        this.#skimIfNeeded();
      },
      empty: () => this.#resume('reader'),
      left: () => this.close(),
    });
    if (this.#endInfo) this.#reader.end(refusal(this.#endInfo));
    return this.#reader;
  }

  async #begin() {
    await this.#connector.firstToken();
    if (this.#endInfo) return;
    const { offset, last, response, rollup, until, device, token } = this.options;
    this.#keeper = new Keeper(this.#store(), {
      platform: this.#platform,
      snapshot: () => this.#snapshot(),
      complain: (code, message) => this.#complain(code, message),
    });
    const kept = await this.#keeper.load();
    if (this.#endInfo) return;
    const start = kept?.offset ?? offset;
    this.#shownTo = kept?.offset;
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
      // Its end lies before the place that was kept.
      isFinished: response !== undefined && (this.#responses.all.get(response)?.state ?? 'open') !== 'open',
      sse: true,
      pages: true,
    });
    this.#watchPage();
    for (const url of this.#urls) if (isBlockable(url)) this.#complain('mixed_content', `this page came over https and ${url} is http: most browsers block that`);
    const before = this.#keeper.loadUnanswered().map((frame) => ({ event: 'submit', frame }));
    for (const { text } of this.#answers.values()) this.#keeper.saveUnanswered(JSON.parse(text));
    this.#events.unshift({ event: 'start' }, ...before);
    this.#tell();
  }

  // Events in, actions out; an event that comes while acting waits for its turn

  #tell(event) {
    if (this.#endInfo) return;
    if (event) this.#events.push(event);
    if (this.#acting || !this.#machine) return;
    this.#acting = true;
    try {
      for (let next = this.#events.shift(); next; next = this.#events.shift()) this.#handle(next);
    } finally {
      this.#acting = false;
    }
  }

  #handle(event) {
    const now = { at: this.#platform.now(), random: this.#platform.random() };
    for (const action of this.#machine.handle({ ...now, ...event })) {
      if (this.#endInfo) return;
      this.#act(action);
    }
  }

  #act(action) {
    switch (action.do) {
      case 'connect':
        this.#problem = undefined;
        return this.#connector.open(action);
      case 'disconnect':
        return this.#connector.close(action.code);
      case 'send':
        return this.#try(() => this.#connector.send(action.frame));
      case 'timer':
        this.#platform.clearTimeout(this.#timer);
        this.#timer = this.#platform.setTimeout(() => this.#tell({ event: 'timer' }), action.ms);
        return;
      case 'deliver':
        return this.#deliver(action.frame);
      case 'settle':
        return this.#settle(action);
      case 'needToken':
        if (this.state === 'unauthorized' && this.#machine.failures > 1) this.#complain('unauthorized', this.#problem ?? 'the token is missing, wrong or expired');
        return void this.#connector.renewToken(action.afterMs);
      case 'probe':
        return void this.#connector.probe(this.#machine.url, this.#machine.transport);
      case 'state':
        if (action.state === 'live') this.#warned = this.#replayed = false;
        return action.state === 'ended' ? undefined : this.#told('state', action.state, action.state);
      case 'end':
        return this.#end(action);
    }
  }

  // What comes, to the app

  /** A mistake of ours must not move the place past what was not shown: everything comes once more, then it is an end. */
  #deliver(frame) {
    try {
      if (frame.type === undefined) this.#entry(frame);
      else if (frame.type === 'reset') this.#reset(frame);
      else this.#control(frame);
    } catch (error) {
      reportError(error);
      if (this.#endInfo) return;
      if (!this.#replayed) {
        this.#replayed = true;
        return this.#tell({ event: 'replay' });
      }
      this.#complain('internal', String(error?.message ?? error));
      this.#connector.close(4000);
      this.#end({ reason: 'rejected', code: 4000, detail: 'this client can not show the session' });
    }
  }

  #control(frame) {
    if (frame.type === 'attached') {
      const showsKept = !this.#isLetIn;
      this.#isLetIn = true;
      this.#problem = undefined;
      this.node = frame.node;
      if (this.responses.size === 0) this.#shownTo = this.offset;
      this.#give(frame);
      if (!showsKept) return;
      for (const name of this.responses.keys()) this.#giveText(name, '');
      return this.#changed();
    }
    if (frame.type === 'error' && this.state === 'connecting') {
      this.#problem = frame.message; // why it will be closed
      return;
    }
    if (frame.code === 'unreachable' && frame.attempts) {
      const from = globalThis.location ? `, from a page of ${location.origin}` : '';
      const what = `no gateway said a word in ${frame.attempts} attempts, by WebSocket or HTTP, at ${this.#urls.join(', ')}${from}`;
      return this.#complain('unreachable', `${what}; it may be the network, the address, or the page's Content-Security-Policy (connect-src)`);
    }
    if (frame.offset !== undefined) this.#shownTo = this.offset;
    this.#give(frame);
  }

  #entry(entry) {
    const known = entry.event === 'start' ? [...this.responses.keys()] : [];
    const added = this.#responses.add(entry);
    this.#shownTo = this.offset;
    this.#give({ ...entry, type: 'entry' });
    for (const name of known) if (!this.responses.has(name)) this.#superseded(name);
    if (added !== undefined) this.#giveText(entry.response ?? '', added);
    this.#changed();
    this.#keeper.saveSoon(added?.length ?? 0);
  }

  #superseded(name) {
    this.#giveText(name, undefined);
    for (const reader of [...this.#responseReaders]) {
      if (reader.name !== name) continue;
      reader.change();
      reader.end();
    }
  }

  #reset(frame) {
    const known = [...this.responses].map(([name, { text }]) => [name, text]);
    if (!this.#responses.dropAfter(frame.from)) return this.#tell({ event: 'replay' });
    this.#shownTo = this.offset;
    this.#give(frame);
    for (const [name, text] of known) if (this.text(name) !== text) this.#giveText(name, undefined);
    this.#changed();
    this.#keeper.save();
  }

  #give(event) {
    this.#told(event.type, event, event);
    this.#reader?.push(event);
  }

  /** @param {string|undefined} added undefined where text was taken back */
  #giveText(response, added) {
    const text = this.text(response);
    this.#told('text', { text, response, added }, text, response, added);
  }

  #changed() {
    for (const reader of this.#responseReaders) reader.change();
  }

  #complain(code, message) {
    if (this.#endInfo) return;
    if (code === 'unauthorized' || code === 'unreachable') {
      if (this.#warned) return;
      this.#warned = true;
      console.warn(`Baton, session ${this.session}: ${message}`);
    }
    this.#give({ type: 'error', code, message });
  }

  /** To the callback, and to those who listen. */
  #told(type, detail, ...values) {
    if (this.#isOver) return;
    const callback = callbacks[type];
    if (callback) this.#try(() => callback(this.options)?.apply(this.options, values));
    if (this.#isOver) return; // the callback closed it
    this.dispatchEvent(new BatonEvent(type, detail));
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
    if (info.reason === 'rejected') this.#keeper?.forget();
    else this.#keeper?.save();
    this.#endInfo = info;
    this.#connector.end();
    this.#platform.clearTimeout(this.#timer);
    this.#page.abort();
    for (const [key] of this.#answers) this.#settle({ key, error: 'ended' });
    this.#keeper?.end();
    this.#told('state', 'ended', 'ended');
    this.#told('end', info, info);
    this.#isOver = true;
    this.#reader?.end(refusal(info));
    for (const reader of this.#responseReaders) reader.end(refusal(info));
    this.#settleEnd(info);
  }

  // What the app says

  #submit(frame, signal) {
    const text = JSON.stringify(frame);
    const open = this.#answers.get(frame.key);
    if (open?.text === text) return open.promise;
    if (open) return Promise.reject(new BatonError('key_conflict', 'this key waits for its answer'));
    if (signal?.aborted) return Promise.reject(signal.reason);
    if (new TextEncoder().encode(text).length > maxFrame) {
      return Promise.reject(new BatonError('too_big', 'an input may take 64 KiB'));
    }
    if (this.#endInfo) return Promise.reject(new BatonError('ended', submitErrors.ended));
    const answer = { text };
    answer.promise = new Promise((resolve, reject) => Object.assign(answer, { resolve, reject }));
    this.#answers.set(frame.key, answer);
    this.#keeper?.saveUnanswered(frame);
    signal?.addEventListener('abort', () => {
      if (this.#answers.get(frame.key) !== answer) return;
      this.#answers.delete(frame.key);
      this.#keeper?.dropUnanswered(frame.key);
      this.#tell({ event: 'withdraw', key: frame.key });
      answer.reject(signal.reason);
    }, { once: true });
    this.#tell({ event: 'submit', frame });
    this.#skimIfNeeded();
    return answer.promise;
  }

  #settle({ key, inboxId, error, message }) {
    const answer = this.#answers.get(key);
    this.#answers.delete(key);
    if (!answer && error === 'ended') return; // of before a reload: kept for the next
    this.#keeper?.dropUnanswered(key);
    if (error === undefined) return answer?.resolve({ key, inboxId });
    const why = message ?? submitErrors[error] ?? error;
    if (answer) answer.reject(new BatonError(error, why));
    else this.#complain(error, `what was submitted before the reload was refused: ${why}`);
  }

  // When no connection is wanted

  #suspend(cause) {
    this.#suspended.add(cause);
    if (this.#suspended.size === 1 || cause === 'page') this.#tell({ event: 'suspend' });
  }

  #resume(cause) {
    if (!this.#suspended.delete(cause)) return;
    if (this.#suspended.size === 0) this.#tell({ event: 'resume' });
    else this.#skimIfNeeded();
  }

  /** An answer never waits behind what the app's loop has not read. */
  #skimIfNeeded() {
    if (this.#answers.size > 0 && this.#suspended.size === 1 && this.#suspended.has('reader')) this.#tell({ event: 'skim' });
  }

  #watchPage() {
    watchPage(this.#platform, this.#page.signal, {
      online: () => this.#tell({ event: 'online' }),
      offline: () => this.#tell({ event: 'offline' }),
      wake: () => this.#tell({ event: 'wake' }),
      hide: () => this.#keeper.save(),
      leave: () => this.#suspend('page'),
      back: () => this.#resume('page'),
    });
  }

  // What outlives the page

  #store() {
    const { store } = this.options;
    if (store !== 'session') return store;
    return tabStore(this.#platform.sessionStorage, this.#urls, this.session, this.#connector.token, this.options);
  }

  #snapshot() {
    return this.#shownTo === undefined ? undefined : { offset: this.#shownTo, responses: this.#responses.snapshot() };
  }
}

const callbacks = {
  text: (options) => options.ontext,
  state: (options) => options.onstate,
  end: (options) => options.onend,
  entry: (options) => options.onentry,
  attached: (options) => options.onattached,
  live: (options) => options.onlive,
  behind: (options) => options.onbehind,
  reset: (options) => options.onreset,
  skipped: (options) => options.onskipped,
  stalled: (options) => options.onstalled,
  draining: (options) => options.ondraining,
  expiring: (options) => options.onexpiring,
  error: (options) => options.onerror,
};
