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

/**
 * An async iterator over one response, to its end: each step is the text so far and what was added since the last one.
 * It holds the newest state only, so a slow loop skips steps and never text.
 */
export class ResponseReader {
  #waiting = [];
  #shown = '';
  #changed = false;
  #isOver = false;
  #error = undefined;

  constructor(name, get, left) {
    this.name = name;
    this.get = get;
    this.left = left;
    this.change();
  }

  /** The response may have changed. */
  change() {
    const { text, state } = this.get() ?? { text: '', state: 'open' };
    if (text === this.#shown && state === 'open') return;
    this.#changed = true;
    if (state !== 'open') this.#isOver = true;
    this.#flush();
  }

  end(error) {
    this.#isOver = true;
    this.#error = error;
    this.#flush();
  }

  next() {
    return new Promise((resolve, reject) => {
      this.#waiting.push({ resolve, reject });
      this.#flush();
    });
  }

  return() {
    this.#changed = false;
    this.end();
    return Promise.resolve({ value: undefined, done: true });
  }

  [Symbol.asyncIterator]() {
    return this;
  }

  #flush() {
    while (this.#waiting.length > 0 && (this.#changed || this.#isOver)) {
      const { resolve, reject } = this.#waiting.shift();
      if (this.#changed) {
        this.#changed = false;
        const { text = '', n = 0, state = 'open' } = this.get() ?? {};
        const added = text.startsWith(this.#shown) ? text.slice(this.#shown.length) : undefined;
        this.#shown = text;
        resolve({ value: { text, n, state, added }, done: false });
      } else if (this.#error) {
        reject(this.#error);
        this.#error = undefined;
      } else {
        resolve({ value: undefined, done: true });
      }
    }
    if (this.#isOver) this.left(this);
  }
}
