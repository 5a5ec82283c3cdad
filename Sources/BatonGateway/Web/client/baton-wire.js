// The wires of a session: a WebSocket, server-sent events where it does not get through, and pages of history where an answer is
// held until it is whole. All tell what happens as events of BatonMachine and are closed with `close(code)`.

const maxLine = 16 * 1024 * 1024;
const closeFollows = 100; // milliseconds after `error`
const pageFollows = 1000; // milliseconds after Firefox has closed the sockets of a page that it is about to leave
const pageLimit = 1000; // entries
const pageWait = 20; // seconds
const sendAgain = 1000; // milliseconds
const maxSendAgain = 10_000;

/** @param {string} base @param {string} session @param {Record<string, string>} query */
export function sessionURL(base, session, query) {
  const here = globalThis.location;
  const url = new URL(base === '' ? here?.origin : base, here?.href);
  url.protocol = url.protocol.replace('ws', 'http'); // of ws: and wss:
  if (!/^https?:$/.test(url.protocol)) throw new TypeError(`not a gateway's address: ${url.protocol}`);
  url.pathname = `${url.pathname.replace(/\/$/, '')}/v1/sessions/${session}`;
  url.search = new URLSearchParams(query).toString();
  url.hash = '';
  return url;
}

/** @param {(event: object) => void} tell */
export function openWebSocket(platform, url, token, tell) {
  url.protocol = url.protocol.replace('http', 'ws');
  const socket = new platform.WebSocket(url.href, ['baton.v1', ...(token ? [`bearer.${token}`] : [])]);
  let [opened, isDraining, timer] = [false, false, undefined];
  socket.onopen = () => {
    opened = true;
    tell({ event: 'opened' });
  };
  socket.onmessage = ({ data }) => {
    const event = parsed(data);
    isDraining ||= event.frame?.type === 'draining';
    tell(event);
  };
  socket.onclose = ({ code }) => {
    platform.clearTimeout(timer);
    const lost = () => tell(opened ? { event: 'closed', code } : { event: 'failed' });
    if (code === 1001 && opened && !isDraining) timer = platform.setTimeout(lost, pageFollows);
    else lost();
  };
  // What the browser itself refuses (a content policy, mixed content) may bring `error` and never `close`.
  socket.onerror = () => {
    timer = platform.setTimeout(() => socket.onclose?.({ code: 1006 }), closeFollows);
  };
  return {
    send: (frame) => socket.send(JSON.stringify(frame)),
    close(code) {
      platform.clearTimeout(timer);
      socket.onopen = socket.onmessage = socket.onclose = socket.onerror = null;
      socket.close(code);
    },
  };
}

/** Not EventSource: that hides HTTP statuses and comment lines. @param {(event: object) => void} tell */
export function openEventStream(platform, url, token, tell, { credentials } = {}) {
  const cancel = new AbortController();
  let opened = false;
  async function read() {
    const answer = await ask(platform, url, token, { accept: 'text/event-stream', signal: cancel.signal, credentials });
    const isStream = answer.headers.get('Content-Type')?.startsWith('text/event-stream');
    if (answer.status !== 200) return tell(await refused(answer));
    if (!isStream || !answer.body) return tell({ event: 'failed' });
    opened = true;
    tell({ event: 'opened' });
    const parser = new EventParser(tell);
    const decoder = new TextDecoder();
    const reader = answer.body.getReader();
    for (let part = await reader.read(); !part.done; part = await reader.read()) {
      parser.feed(decoder.decode(part.value, { stream: true }));
    }
    tell({ event: 'closed', code: 1006 });
  }
  read().catch(() => !cancel.signal.aborted && tell(opened ? { event: 'closed', code: 1006 } : { event: 'failed' }));
  return { send: sender(platform, url, token, tell, { credentials, signal: cancel.signal }), close: () => cancel.abort() };
}

/**
 * Sends inputs and cancels over HTTP (PROTOCOL 5), beside a wire that only reads, until they are answered or the wire is closed.
 * @param {(event: object) => void} tell the answer as a WebSocket would bring it
 */
function sender(platform, url, token, tell, { credentials, signal }) {
  const base = url.pathname;
  const device = url.searchParams.get('device');

  async function answered({ type, key, data, response }) {
    const address = new URL(url.href);
    address.pathname = type === 'input' ? `${base}/input` : `${base}/responses/${response}/cancel`;
    address.search = device === null ? '' : new URLSearchParams({ device }).toString();
    const headers = { 'Content-Type': 'application/json', 'Idempotency-Key': key, ...(token && { Authorization: `Bearer ${token}` }) };
    const body = JSON.stringify(type === 'input' ? { data, ...(response !== undefined && { response }) } : {});
    const answer = await platform.fetch(address.href, { method: 'POST', headers, body, signal, ...(credentials && { credentials }) });
    if (answer.status === 202) {
      const { inboxId } = await answer.json();
      return { type: 'accepted', key, inboxId };
    }
    const { status, problem, type: name, detail } = await refused(answer);
    if (!problem || status === 429 || status >= 500) return undefined; // passes, or was not the gateway's word
    const code = name.replace('urn:baton:problem:', '').replaceAll('-', '_');
    return { type: 'error', key, code: code === 'not_allowed' ? 'forbidden' : code, message: detail };
  }

  return async (frame) => {
    for (let pause = sendAgain; !signal.aborted; pause = Math.min(2 * pause, maxSendAgain)) {
      const answer = await answered(frame).catch(() => undefined);
      if (answer) return tell({ event: 'frame', frame: answer });
      await new Promise((resolve) => platform.setTimeout(resolve, pause));
    }
  };
}

