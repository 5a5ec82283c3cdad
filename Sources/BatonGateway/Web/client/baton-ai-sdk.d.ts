import type { Entry, Options as AttachOptions } from './baton.js';

type Given<T> = T | (() => T | Promise<T>);

export interface Options {
  /** Gateways to take turns with; '' (the default) is the page's own origin. */
  url?: string | string[];
  /** Where they are asked; default `/v1/ai-sdk`. */
  api?: string;
  /** As for `attach`. */
  token?: AttachOptions['token'];
  /** Beside the chat's own: for questions, not for reading. */
  headers?: Given<Record<string, string> | Headers>;
  body?: Given<object>;
  credentials?: RequestCredentials;
  platform?: AttachOptions['platform'];
}

interface Request {
  chatId: string;
  abortSignal?: AbortSignal;
  headers?: Record<string, string> | Headers;
  body?: object;
  metadata?: unknown;
}

/**
 * A `ChatTransport` of the AI SDK. Its streams go on at their place across lost connections, gateways and sleep. An abort, and `useChat`'s own
 * `stop()`, only stop reading.
 */
export class BatonChatTransport<Message = any, Chunk = any> {
  constructor(options?: Options);
  sendMessages(
    request: Request & { trigger: 'submit-message' | 'regenerate-message'; messageId: string | undefined; messages: Message[] },
  ): Promise<ReadableStream<Chunk>>;
  /** The newest message from its beginning; null where there is none to resume. */
  reconnectToStream(request: Request): Promise<ReadableStream<Chunk> | null>;
  /** Ends the answer, for everybody. Does nothing where none is on its way. */
  stop(chatId: string): Promise<void>;
  /** Tells of responses that begin from now on and were not asked for here: call `resumeStream()` of `useChat` then. Returns what ends it. */
  watch(chatId: string, started: (response: string) => void): () => void;
}

/** The chunks of one message, of its entries. */
export class UIMessage<Chunk = any> {
  /** `isWhole`: all tool calls of the message come here; else the client has them. */
  constructor(responses: string[], isWhole: boolean);
  readonly isOver: boolean;
  take(entry: Omit<Entry, 'type' | 'id'>): Chunk[];
  /** An entry was too large to be sent. */
  skip(): Chunk[];
}
