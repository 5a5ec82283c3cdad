// What outlives the page: a place together with the text before it; neither is of use without the other.

const version = 2;
const saveEvery = 1000; // milliseconds
const loadFor = 2000; // a store that does not answer is not waited for
const maxSnapshot = 512 * 1024; // UTF-16 units; 5 MiB is what a page may keep in sessionStorage
const saveAlso = 64 * 1024; // so much new text is saved at once: the last that fits stays
const states = new Set(['open', 'end', 'error', 'cancelled']);

export class Keeper {
  #timer = undefined;
  #isOver = false;
  #told = false;
  #added = 0;

  /**
   * @param {import('./baton.js').Store|undefined} store
   * @param {{platform: any, snapshot: () => object|undefined, complain: (code: string, message: string) => void}} parts
   */
  constructor(store, parts) {
    this.store = store;
    Object.assign(this, parts);
  }

  /** What was kept, checked as a whole; undefined where there is nothing that fits. */
  async load() {
    if (!this.store) return undefined;
    let timer;
    const late = new Promise((_, reject) => {
      timer = this.platform.setTimeout(() => reject(new Error('it does not answer')), loadFor);
    });
    try {
      const kept = await Promise.race([Promise.resolve(this.store.load()), late]);
      if (kept === undefined || kept === null) return undefined;
      if (isSnapshot(kept)) return kept;
      this.complain('store', 'what was kept has another form, and is dropped');
    } catch (error) {
      this.complain('store', `what was kept could not be read: ${error?.message ?? error}`);
    } finally {
      this.platform.clearTimeout(timer);
    }
    return undefined;
  }

  saveSoon(added) {
    if (!this.store || this.#isOver) return;
    this.#added += added;
    if (this.#added > saveAlso) return this.save();
    this.#timer ??= this.platform.setTimeout(() => this.save(), saveEvery);
  }

  save() {
    this.platform.clearTimeout(this.#timer);
    this.#timer = undefined;
    if (!this.store || this.#isOver) return;
    this.#added = 0;
    const snapshot = this.snapshot();
    if (snapshot) this.#try(() => this.store.save(snapshot));
  }

  /** What was submitted and has no answer yet; a reload submits it again. @returns {object[]} frames */
  loadUnanswered() {
    try {
      return (this.store?.loadUnanswered?.() ?? []).filter(isSubmission);
    } catch {
      return []; // told by `load`
    }
  }

  saveUnanswered(frame) {
    if (!this.#isOver && this.store?.saveUnanswered) this.#try(() => this.store.saveUnanswered(frame));
  }

  dropUnanswered(key) {
    if (!this.#isOver && this.store?.dropUnanswered) this.#try(() => this.store.dropUnanswered(key));
  }

  /** Nothing of it is to be found by whoever comes next. */
  forget() {
    if (this.store?.forget) this.#try(() => this.store.forget());
  }

  end() {
    this.platform.clearTimeout(this.#timer);
    this.#isOver = true;
  }

  /** A store that fails is told once, and stops nothing. */
  #try(step) {
    const failed = (error) => {
      if (!this.#told) this.complain('store', `the session can't be kept: ${error?.message ?? error}`);
      this.#told = true;
    };
    try {
      Promise.resolve(step()).catch(failed);
    } catch (error) {
      failed(error);
    }
  }
}

/** A tab's own memory, gone with the tab: for these gateways, this subject and these options only. */
export function tabStore(storage, urls, session, token, options) {
  if (!storage) return undefined;
  const { device, response, last, offset } = options;
  const key = `baton:${version}:${JSON.stringify([session, urls, subjectOf(token), device, response, last, offset])}`;
  const unanswered = `${key} unanswered`;
  const read = (name) => JSON.parse(storage.getItem(name) ?? 'null') ?? undefined;
  /** Another view of this session in the same tab may have written, too. */
  const change = (then) => {
    const frames = then(read(unanswered) ?? []);
    if (frames.length > 0) storage.setItem(unanswered, JSON.stringify(frames));
    else storage.removeItem(unanswered);
  };
  return {
    load: () => read(key),
    /** Where it is too much, what was saved before stays: an earlier place, with its text. */
    save(snapshot) {
      const length = snapshot.responses.reduce((sum, { text }) => sum + text.length, 0);
      const text = length <= maxSnapshot ? JSON.stringify(snapshot) : '';
      if (text !== '' && text.length <= maxSnapshot) storage.setItem(key, text);
    },
    loadUnanswered: () => read(unanswered),
    saveUnanswered: (frame) => change((frames) => [...frames.filter(({ key }) => key !== frame.key), frame]),
    dropUnanswered: (key) => change((frames) => frames.filter((frame) => frame.key !== key)),
    forget() {
      storage.removeItem(key);
      storage.removeItem(unanswered);
    },
  };
}

/** Who the token is for, as it says itself: another person's text is not for this one. */
export function subjectOf(token) {
  if (token === undefined) return null;
  try {
    const payload = token.split('.')[1].replace(/-/g, '+').replace(/_/g, '/');
    return JSON.parse(atob(payload)).sub ?? null;
  } catch {
    return null;
  }
}

function isSnapshot(kept) {
  if (typeof kept !== 'object' || !/^(0|\d+-\d+(\.[0-9a-f]{8})?)$/i.test(kept.offset)) return false;
  if (kept.responses === undefined) return true; // a store of the app's, which keeps the text itself
  return Array.isArray(kept.responses) && kept.responses.every(isResponse);
}

function isResponse(response) {
  if (response === null || typeof response !== 'object') return false;
  const { name, text, n, state, pending = '' } = response;
  const isText = typeof name === 'string' && typeof text === 'string' && typeof pending === 'string';
  return isText && Number.isSafeInteger(n) && n >= 0 && states.has(state);
}

function isSubmission(frame) {
  const { type, key, data, response } = frame ?? {};
  return typeof key === 'string' && ((type === 'input' && typeof data === 'string') || (type === 'cancel' && typeof response === 'string'));
}
