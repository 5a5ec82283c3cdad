export interface CreateResumableStreamContextOptions {
  /** Keeps the process alive until a promise is settled, as `after` of next/server does. null or undefined: a server lives on by itself. */
  waitUntil?: ((promise: Promise<unknown>) => void) | null;
  /** Gateways to take turns with; default: those of the environment's BATON_URL, else http://127.0.0.1:8080. */
  url?: string | string[];
  /** A JWT with the scopes `publish`, `read` and `cancel`; or a function that gives one, asked for each request. Default: the environment's BATON_TOKEN. */
  token?: string | (() => string | Promise<string>);
  /** Sessions are named `PREFIX:ID`; default `resumable-stream`. */
  keyPrefix?: string;
  /** Those of `resumable-stream`; not used. */
  subscriber?: unknown;
  publisher?: unknown;
}

/** A stream's id and the prefix have 128 characters at the most. */
export interface ResumableStreamContext {
  /**
   * The stream of this id from its beginning, but for `skipCharacters`; made by `makeStream` where there is none, once also for those who come at
   * the same time. null where it has ended. `cancellationController` is aborted when somebody cancels the stream.
   */
  resumableStream(
    streamId: string,
    makeStream: () => ReadableStream<string>,
    skipCharacters?: number,
    cancellationController?: AbortController,
  ): Promise<ReadableStream<string> | null>;
  /** Makes it, whatever there is of this id. Who leaves the returned stream does not end what is made. */
  createNewResumableStream(
    streamId: string,
    makeStream: () => ReadableStream<string>,
    skipCharacters?: number,
    cancellationController?: AbortController,
  ): Promise<ReadableStream<string> | null>;
  /** null where it has ended, undefined where there is none. Its error, and the end of the process that made it, are an error of the stream. */
  resumeExistingStream(streamId: string, skipCharacters?: number): Promise<ReadableStream<string> | null | undefined>;
  hasExistingStream(streamId: string): Promise<null | true | 'DONE'>;
  /** Ends it for everybody, wherever it is made. */
  sendCancellationSignal(streamId: string): Promise<void>;
}

export function createResumableStreamContext(options?: CreateResumableStreamContextOptions): ResumableStreamContext;