/** @param {URL} url changed: it gets the token where a header would cost a preflight */
function ask(platform, url, token, { accept, signal, credentials }) {
  const headers = { Accept: accept };
  if (token && url.origin === globalThis.location?.origin) headers.Authorization = `Bearer ${token}`;
  else if (token) url.searchParams.set('token', token);
  return platform.fetch(url.href, { headers, signal, cache: 'no-store', ...(credentials && { credentials }) });
}

/**
 * One page after the other, each of which waits for what comes next (PROTOCOL 7): for networks that hold an answer until it is whole.
 * @param {(event: object) => void} tell
 */
export function openPages(platform, url, token, tell, { credentials } = {}) {
  const cancel = new AbortController();
  const asked = url.searchParams;
  const session = url.pathname.split('/').at(-1);
  let opened = false;

  /** @returns {Promise<any>} undefined where it was told that there is none; `reset` where the place is not one any more */
  async function get(query) {
    const address = new URL(url.href);
    address.search = new URLSearchParams(query).toString();
    const answer = await ask(platform, address, token, { accept: 'application/json', signal: cancel.signal, credentials });
    if (answer.status === 200) {
      const page = await answer.json();
      if (page.session === session && Array.isArray(page.entries)) return page;
      throw new TypeError('not a gateway’s page');
    }
    const problem = await refused(answer);
    const isAbsent = problem.type === 'urn:baton:problem:no-such-session';
    if (isAbsent && (query.after ?? '0') === '0') return { entries: [], first: null, last: null, more: false };
    if (isAbsent || problem.type === 'urn:baton:problem:continuity-broken') return { reset: problem.reason ?? 'deleted' };
    tell(problem);
    return undefined;
  }

  /** The place that was asked for; undefined where it was told that there is none. */
  async function beginning() {
    const [offset, last] = [asked.get('offset'), asked.get('last')];
    if (last === null && offset !== '$') return offset ?? '0';
    const newest = await get({ limit: 1 });
    if (newest === undefined || offset === '$' || newest.last === null) return newest && (newest.last ?? '0');
    let place = newest.last;
    for (let left = Number(last); left > 0; ) {
      const limit = Math.min(left, pageLimit);
      const page = await get({ before: place, limit });
      if (page === undefined) return undefined;
      if (page.reset || page.entries.length < limit) return '0';
      place = placeOf(page.entries[0]);
      left -= limit;
    }
    return place;
  }

  async function read() {
    let after = await beginning();
    if (after === undefined) return;
    const frame = (frame) => tell({ event: 'frame', frame });
    const open = new Set();
    let [isLive, sawEnd] = [false, false];
    for (;;) {
      const page = await get({ after, limit: pageLimit, ...(isLive && { wait: `${pageWait}s` }) });
      if (page === undefined) return;
      const recovered = !page.reset && after === asked.get('offset') && after !== '0';
      if (!opened) frame({ type: 'attached', offset: page.reset ? '0' : after, recovered, first: page.first, last: page.last, features: ['input', 'cancel'] });
      opened = true;
      if (page.reset) {
        after = '0';
        isLive = false;
        open.clear();
        frame({ type: 'reset', reason: page.reset, from: '0', offset: '0' });
        continue;
      }
      tell({ event: 'heard' });
      for (const entry of page.entries) {
        after = placeOf(entry);
        frame(entry);
        const isEnd = ['end', 'error', 'cancelled'].includes(entry.event);
        sawEnd ||= isEnd;
        if (isEnd) open.delete(entry.response);
        else if (entry.response !== undefined) open.add(entry.response);
      }
      if (!page.more && !isLive) frame({ type: 'live', offset: after });
      isLive ||= !page.more;
      if (asked.has('until') && isLive && sawEnd && open.size === 0) return tell({ event: 'closed', code: 1000 });
    }
  }

  read().catch(() => !cancel.signal.aborted && tell(opened ? { event: 'closed', code: 1006 } : { event: 'failed' }));
  return { send: sender(platform, url, token, tell, { credentials, signal: cancel.signal }), close: () => cancel.abort() };
}

/** Of an entry, or of one that was skipped. */
const placeOf = ({ id, offset }) => id ?? offset;

/** HTML Living Standard, 9.2.6, as far as a gateway uses it: one frame is one `data:` line. */
export class EventParser {
  #rest = '';
  #data = /** @type {string|undefined} */ (undefined);

  constructor(tell) {
    this.tell = tell;
  }

  feed(text) {
    const lines = (this.#rest + text).split('\n');
    this.#rest = lines.pop() ?? '';
    for (const line of lines) this.#line(line.endsWith('\r') ? line.slice(0, -1) : line);
    if (this.#rest.length > maxLine) this.tell({ event: 'garbled' });
  }

  #line(line) {
    if (line.startsWith('data:')) {
      const data = line.slice(line[5] === ' ' ? 6 : 5);
      this.#data = this.#data === undefined ? data : `${this.#data}\n${data}`;
    } else if (line !== '') {
      if (line.startsWith(':')) this.tell({ event: 'heard' });
    } else if (this.#data !== undefined) {
      const data = this.#data;
      this.#data = undefined;
      this.tell(parsed(data));
    }
  }
}

function parsed(data) {
  try {
    if (typeof data === 'string') return { event: 'frame', frame: JSON.parse(data) };
  } catch {}
  return { event: 'garbled' };
}

async function refused(answer) {
  const seconds = Number(answer.headers.get('Retry-After'));
  const isJSON = answer.headers.get('Content-Type')?.startsWith('application/problem+json'); // RFC 9457
  const { type, detail, reason } = (isJSON && (await answer.json().catch(() => undefined))) || {};
  const problem = typeof type === 'string' && type.startsWith('urn:baton:problem:');
  return { event: 'refused', status: answer.status, problem, retryAfterMs: seconds > 0 ? seconds * 1000 : 0, detail, type, reason };
}
