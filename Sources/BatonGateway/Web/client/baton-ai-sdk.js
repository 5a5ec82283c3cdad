// The AI SDK's chat transport over Baton (the article Relay): the stream of a message goes on at its place across lost
// connections, gateways and sleep, and a page hears of messages that begin elsewhere.
//
//   import { BatonChatTransport } from 'https://gateway.example/baton-ai-sdk.js';
//   const transport = new BatonChatTransport({ url: 'https://gateway.example' });
//   useChat({ id, transport, resume: true });
//
// Apache-2.0.

import { attach } from './baton.js';
import { randomKey } from './baton-page.js';

const retried = new Set([429, 502, 503, 504]);
const tries = 8;
/** Of an event that goes on in the next entry, in characters; what is larger is left out. */
const longest = 16 * 1024 * 1024;

/** Where an abort, the end of a stream and `stop()` of `useChat` only stop reading; {@link stop} ends the answer. */
export class BatonChatTransport {
  #options;
  #urls;
  #fetch;
  #wait;
  /** The URL that answered last. */
  #at = 0;
  /** Responses that this transport has asked for, by chat, and how many questions are on their way. */
  #own = new Map();
  #asking = new Map();

  /** @param {import('./baton-ai-sdk.js').Options} [options] */
  constructor(options = {}) {
    this.#options = options;
    this.#urls = [options.url ?? ''].flat();
    const { fetch, setTimeout } = { ...globalThis, ...options.platform };
    this.#fetch = (...given) => fetch(...given);
    this.#wait = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
  }

