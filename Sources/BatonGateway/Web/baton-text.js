// What a device shows: the text, count and state of each response, put together from entries,
// and taken back where a `reset` says so.

const endings = new Set(['end', 'error', 'cancelled']);
const maxMarks = 8192;

/** @typedef {{text: string, n: number, state: 'open'|'end'|'error'|'cancelled'}} Response */

export class Responses {
  /** By name; entries without a response are under ''. @type {Map<string, Response & {pending: Uint8Array}>} */
  all = new Map();
  /** What each entry changed, oldest first, so that it can be taken back. */
  #marks = [];
  #base = '0';

  /** @param {string} offset The place before the first entry that will be added. */
  constructor(offset = '0', texts = {}) {
    this.#base = offset;
    for (const [name, { text, n, state }] of Object.entries(texts)) this.all.set(name, { text, n, state, pending: none });
  }

  /**
   * @param {{id: string, event: string, response?: string, n?: number, data?: string, data64?: string}} entry
   * @returns {string|undefined} the text added, where the entry is a token
   */
  add({ id, event, response, n, data, data64 }) {
    const mark = { id, name: response ?? '', before: undefined };
    this.#marks.push(mark);
    if (this.#marks.length > maxMarks) this.#base = this.#marks.splice(0, maxMarks / 2).at(-1).id;
    if (event !== 'token' && response === undefined) return undefined;
    const now = this.all.get(mark.name);
    mark.before = now && { length: now.text.length, n: now.n, state: now.state, pending: now.pending };
    const next = now ?? { text: '', n: 0, state: 'open', pending: none };
    this.all.set(mark.name, next);
    if (endings.has(event)) next.state = /** @type {Response['state']} */ (event);
    if (event !== 'token') return undefined;
    const added = this.#decode(next, data, data64);
    next.text += added;
    next.n = n ?? next.n + 1;
    return added;
  }

  /**
   * Drops every entry after `from`.
   * @returns {boolean} false if the place is not one between two entries that we know: then all must come again.
   */
  dropAfter(from) {
    if (typeof from !== 'string' || from === '0') {
      this.all.clear();
      this.#marks = [];
      this.#base = '0';
      return true;
    }
    const place = idOf(from);
    const keep = this.#marks.findLastIndex((mark) => idOf(mark.id) === place) + 1;
    if (keep === 0 && idOf(this.#base) !== place) return false;
    while (this.#marks.length > keep) this.#takeBack(this.#marks.pop());
    return true;
  }

  /** @returns {Record<string, Response>|undefined} undefined in the middle of a character. */
  snapshot() {
    const copy = {};
    for (const [name, { text, n, state, pending }] of this.all) {
      if (pending.length > 0) return undefined;
      copy[name] = { text, n, state };
    }
    return copy;
  }

  #takeBack({ name, before }) {
    const now = this.all.get(name);
    if (!now) return;
    if (before) Object.assign(now, { text: now.text.slice(0, before.length), n: before.n, state: before.state, pending: before.pending });
    else this.all.delete(name);
  }

  /** A character may be split over deltas; these then come as base64. */
  #decode(response, data = '', data64) {
    const bytes = data64 === undefined ? none : bytesOf(data64);
    const whole = new Uint8Array([...response.pending, ...bytes]);
    const end = data64 === undefined ? whole.length : whole.length - unfinished(whole);
    response.pending = whole.slice(end);
    return (end > 0 ? new TextDecoder().decode(whole.slice(0, end)) : '') + data;
  }
}

const none = new Uint8Array();

function bytesOf(base64) {
  try {
    return Uint8Array.from(atob(base64), (c) => c.charCodeAt(0));
  } catch {
    return none; // not base64: there is nothing to show
  }
}

/** An offset without its check. */
function idOf(offset) {
  return offset.split('.')[0];
}

/** How many bytes at the end begin a character that is not complete. */
function unfinished(bytes) {
  for (let back = 1; back <= Math.min(3, bytes.length); back++) {
    const byte = bytes[bytes.length - back];
    if (byte < 0x80) return 0;
    if (byte >= 0xc0) return back < (byte >= 0xf0 ? 4 : byte >= 0xe0 ? 3 : 2) ? back : 0;
  }
  return 0;
}
