// A page, its clock and its network, under the test's control. Nothing here waits for real time.
import { webcrypto } from 'node:crypto';
import { attach } from '../../Sources/BatonGateway/Web/client/baton.js';

globalThis.crypto ??= webcrypto; // Node 18 has it by import only

export const turn = async (turns = 20) => {
  for (let i = 0; i < turns; i++) await Promise.resolve();
};

export class Page {
  sockets = [];
  requests = [];
  timers = new Map();
  time = 0;
  chance = 0.5;
  window = new EventTarget();
  document = Object.assign(new EventTarget(), { visibilityState: 'visible' });
  storage = new Map();

  constructor() {
    const page = this;
    let timers = 0;
    this.platform = {
      WebSocket: class FakeSocket {
        sent = [];
        constructor(url, protocols) {
          Object.assign(this, { url: new URL(url), protocols });
          page.sockets.push(this);
        }
        send(text) {
          this.sent.push(JSON.parse(text));
        }
        close(code) {
          this.closedWith = code;
        }
        open() {
          this.onopen?.({});
        }
        receive(...frames) {
          for (const frame of frames) this.onmessage?.({ data: typeof frame === 'string' ? frame : JSON.stringify(frame) });
        }
        lose(code = 1006) {
          this.onclose?.({ code });
        }
        welcome(offset = '0', more = {}) {
          this.open();
          this.receive({ type: 'attached', session: 's', device: 'd', node: 'gw-1', offset, first: null, last: null, pingMs: 25000, ...more });
        }
      },
      fetch: (url, options) => new Promise((resolve, reject) => page.requests.push({ url: new URL(url), options, resolve, reject })),
      now: () => this.time,
      random: () => this.chance,
      setTimeout: (then, ms) => (this.timers.set(++timers, { then, at: this.time + ms }), timers),
      clearTimeout: (timer) => this.timers.delete(timer),
      window: this.window,
      document: this.document,
      sessionStorage: {
        getItem: (key) => this.storage.get(key) ?? null,
        setItem: (key, value) => this.storage.set(key, value),
        removeItem: (key) => this.storage.delete(key),
      },
    };
  }

  get socket() {
    return this.sockets.at(-1);
  }

  get request() {
    return this.requests.at(-1);
  }

  /** Moves time and fires what falls due, in order. */
  async pass(ms) {
    const end = this.time + ms;
    for (;;) {
      const [timer, due] = [...this.timers].sort((a, b) => a[1].at - b[1].at)[0] ?? [];
      if (!due || due.at > end) break;
      this.timers.delete(timer);
      this.time = due.at;
      due.then();
      await turn();
    }
    this.time = end;
    await turn();
  }

  async attach(options = {}, urls = 'http://gw-1:8080') {
    const session = attach(urls, 's', { ...options, platform: this.platform });
    await turn();
    return session;
  }

  async window_(name) {
    this.window.dispatchEvent(new Event(name));
    await turn();
  }

  async show(visibilityState) {
    this.document.visibilityState = visibilityState;
    this.document.dispatchEvent(new Event('visibilitychange'));
    await turn();
  }
}

export const token = (n, data, more = {}) => ({ id: `${n}-0.0000000${n % 10}`, event: 'token', response: 'r1', n, data, ...more });