  async sendMessages({ chatId, messages, trigger, messageId, abortSignal, headers, body }) {
    const asked = { ...(await given(this.#options.body)), ...body, id: chatId, messages, trigger, messageId };
    // To regenerate is to ask anew, once.
    const key = trigger === 'regenerate-message' ? { 'Idempotency-Key': randomKey() } : {};
    this.#asking.set(chatId, (this.#asking.get(chatId) ?? 0) + 1);
    let turn;
    try {
      const answer = await this.#ask('POST', '', { ...key, ...entriesOf(headers) }, JSON.stringify(asked), abortSignal);
      turn = await answer.json();
      this.#owned(chatId).add(turn.responses.at(-1));
    } finally {
      this.#asking.set(chatId, this.#asking.get(chatId) - 1);
    }
    return this.#stream(chatId, turn, false, abortSignal);
  }

  /** The newest message from its beginning; null where there is none to resume. */
  async reconnectToStream({ chatId, headers, abortSignal }) {
    const answer = await this.#ask('GET', `/${encodeURIComponent(chatId)}/stream`, entriesOf(headers), undefined, abortSignal);
    return answer.status === 204 ? null : this.#stream(chatId, await answer.json(), true, abortSignal);
  }

  /** Ends the answer, for everybody. Does nothing where none is on its way. */
  async stop(chatId) {
    await this.#ask('POST', `/${encodeURIComponent(chatId)}/stop`, {});
  }

  /**
   * Tells of responses that begin from now on and were not asked for here: call `resumeStream()` of `useChat` then.
   * @param {(response: string) => void} started
   * @returns {() => void} ends it
   */
  watch(chatId, started) {
    const seen = new Set();
    let held = [];
    const tell = () => {
      if (this.#asking.get(chatId)) return;
      for (const response of held.splice(0)) if (!this.#owned(chatId).has(response)) started(response);
    };
    const session = attach(this.#urls, chatId, {
      ...this.#attaching(),
      offset: '$',
      onentry: ({ event, response }) => {
        if (response && !seen.has(response)) {
          seen.add(response);
          if (!['end', 'error', 'cancelled'].includes(event)) held.push(response);
        }
        tell();
      },
      onreset: () => (held = []),
    });
    return () => session.close();
  }

  #owned(chatId) {
    if (!this.#own.has(chatId)) this.#own.set(chatId, new Set());
    return this.#own.get(chatId);
  }

  #attaching() {
    const { token, credentials, platform } = this.#options;
    return { token, credentials, platform };
  }

  /** Asks the gateways in turn until one answers. What is asked twice is done once. */
  async #ask(method, path, headers, body, signal) {
    const { api = '/v1/ai-sdk', token, credentials } = this.#options;
    for (let tried = 1; ; tried++) {
      const jwt = await given(token);
      const all = {
        Accept: 'application/json',
        ...(body === undefined ? {} : { 'Content-Type': 'application/json' }),
        ...(jwt ? { Authorization: `Bearer ${jwt}` } : {}),
        ...entriesOf(await given(this.#options.headers)),
        ...headers,
      };
      let answer, failure;
      try {
        const url = this.#urls[this.#at % this.#urls.length].replace(/\/+$/, '') + api + path;
        answer = await this.#fetch(url, { method, headers: all, body, credentials, signal });
      } catch (error) {
        if (signal?.aborted) throw error;
        failure = error;
      }
      if (answer?.ok) return answer;
      if (answer && !retried.has(answer.status)) throw new Error((await answer.text()) || `The gateway answered ${answer.status}.`);
      if (tried === tries) throw failure ?? new Error((await answer.text()) || `The gateway answered ${answer.status}.`);
      this.#at++;
      await this.#wait(Math.min(100 * 2 ** tried, 5000) * (0.5 + Math.random() / 2));
      if (signal?.aborted) throw aborted(signal);
    }
  }

  #stream(chatId, { responses, offset }, isWhole, signal) {
    if (signal?.aborted) throw aborted(signal);
    const session = attach(this.#urls, chatId, { ...this.#attaching(), offset });
    const events = session[Symbol.asyncIterator]();
    const message = new UIMessage(responses, isWhole);
    let hasTold = false;
    return new ReadableStream({
      start(controller) {
        signal?.addEventListener('abort', () => {
          session.close();
          controller.error(aborted(signal));
        }, { once: true });
      },
      async pull(controller) {
        for (;;) {
          const { done, value } = await events.next();
          if (signal?.aborted) return;
          if (done) return controller.error(new Error('The session was closed before the end of the message.'));
          // What was told can't be taken back.
          if (value.type === 'reset' && hasTold) {
            session.close();
            return controller.error(new Error(`The session does not go on (${value.reason}).`));
          }
          const chunks = value.type === 'entry' ? message.take(value) : value.type === 'skipped' ? message.skip(value.response) : [];
          for (const chunk of chunks) controller.enqueue(chunk);
          hasTold ||= chunks.length > 0;
          if (message.isOver) {
            controller.close();
            return session.close();
          }
          if (chunks.length > 0) return;
        }
      },
      cancel() {
        session.close();
      },
    });
  }
}

function aborted(signal) {
  return signal.reason ?? new DOMException('The message is read no more.', 'AbortError');
}

/** A value, or what a function gives. */
async function given(value) {
  return typeof value === 'function' ? value() : value;
}

function entriesOf(headers) {
  return headers instanceof Headers ? Object.fromEntries(headers) : (headers ?? {});
}

const kinds = { text: 'text', refusal: 'text', reasoning: 'reasoning', summary: 'reasoning', tool: 'tool' };

/** The chunks of one message, of its entries: what a gateway makes of them (`UIMessageWire`). */
export class UIMessage {
  isOver = false;
  #responses;
  #isWhole;
  #hasStarted = false;
  #tools = new Set();
  #at = {};

  /**
   * @param {string[]} responses Those that it consists of, in order.
   * @param {boolean} isWhole All its tool calls come here; else the client has them.
   */
  constructor(responses, isWhole) {
    this.#responses = responses;
    this.#isWhole = isWhole;
  }

  /** @returns {object[]} */
  take({ event = 'token', response, part, n, data, data64, more }) {
    if (this.isOver || !this.#responses.includes(response)) return [];
    const at = (this.#at = this.#at.response === response ? this.#at : { response, n: 0, open: [], inputs: new Set(), begun: '' });
    if (n !== undefined) {
      if (n <= at.n) return []; // a repeat
      at.n = n;
    }
    const text = data ?? (data64 === undefined ? undefined : new TextDecoder().decode(Uint8Array.from(atob(data64), (one) => one.charCodeAt(0))));
    const isLast = response === this.#responses.at(-1);
    switch (event) {
      case 'start': {
        const told = object(text);
        at.isOurs = told.wire === 'ai-sdk';
        at.messageId = told.messageId;
        return at.isOurs ? [] : this.#begin();
      }
      case 'ui': {
        at.isOurs = true;
        if (at.begun !== undefined) at.begun = at.begun.length + (text?.length ?? 0) > longest ? undefined : at.begun + (text ?? '');
        if (more) return [];
        const chunk = object(at.begun);
        at.begun = '';
        return typeof chunk.type === 'string' ? this.#chunk(chunk, isLast) : [];
      }
      case 'token':
        return text === undefined ? [] : this.#delta(part, text);
      case 'end':
      case 'error':
      case 'cancelled':
        return isLast ? this.#end(event, text) : [];
      default:
        return [];
    }
  }

  /** An entry was too large to be sent: of a response, where that is known. */
  skip(response) {
    if (response !== undefined && !this.#responses.includes(response)) return [];
    return this.#fail('A part of the answer is too large for the gateway.');
  }

  #begin() {
    if (this.#hasStarted) return [];
    this.#hasStarted = true;
    const start = { type: 'start', messageId: this.#at.messageId ?? this.#at.response ?? this.#responses[0] };
    return this.#at.isOurs ? [start] : [start, { type: 'start-step' }];
  }

  #chunk(chunk, isLast) {
    const at = this.#at;
    const { type, id, toolCallId } = chunk;
    const metadata = () => (chunk.messageMetadata === undefined ? [] : [{ type: 'message-metadata', messageMetadata: chunk.messageMetadata }]);
    if (type === 'start') {
      if (this.#hasStarted) return metadata();
      this.#hasStarted = true;
      return [{ ...chunk, messageId: chunk.messageId || at.messageId || at.response }];
    }
    const chunks = this.#begin();
    const [, kind, deed] = /^(text|reasoning)-(start|delta|end)$/.exec(type) ?? [];
    const name = `${kind}:${id}`;
    const isOpen = at.open.includes(name);
    if (deed === 'start') {
      if (isOpen) return chunks;
      at.open.push(name);
    } else if (deed === 'delta') {
      chunks.push(...this.#open(kind, id));
    } else if (deed === 'end') {
      if (!isOpen) return chunks;
      at.open = at.open.filter((one) => one !== name);
    } else if (type === 'finish' || type === 'abort' || type === 'error') {
      if (!isLast) return [...chunks, ...metadata()];
      at.hasEnd = true;
    } else if (type === 'finish-step') {
      at.open = [];
    } else if (type === 'tool-input-delta') {
      if (!at.inputs.has(toolCallId)) return chunks;
    } else if (type.startsWith('tool-input-')) {
      this.#tools.add(toolCallId);
      if (type === 'tool-input-start') at.inputs.add(toolCallId);
    } else if (type.startsWith('tool-output-') || type === 'tool-approval-request') {
      if (this.#isWhole && !this.#tools.has(toolCallId)) return chunks;
    }
    return [...chunks, chunk];
  }

  #open(kind, id) {
    const name = `${kind}:${id}`;
    if (this.#at.open.includes(name)) return [];
    this.#at.open.push(name);
    return [{ type: `${kind}-start`, id }];
  }

  #delta(part, delta) {
    const [named, ...rest] = (part ?? `text:${this.#at.response}`).split(':');
    const id = rest.join(':');
    const kind = Object.hasOwn(kinds, named) ? kinds[named] : undefined;
    if (!kind || (kind === 'tool' && !this.#at.inputs.has(id))) return [];
    const chunks = this.#begin();
    if (kind === 'tool') return [...chunks, { type: 'tool-input-delta', toolCallId: id, inputTextDelta: delta }];
    return [...chunks, ...this.#open(kind, id), { type: `${kind}-delta`, id, delta }];
  }

  #end(event, text) {
    const at = this.#at;
    if (!at.hasEnd && event === 'error') {
      const told = object(text);
      return this.#fail(told.message ?? told.reason ?? 'The answer broke off.');
    }
    const chunks = this.#begin();
    this.isOver = true;
    if (at.hasEnd) return chunks;
    if (event === 'cancelled') return [...chunks, { type: 'abort' }];
    for (const name of at.open) chunks.push({ type: `${name.split(':')[0]}-end`, id: name.slice(name.indexOf(':') + 1) });
    return at.isOurs ? chunks : [...chunks, { type: 'finish-step' }, { type: 'finish' }];
  }

  #fail(errorText) {
    if (this.isOver) return [];
    const chunks = this.#begin();
    this.isOver = true;
    return [...chunks, { type: 'error', errorText }];
  }
}

function object(text) {
  try {
    const value = JSON.parse(text);
    return value && typeof value === 'object' ? value : {};
  } catch {
    return {};
  }
}
