// A network cable that can be pulled: a connection cut here ends without a word, and no new one comes through.

export class Cable {
  isCut = false;
  #sockets = new Set();

  constructor() {
    const cable = this;
    this.platform = {
      WebSocket: class extends WebSocket {
        constructor(url, protocols) {
          super(url, protocols);
          cable.#sockets.add(this);
          this.addEventListener('close', () => cable.#sockets.delete(this));
          if (cable.isCut) this.close();
        }
      },
      fetch: (...request) => (cable.isCut ? Promise.reject(new TypeError('cut off')) : fetch(...request)),
    };
  }

  toggle() {
    this.isCut = !this.isCut;
    dispatchEvent(new Event(this.isCut ? 'offline' : 'online'));
    if (!this.isCut) return;
    for (const socket of this.#sockets) {
      socket.onclose?.({ code: 1006 });
      socket.onmessage = socket.onclose = null;
      socket.close();
    }
  }
}
