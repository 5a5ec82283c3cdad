// What a device shows: the text, count and state of each response, put together from entries,
// and taken back where a `reset` says so.

const endings = new Set(['end', 'error', 'cancelled']);
const maxMarks = 8192;

/** @typedef {{text: string, n: number, state: 'open'|'end'|'error'|'cancelled'}} Response */

export class Responses {
  /** By name; entries without a response are under ''. @type {Map<string, Response & {pending: Uint8Array}>} */
  all = new Map();
  /** Those that another one stands in place of. */
  #superseded = new Map();
  /** What each entry changed, oldest first, so that it can be taken back. */
  #marks = [];
  #base = '0';

  /** @param {string} offset The place before the first entry that will be added. */
  constructor(offset = '0', kept = []) {
    this.#base = offset;
    for (const { name, text, n, state, pending } of kept) this.all.set(name, { text, n, state, pending: bytesOf(pending ?? '') });
  }

  /**
   * @param {{id: string, event: string, response?: string, part?: string, n?: number, data?: string, data64?: string}} entry
   * @returns {string|undefined} the text added, where the entry is a token or shows that a character was cut
   */
  add({ id, event, response, part, n, data, data64 }) {
    const mark = { id, name: response ?? '', before: undefined };
    this.#marks.push(mark);
    if (this.#marks.length > maxMarks) this.#base = this.#marks.splice(0, maxMarks / 2).at(-1).id;
    if (event !== 'token' && response === undefined) return undefined;
    if (event === 'start') this.#supersede(mark, data);
    const hidden = this.#superseded.get(mark.name);
    if (!hidden && !this.all.has(mark.name) && event === 'error' && objectOf(data)?.reason === 'superseded') return undefined;
    const now = hidden ?? this.all.get(mark.name);
    mark.before = now && { length: now.text.length, n: now.n, state: now.state, pending: now.pending };
    const next = now ?? { text: '', n: 0, state: 'open', pending: none };
    if (!hidden) this.all.set(mark.name, next);
    if (endings.has(event)) {
      next.state = /** @type {Response['state']} */ (event);
      const cut = this.#cut(next);
      return hidden ? undefined : cut;
    }
    if (event !== 'token') return undefined;
    // An append that was sent twice (PROTOCOL 2).
    if (n !== undefined && response !== undefined && n <= next.n) return undefined;
    next.n = n ?? next.n + 1;
    if (!isShown(part)) return undefined;
    const added = this.#decode(next, data, data64);
    next.text += added;
    return hidden ? undefined : added;
  }

  /**
   * Drops every entry after `from`.
   * @returns {boolean} false if the place is not one between two entries that we know: then all must come again.
   */
  dropAfter(from) {
    if (typeof from !== 'string' || from === '0') {
      this.all.clear();
      this.#superseded.clear();
      this.#marks = [];
      this.#base = '0';
      return true;
    }
    const place = idOf(from);
    let keep = this.#marks.length;
    while (keep > 0 && idOf(this.#marks[keep - 1].id) !== place) keep -= 1;
    if (keep === 0 && idOf(this.#base) !== place) return false;
    while (this.#marks.length > keep) this.#takeBack(this.#marks.pop());
    return true;
  }

  /** @returns {(Response & {name: string, pending?: string})[]} in their order; `pending`: the first bytes of a character, in base64 */
  snapshot() {
    return [...this.all].map(([name, { text, n, state, pending }]) => ({
      name,
      text,
      n,
      state,
      ...(pending.length > 0 && { pending: btoa(String.fromCharCode(...pending)) }),
    }));
  }

  /** The response ended within a character. */
  #cut(response) {
    if (response.pending.length === 0) return undefined;
    response.pending = none;
    response.text += '\uFFFD';
    return '\uFFFD';
  }

  /** What a `start` says that its response stands in place of. */
  #supersede(mark, data) {
    const name = objectOf(data)?.supersedes;
    const old = this.all.get(name);
    if (!old || name === mark.name) return;
    this.all.delete(name);
    this.#superseded.set(name, old);
    mark.supersedes = name;
  }

  #takeBack({ name, before, supersedes }) {
    const old = this.#superseded.get(supersedes);
    if (old) {
      this.#superseded.delete(supersedes);
      this.all.set(supersedes, old);
    }
    const now = this.all.get(name) ?? this.#superseded.get(name);
    if (!now) return;
    if (before) Object.assign(now, { text: now.text.slice(0, before.length), n: before.n, state: before.state, pending: before.pending });
    else {
      this.all.delete(name);
      this.#superseded.delete(name);
    }
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

/** Whether people are shown the text of a part (PROTOCOL 2). */
export const isShown = (part) => part === undefined || part.startsWith('text:');

function objectOf(data) {
  try {
    return Object(JSON.parse(data));
  } catch {
    return undefined; // no JSON: it says nothing to us
  }
}

function bytesOf(base64) {
  try {
    return Uint8Array.from(atob(base64), (c) => c.charCodeAt(0));
  } catch {
    return none; // not base64: there is nothing to show
  }
}

/**
 * Which of two places comes first in the stream: negative, 0 or positive, as `sort` wants it. Checks are left out.
 * @param {string} a @param {string} b `0`, or `<ms>-<seq>` with or without a check
 * @throws {TypeError} for what is no place, such as `$`
 */
export function compareOffsets(a, b) {
  const [x, y] = [halvesOf(a), halvesOf(b)];
  const half = x[0] === y[0] ? 1 : 0;
  return x[half] < y[half] ? -1 : x[half] > y[half] ? 1 : 0;
}

/** Both are unsigned 64-bit numbers. */
function halvesOf(offset) {
  const match = /^(?:0|(\d+)-(\d+)(?:\.[0-9a-f]{8})?)$/i.exec(offset);
  if (!match) throw new TypeError(`not a place in a stream: ${offset}`);
  return [BigInt(match[1] ?? 0), BigInt(match[2] ?? 0)];
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
