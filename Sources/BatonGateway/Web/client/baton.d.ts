/** An entry of the stream, as PROTOCOL section 4 has it. `type` is `entry`; its own kind is `event`. */
export interface Entry {
  type: 'entry';
  /** Its offset, with its check. */
  id: string;
  /** `token`, `start`, `end`, `error`, `cancelled`, `input`, or the producer's own. */
  event: string;
  response?: string;
  /** Which part of the response it belongs to, `kind:name`; absent for the answer's text. */
  part?: string;
  /** The number of the (last) delta in this entry within its response, from 1, over all parts. */
  n?: number;
  /** How many deltas this entry stands for; absent: 1. */
  joined?: number;
  /** The data goes on in the next entry of the same response and event. */
  more?: true;
  data?: string;
  /** Base64, in place of `data`, where the data is not UTF-8. */
  data64?: string;
  fields?: Record<string, unknown>;
}

export interface Reset {
  type: 'reset';
  reason: 'trimmed' | 'diverged' | 'ahead' | 'deleted' | 'replay';
  /** Everything after this place is no longer true. `0`: everything. */
  from: string;
  offset: string;
  requested?: string;
  first?: string | null;
  last?: string | null;
}

export type BatonEvent =
  | Entry
  | Reset
  | {
      type: 'attached';
      session: string;
      device: string;
      node: string;
      offset: string;
      /** It goes on at the place that this device had, and nothing is missing from there on. False for one that had none, and where a `reset` follows. */
      recovered: boolean;
      features?: string[];
    }
  | { type: 'live'; offset: string }
  | { type: 'behind' }
  | { type: 'skipped'; offset: string; reason: string; bytes: number; response?: string }
  | { type: 'stalled'; reason: string }
  | { type: 'draining'; retryAfterMs: number }
  | { type: 'expiring'; inMs: number }
  | {
      type: 'error';
      /** The gateway's, or `unreachable`, `unauthorized`, `token`, `token_too_short`, `token_too_long`, `too_many_streams`, `mixed_content`, `store`, `connect`, `internal`. */
      code: string;
      message?: string;
    };

export type State = 'connecting' | 'behind' | 'live' | 'stalled' | 'waiting' | 'unauthorized' | 'suspended' | 'ended';

export interface End {
  /** `finished`: nothing more will come; `closed`: by this app; `rejected`: by the gateway. */
  reason: 'finished' | 'closed' | 'rejected';
  code?: number;
  status?: number;
  /** What the gateway says there is to mend. */
  detail?: string;
}

export interface Response {
  text: string;
  /** The number of the last delta. */
  n: number;
  state: 'open' | 'end' | 'error' | 'cancelled';
}

/** The offset together with the text before it: neither is of use without the other. */
export interface Snapshot {
  offset: string;
  /** In the order of their first entries; `pending`: the first bytes of a character, in base64. */
  responses?: (Response & { name: string; pending?: string })[];
}

/** An input or a cancel, as it is sent. */
export type Submission = { type: 'input'; key: string; data: string } | { type: 'cancel'; key: string; response: string };

/** A store that fails, or does not answer within 2 s, is told by `error` `store` and stops nothing. */
export interface Store {
  load(): Snapshot | undefined | Promise<Snapshot | undefined>;
  /** Once a second while something comes, after each 64 Ki characters, and when the page is hidden or left. */
  save(snapshot: Snapshot): void | Promise<void>;
  /** What waits for its answer; without these three it ends with the page. */
  loadUnanswered?(): Submission[] | undefined;
  saveUnanswered?(submission: Submission): void | Promise<void>;
  dropUnanswered?(key: string): void | Promise<void>;
  /** After a refusal, and by `forget()`. */
  forget?(): void | Promise<void>;
}

export interface Options {
  /** Where to begin where nothing is kept: `0` (all, the default), `$` (only what comes), or a place that was kept with its text. */
  offset?: string;
  /** Instead of `offset`: the newest entries, 1 to 10,000. */
  last?: number;
  /** Instead of both: this response only, to its end. */
  response?: string;
  /** Whether deltas may come joined: while behind (`auto`), never (`off`), or within this many milliseconds, 1 to 1000. */
  rollup?: 'auto' | 'off' | number;
  /** Ends once nothing is open any more. */
  until?: 'end';
  /** This device's name, 1 to 64 characters. */
  device?: string;
  /**
   * A JWT; or a function that gives one, asked again when it expires. It is asked one question at a time and may take as long as a person takes
   * to sign in.
   */
  token?: string | (() => string | Promise<string>);
  /** Closes the session when it is aborted. */
  signal?: AbortSignal;
  /** As of `fetch`, for server-sent events and pages. WebSockets carry the cookies of their origin anyway. */
  credentials?: RequestCredentials;
  /**
   * What outlives a reload of the page. Without it everything is asked for again, from `offset` or `last`. `session` keeps
   * offset and text in the tab's sessionStorage (up to 512 Ki characters; of a longer conversation the beginning, and the rest comes again), and
   * what was submitted and has no answer yet, which is sent again; for these gateways, this session, the token's subject and these
   * options. It is shown once a gateway has let the person in, and removed by a refusal and by `forget()`. An app that keeps the text itself
   * gives a store of its own, and may ignore `responses`.
   */
  store?: 'session' | Store;
  /** Bytes that may wait for a `for await` loop; default 1 MiB. */
  maxBuffer?: number;

