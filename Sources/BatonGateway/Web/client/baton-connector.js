// What a session connects with: one wire at a time, a probe beside it, and the token.

import { openEventStream, openWebSocket, sessionURL } from './baton-wire.js';

const probeFor = 10_000;

export class Connector {
  #wire = undefined;
  #number = 0;
  #token;
  /** The one question to the app that is open. @type {Promise<void>|undefined} */
  #asking = undefined;
  #timer = undefined;
  #toldShort = false;
  #isOver = false;

  /**
   * @param {{urls: string[], session: string, options: import('./baton.js').Options, platform: any,
   *   tell: (event: object) => void, complain: (code: string, message: string) => void}} parts
   */
  constructor(parts) {
    Object.assign(this, parts);
    const { token } = this.options;
    this.#token = typeof token === 'string' ? token.trim() : undefined;
  }

  get token() {
    return this.#token;
  }

  open({ url, transport, query }) {
    const number = ++this.#number;
    const tell = (event) => number === this.#number && this.tell(event);
    try {
      const open = transport === 'sse' ? openEventStream : openWebSocket;
      const { credentials } = this.options;
      this.#wire = open(this.platform, this.#url(url, query), this.#token, tell, { credentials });
    } catch (error) {
      this.complain('connect', String(error?.message ?? error));
      Promise.resolve().then(() => tell({ event: 'failed' }));
    }
  }

  close(code) {
    this.#number += 1;
    this.#wire?.close(code);
    this.#wire = undefined;
  }

  send(frame) {
    this.#wire?.send(frame);
  }

  /** Tries whether a WebSocket gets through beside the event stream in use. */
  probe(url) {
    const number = this.#number;
    const { device } = this.options;
    let wire;
    const settle = (passed) => {
      this.platform.clearTimeout(deadline);
      wire?.close(1000);
      wire = undefined;
      if (number === this.#number) this.tell({ event: 'probed', passed });
    };
    const deadline = this.platform.setTimeout(() => settle(false), probeFor);
    try {
      const query = { offset: '$', ...(device && { device }) };
      wire = openWebSocket(this.platform, this.#url(url, query), this.#token, ({ event }) => {
        if (event !== 'opened' && wire) settle(event === 'frame');
      });
    } catch {
      settle(false);
    }
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
        this.#token = token.trim();
        return;
      } catch (error) {
        this.complain('token', `no new token: ${error?.message ?? error}`);
        await new Promise((resolve) => this.platform.setTimeout(resolve, pause * (0.5 + this.platform.random())));
      }
    }
  }

  #url(index, query) {
    return sessionURL(this.urls[index], this.session, query);
  }
}
