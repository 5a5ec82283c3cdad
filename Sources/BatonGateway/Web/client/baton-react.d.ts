import type { End, Options, Response, State } from './baton.js';

/** What a session is at one moment, and what can be said to it. The same object until something changes, and of `responses` each one is. */
export interface Baton {
  /** By name, in the order of their first entries. */
  readonly responses: ReadonlyMap<string, Readonly<Response>>;
  /** The text of the newest response. */
  readonly text: string;
  /** `connecting` on a server, and until a component is mounted. */
  readonly state: State;
  /** The gateway's name, once attached. */
  readonly node: string | undefined;
  /** The place after the last entry that is shown. */
  readonly offset: string | undefined;
  /** Why there is nothing more to come, once `state` is `ended`. */
  readonly end: End | undefined;
  /** Adds what a person typed to the session. Rejects with a BatonError, `not_attached` while no component is mounted. Always the same function, as are the others. */
  readonly input: (data: string, options?: { key?: string; signal?: AbortSignal }) => Promise<{ key: string; inboxId: string }>;
  /** Asks the response's producer to stop, wherever it runs. */
  readonly cancel: (response: string, options?: { key?: string; signal?: AbortSignal }) => Promise<{ key: string; inboxId: string }>;
  /** Cancels every response that is open; resolves once these are in the session. */
  readonly stop: () => Promise<{ key: string; inboxId: string }[]>;
}

/**
 * Attaches while a component that calls it is mounted. All that name the same gateways, session, `device`, `response` and person (the subject of a
 * `token` that is a string; for functions give the component a `key`) share one session, which is closed a tick after the last one was unmounted. The first one's
 * other options count, and the newest `token`; one that is a string and has been refused, or expires, is waited for to change. The callbacks
 * of each are called, from its mounting on.
 *
 * Renders at most every 16 ms. Throws a TypeError as `attach` does, when the component is mounted. Without a session (undefined, null) nothing is attached.
 */
export function useBaton(urls: string | string[], session: string | null | undefined, options?: Options): Baton;