  /** The whole text of a response whenever it changes, and what was added; undefined where text was taken back. */
  ontext?(text: string, response: string, added: string | undefined): void;
  onstate?(state: State): void;
  onend?(end: End): void;
  onentry?(entry: Entry): void;
  onreset?(event: Reset): void;
  onattached?(event: BatonEvent & { type: 'attached' }): void;
  onlive?(event: BatonEvent & { type: 'live' }): void;
  onbehind?(event: BatonEvent & { type: 'behind' }): void;
  onskipped?(event: BatonEvent & { type: 'skipped' }): void;
  onstalled?(event: BatonEvent & { type: 'stalled' }): void;
  ondraining?(event: BatonEvent & { type: 'draining' }): void;
  onexpiring?(event: BatonEvent & { type: 'expiring' }): void;
  onerror?(event: BatonEvent & { type: 'error' }): void;

  /** Stand-ins for the browser's own parts, for tests and demonstrations. */
  platform?: Partial<Record<'WebSocket' | 'fetch' | 'now' | 'random' | 'setTimeout' | 'clearTimeout' | 'window' | 'document' | 'sessionStorage', any>>;
}

/** Why something was refused: `code` is the gateway's, or `too_big`, `too_many`, `key_conflict`, `ended`, `rejected`, `one_reader`, `not_attached` (React). */
export class BatonError extends Error {
  code: string;
  status?: number;
  closeCode?: number;
}

/** What `addEventListener` tells: `detail` is what the callback of the same name gets. */
export interface SessionEvents {
  text: CustomEvent<{ text: string; response: string; added: string | undefined }>;
  state: CustomEvent<State>;
  end: CustomEvent<End>;
  entry: CustomEvent<Entry>;
  reset: CustomEvent<Reset>;
  attached: CustomEvent<BatonEvent & { type: 'attached' }>;
  live: CustomEvent<BatonEvent & { type: 'live' }>;
  behind: CustomEvent<BatonEvent & { type: 'behind' }>;
  skipped: CustomEvent<BatonEvent & { type: 'skipped' }>;
  stalled: CustomEvent<BatonEvent & { type: 'stalled' }>;
  draining: CustomEvent<BatonEvent & { type: 'draining' }>;
  expiring: CustomEvent<BatonEvent & { type: 'expiring' }>;
  error: CustomEvent<BatonEvent & { type: 'error' }>;
}

export interface ResponseStep extends Response {
  /** Since the last step; undefined where text was taken back. */
  added: string | undefined;
}

/** Nothing is told after `close()` has returned. */
export interface Session extends AsyncIterable<BatonEvent>, EventTarget {
  addEventListener<T extends keyof SessionEvents>(type: T, listener: (event: SessionEvents[T]) => void, options?: boolean | AddEventListenerOptions): void;
  addEventListener(type: string, listener: EventListenerOrEventListenerObject | null, options?: boolean | AddEventListenerOptions): void;
  readonly session: string;
  /** The place after the last entry that was delivered. */
  readonly offset: string | undefined;
  readonly state: State;
  readonly transport: 'websocket' | 'sse' | 'pages';
  /** The URL in use, and the name of its gateway. */
  readonly url: string;
  readonly node: string | undefined;
  readonly responses: ReadonlyMap<string, Readonly<Response>>;
  /** The inputs and cancels that wait for their answer, oldest first; with `store: 'session'` those of before a reload, too. */
  readonly unanswered: Submission[];
  /** Resolves when the session ends on this device; never rejects. */
  readonly ended: Promise<End>;
  text(response?: string): string;
  /** One response as it grows, for `for await`, to its end. It holds the newest state only: a slow loop skips steps and never text. */
  response(name: string): AsyncIterableIterator<ResponseStep>;
  /** Resolves once it is in the session, rejects with a BatonError. Sent again after a lost connection; `key` makes a repetition harmless; `signal` takes it back as far as it was not sent. May be awaited in a `for await` loop. */
  input(data: string, options?: { key?: string; signal?: AbortSignal }): Promise<{ key: string; inboxId: string }>;
  /** Asks the response's producer to stop, wherever it runs. */
  cancel(response: string, options?: { key?: string; signal?: AbortSignal }): Promise<{ key: string; inboxId: string }>;
  /** Goes to the next gateway now, at the same place. */
  move(): void;
  close(): void;
  /** For sign-out: closes, and removes what was kept. */
  forget(): void;
}

/** Of the client's files. They may be copied and bundled, all of one version. */
export const version: string;

/**
 * Attaches to a session and stays attached, across lost connections, gateways, sleep and networks. Throws a TypeError for a bad name or
 * URL, and in a browser older than Chromium 98, Firefox 97 or Safari 15.4 (March 2022).
 */
export function attach(urls: string | string[], session: string, options?: Options): Session;

/**
 * For `ontext`: shows the newest text in this element. What is laid out for a token does not grow with the text, as it does where `textContent`
 * is set for each.
 */
export function textInto(element: Element): (text: string, response: string, added: string | undefined) => void;

/** Which of two places comes first in the stream, as `sort` wants it; checks are left out. Throws a TypeError for what is no place. */
export function compareOffsets(a: string, b: string): number;
