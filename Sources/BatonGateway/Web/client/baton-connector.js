// What a session connects with: one wire at a time, a probe beside it, and the token.

import { openEventStream, openPages, openWebSocket, sessionURL } from './baton-wire.js';

const wires = { websocket: openWebSocket, sse: openEventStream, pages: openPages };
const probeFor = 10_000;
/** How many connections that stay open this page holds, by origin. @type {Map<string, number>} */
const heldConnections = new Map();
const maxHeld = 5;
const maxToken = 8 * 1024; // of the 16 KiB that a gateway takes as the head of a request

export class Connector {
  #wire = undefined;
  #number = 0;
  #token;
  /** The one question to the app that is open. @type {Promise<void>|undefined} */
  #asking = undefined;
  #timer = undefined;
  #toldShort = false;
  #toldMany = false;
  #toldConnect = undefined;
  #letGo = undefined;
  #isOver = false;

  /**
   * @param {{urls: string[], session: string, options: import('./baton.js').Options, platform: any,
   *   tell: (event: object) => void, complain: (code: string, message: string) => void}} parts
   */
  constructor(parts) {
    Object.assign(this, parts);
    const { token } = this.options;
    if (typeof token === 'string') this.#use(token);
  }

  get token() {
    return this.#token;
  }

  open({ url, transport = 'websocket', query }) {
    const number = ++this.#number;
    const tell = (event) => number === this.#number && this.tell(event);
    try {
      const address = this.#url(url, query);
      const { origin } = address;
      this.#wire = wires[transport](this.platform, address, this.#token, tell, this.options);
      if (transport !== 'websocket') this.#hold(origin);
    } catch (error) {
      const message = `this browser opens no connection: ${error?.message || error?.name || error}`;
      if (message !== this.#toldConnect) this.complain('connect', message);
      this.#toldConnect = message;
      Promise.resolve().then(() => tell({ event: 'failed' }));
    }
  }

  close(code) {
    this.#number += 1;
    this.#wire?.close(code);
    this.#wire = undefined;
    this.#letGo?.();
    this.#letGo = undefined;
  }

  /** A browser has six connections to an origin over HTTP/1.1, for all that a page does. */
  #hold(origin) {
    const held = (heldConnections.get(origin) ?? 0) + 1;
    heldConnections.set(origin, held);
    this.#letGo = () => heldConnections.set(origin, heldConnections.get(origin) - 1);
    if (held < maxHeld || this.#toldMany) return;
    this.#toldMany = true;
    this.complain('too_many_streams', `${held} sessions of this page hold a connection to ${origin}; over HTTP/1.1 a browser has six for all that a page asks for`);
  }

  send(frame) {
    this.#wire?.send(frame);
  }

  /** Tries whether a better wire gets through beside the one in use. */
  async probe(url, transport) {
    const number = this.#number;
    const better = transport === 'pages' ? ['websocket', 'sse'] : ['websocket'];
    let passed;
    for (const wire of better) if (!passed && number === this.#number && (await this.#getsThrough(wire, url))) passed = wire;
    if (number === this.#number) this.tell({ event: 'probed', passed: passed !== undefined, ...(passed === 'sse' && { transport: passed }) });
  }

  /** @returns {Promise<boolean>} */
  #getsThrough(name, url) {
    const { device } = this.options;
    return new Promise((resolve) => {
      let wire;
      const settle = (passed) => {
        this.platform.clearTimeout(deadline);
        wire?.close(1000);
        wire = undefined;
        resolve(passed);
      };
      const deadline = this.platform.setTimeout(() => settle(false), probeFor);
      try {
        const query = { offset: '$', ...(device && { device }) };
        wire = wires[name](this.platform, this.#url(url, query), this.#token, ({ event }) => {
          if (event !== 'opened' && wire) settle(event === 'frame');
        }, this.options);
      } catch {
        settle(false);
      }
    });
  }

  /** Before the first connection: a person may have to sign in, and no clock runs meanwhile. */
  async firstToken() {
    if (this.#token === undefined && typeof this.options.token === 'function') await this.#ask();
  }

  /** One question at a time; its answer is used whenever it comes. */
  async renewToken(afterMs = 0) {
    this.platform.clearTimeout(this.#timer);
    if (afterMs > 0) {
      if (!this.#toldShort) this.complain('token_too_short', 'the token lives so short that it has to be asked for over and over');
      this.#toldShort = true;
      this.#timer = this.platform.setTimeout(() => this.renewToken(), afterMs);
      return;
    }
    if (this.#asking) return;
    await this.#ask();
    if (!this.#isOver) this.tell({ event: 'token', token: this.#token });
  }

  end() {
    this.#isOver = true;
    this.platform.clearTimeout(this.#timer);
    this.close(1000);
  }

  #ask() {
    this.#asking ??= this.#askUntilAnswered().finally(() => (this.#asking = undefined));
    return this.#asking;
  }

  async #askUntilAnswered() {
    for (let pause = 500; !this.#isOver; pause = Math.min(pause * 2, 30_000)) {
      try {
        const token = await this.options.token();
        if (typeof token !== 'string') throw new TypeError('token() gave no string');
        this.#use(token);
        return;
      } catch (error) {
        this.complain('token', `no new token: ${error?.message ?? error}`);
        await new Promise((resolve) => this.platform.setTimeout(resolve, pause * (0.5 + this.platform.random())));
      }
    }
  }

  #use(token) {
    this.#token = token.trim();
    const { length } = this.#token;
    if (length > maxToken) queueMicrotask(() => this.complain('token_too_long', `the token takes ${length} bytes; proxies and gateways may refuse more than ${maxToken}`));
  }

  #url(index, query) {
    return sessionURL(this.urls[index], this.session, query);
  }
}
