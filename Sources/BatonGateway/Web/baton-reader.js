/** An async iterator over a queue that is bounded in bytes. */
export class Reader {
  #queue = [];
  #bytes = 0;
  #waiting = [];
  #full = false;
  #ended = false;
  #error = undefined;

  constructor(maxBytes, { full, empty, left }) {
    this.maxBytes = maxBytes;
    this.full = full;
    this.empty = empty;
    this.left = left;
  }

  push(event) {
    const waiting = this.#waiting.shift();
    if (waiting) return waiting.resolve({ value: event, done: false });
    this.#queue.push(event);
    this.#bytes += sizeOf(event);
    if (this.#bytes <= this.maxBytes || this.#full) return;
    this.#full = true;
    this.full();
  }

  end(error) {
    this.#ended = true;
    this.#error = error;
    for (const waiting of this.#waiting.splice(0)) this.next().then(waiting.resolve, waiting.reject);
  }

  next() {
    const event = this.#queue.shift();
    if (event) {
      this.#bytes -= sizeOf(event);
      if (this.#full && this.#queue.length === 0) {
        this.#full = false;
        this.empty();
      }
      return Promise.resolve({ value: event, done: false });
    }
    const error = this.#error;
    this.#error = undefined;
    if (error) return Promise.reject(error);
    if (this.#ended) return Promise.resolve({ value: undefined, done: true });
    return new Promise((resolve, reject) => this.#waiting.push({ resolve, reject }));
  }

  return() {
    this.#queue = [];
    this.#bytes = 0;
    this.left();
    return Promise.resolve({ value: undefined, done: true });
  }

  [Symbol.asyncIterator]() {
    return this;
  }
}

function sizeOf({ data, data64, fields }) {
  return 200 + 2 * ((data ?? data64 ?? '').length + (fields ? JSON.stringify(fields).length : 0));
}
