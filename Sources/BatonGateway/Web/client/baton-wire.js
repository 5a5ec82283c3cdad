// The two wires of a session: a WebSocket, and server-sent events where it does not get through.
// Both tell what happens as events of BatonMachine and are closed with `close(code)`.

const maxLine = 16 * 1024 * 1024;
const closeFollows = 100; // milliseconds after `error`

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
  let opened = false;
  socket.onopen = () => {
    opened = true;
    tell({ event: 'opened' });
  };
  socket.onmessage = ({ data }) => tell(parsed(data));
  socket.onclose = ({ code }) => {
    platform.clearTimeout(missing);
    tell(opened ? { event: 'closed', code } : { event: 'failed' });
  };
  // What the browser itself refuses (a content policy, mixed content) may bring `error` and never `close`.
  let missing;
  socket.onerror = () => {
    missing = platform.setTimeout(() => socket.onclose?.({ code: 1006 }), closeFollows);
  };
  return {
    send: (frame) => socket.send(JSON.stringify(frame)),
    close(code) {
      platform.clearTimeout(missing);
      socket.onopen = socket.onmessage = socket.onclose = socket.onerror = null;
      socket.close(code);
    },
  };
}

/** Not EventSource: that hides HTTP statuses and comment lines. @param {(event: object) => void} tell */
export function openEventStream(platform, url, token, tell, { credentials } = {}) {
  const cancel = new AbortController();
  const headers = { Accept: 'text/event-stream' };
  if (token && url.origin === globalThis.location?.origin) headers.Authorization = `Bearer ${token}`;
  else if (token) url.searchParams.set('token', token); // a header would cost a preflight
  let opened = false;
  async function read() {
    const answer = await platform.fetch(url.href, { headers, signal: cancel.signal, cache: 'no-store', ...(credentials && { credentials }) });
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
  return { send() {}, close: () => cancel.abort() };
}

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
  const { type, detail } = (isJSON && (await answer.json().catch(() => undefined))) || {};
  const problem = typeof type === 'string' && type.startsWith('urn:baton:problem:');
  return { event: 'refused', status: answer.status, problem, retryAfterMs: seconds > 0 ? seconds * 1000 : 0, detail };
}
