// The same answer as others read it, over plain HTTP. A reader that is cut off asks the next gateway.

/**
 * @param {string} session
 * @param {string|undefined} token
 * @param {() => string[]} addresses of the gateways; none before they are known
 * @param {() => string|undefined} newest the newest response's name
 */
export function showWires(session, token, addresses, newest, { terminal, useChat, openai }) {
  let turn = 0;
  /** While the page is shown: one that a browser keeps for going back would keep its connections. */
  let shown;

  /** Of the gateway whose turn it is. */
  function address(path, query = {}) {
    const all = addresses();
    const url = new URL(path, all[turn % all.length]);
    url.search = new URLSearchParams(token === undefined ? query : { ...query, token });
    return url.href;
  }

  // As a terminal shows it: what EventSource brings, from the place after what is shown

  let offset = '0';
  const numbers = new Map();

  function listen(signal) {
    if (signal.aborted) return;
    if (addresses().length === 0) return setTimeout(listen, 100, signal);
    const source = new EventSource(address(`v1/sessions/${session}`, { offset }));
    source.onmessage = ({ data, lastEventId }) => {
      offset = lastEventId || offset;
      const frame = JSON.parse(data);
      if (frame.type === 'reset') {
        offset = '0';
        numbers.clear();
        terminal.replaceChildren();
        again();
      } else if (frame.event === 'token' && /^text:|^$/.test(frame.part ?? '')) {
        print(frame);
      }
    };
    const again = () => {
      source.close();
      turn++;
      setTimeout(listen, 200 + 300 * Math.random(), signal);
    };
    source.onerror = again;
    signal.addEventListener('abort', () => source.close());
  }

  function print({ response = '', n, data = '' }) {
    const last = numbers.get(response);
    if (n !== undefined && n <= last) return; // a number is shown once
    if (!numbers.has(response) && numbers.size > 0) append(terminal, '\n\n');
    numbers.set(response, n ?? last);
    append(terminal, data);
  }

  // As the AI SDK's useChat is sent it: the newest message from its beginning, whenever one is asked for

  /** The message that has been read to its end. */
  let ended;

  async function resume(signal) {
    if (signal.aborted) return;
    const wasCut = addresses().length > 0 && (await read(signal).catch(() => true));
    if (wasCut) turn++;
    setTimeout(resume, wasCut ? 200 : 1000, signal);
  }

  /** @returns {Promise<boolean>} whether it broke off */
  async function read(signal) {
    const answer = await fetch(address(`v1/ai-sdk/${session}/stream`), { cache: 'no-store', signal });
    if (answer.status !== 200) return answer.status !== 204;
    let id;
    for await (const chunk of chunks(answer.body)) {
      if (chunk === '[DONE]') {
        ended = id;
        return false;
      }
      if (chunk.type === 'start') {
        id = chunk.messageId;
        if (id === ended) return false;
        useChat.replaceChildren();
      } else if (chunk.type === 'text-delta') {
        append(useChat, chunk.delta);
      }
    }
    return true;
  }

  // As the openai package is sent it: one response's events after the last one that came

  /** Of the response that is shown: its name, the last event's number, whether it is whole. */
  let script = { response: undefined, number: -1, isOver: false };

  async function retrieve(signal) {
    if (signal.aborted) return;
    const response = newest();
    if (response !== script.response) {
      script = { response, number: -1, isOver: false };
      openai.replaceChildren();
    }
    const isMore = response !== undefined && !script.isOver && addresses().length > 0;
    const wasCut = isMore && (await readEvents(response, signal).catch(() => true));
    if (wasCut) turn++;
    setTimeout(retrieve, wasCut ? 200 : 500, signal);
  }

  /** @returns {Promise<boolean>} whether it broke off */
  async function readEvents(response, signal) {
    const place = script.number < 0 ? {} : { starting_after: script.number };
    const answer = await fetch(address(`v1/responses/${response}~${session}`, { stream: true, ...place }), { cache: 'no-store', signal });
    if (answer.status !== 200) return answer.status !== 404;
    for await (const event of chunks(answer.body)) {
      if (response !== newest()) return false;
      script.number = event.sequence_number;
      if (event.type === 'response.output_text.delta') append(openai, event.delta);
      script.isOver = ['response.completed', 'response.incomplete', 'response.failed'].includes(event.type);
      if (script.isOver) return false;
    }
    return true;
  }

  function start() {
    shown = new AbortController();
    listen(shown.signal);
    resume(shown.signal);
    retrieve(shown.signal);
  }

  addEventListener('pagehide', () => shown.abort());
  addEventListener('pageshow', ({ persisted }) => persisted && start());
  start();
}

function append(element, text) {
  const atEnd = element.scrollHeight - element.scrollTop - element.clientHeight < 40;
  element.append(text);
  if (atEnd) element.scrollTop = element.scrollHeight;
}

async function* chunks(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = '';
  try {
    for (let piece = await reader.read(); !piece.done; piece = await reader.read()) {
      const lines = (rest + piece.value).split('\n');
      rest = lines.pop();
      for (const line of lines) {
        if (line === 'data: [DONE]') yield '[DONE]';
        else if (line.startsWith('data: ')) yield JSON.parse(line.slice(6));
      }
    }
  } finally {
    reader.cancel();
  }
}
