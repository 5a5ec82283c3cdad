// Tells in a line what happened to a device: why it was away, how long, where it went on, and whether anything is missing.

const reloadKey = 'baton-demo-reload';

export class Journal {
  /** The number of the last token, whatever the response. */
  count = 0;
  #lastOf = new Map();
  #missing = 0;
  #caughtUp = 0;
  #away = undefined; // {since, cause}
  #cause = undefined;
  #returned = undefined;

  constructor(name, tell) {
    this.tell = tell;
    this.key = `${reloadKey} ${name}`;
    try {
      const since = Number(sessionStorage.getItem(this.key));
      sessionStorage.removeItem(this.key);
      if (since) this.#away = { since, cause: 'reloaded' };
    } catch {} // the browser keeps nothing
  }

  /** What the next loss will be put down to. */
  because(cause) {
    this.#cause = { cause, at: Date.now() };
    if (cause === 'plugged in again') this.#away && (this.#away.cause = 'cut off and plugged in again');
    else if (cause === 'cut off') this.note('cut off');
  }

  beforeReload() {
    try {
      sessionStorage.setItem(this.key, Date.now());
    } catch {}
  }

  state(state) {
    if ((state !== 'waiting' && state !== 'connecting') || this.#away || !this.#wasAttached) return;
    const known = this.#cause && Date.now() - this.#cause.at < 3000 ? this.#cause.cause : undefined;
    this.#away = { since: Date.now(), cause: known ?? 'gateway lost' };
  }

  #wasAttached = false;

  attached(node, { transport, responses }) {
    const first = !this.#wasAttached && !this.#away;
    this.#wasAttached = true;
    this.#missing = this.#caughtUp = 0;
    for (const [response, { n }] of responses) this.#counted(response, n);
    if (first) return this.note(`attached to ${node}${wire(transport)}`);
    const { since = Date.now(), cause = 'gateway lost' } = this.#away ?? {};
    this.#returned = { where: `${node}${wire(transport)}`, after: Date.now() - since, cause, at: this.count };
    this.#away = undefined;
  }

  received({ response, event, n, joined = 1 }) {
    if (event === 'token' && response !== undefined && n !== undefined) {
      this.#missing += Math.max(0, n - joined - (this.#lastOf.get(response) ?? 0));
      this.#caughtUp += joined;
      this.#counted(response, n);
    }
    if (event === 'error') this.note('the answer broke off');
    if (event === 'cancelled') this.note('the answer was stopped');
  }

  #counted(response, n) {
    this.#lastOf.set(response, n);
    this.count = n;
    this.tell({ count: { response, n } });
  }

  reset({ reason }) {
    this.#lastOf.clear();
    this.count = 0;
    const why = {
      trimmed: 'the beginning is no longer kept',
      deleted: 'the session was deleted',
      ahead: 'the store lost what this device had seen',
      diverged: 'the store has another history',
    }[reason];
    this.note(`reset (${reason}${why ? `: ${why}` : ''}); what is shown is replaced`);
  }

  live() {
    if (!this.#returned) return;
    const { where, after, cause, at } = this.#returned;
    this.#returned = undefined;
    this.note(
      `${cause}, resumed at token ${at.toLocaleString()} on ${where} after ${after.toLocaleString()} ms, ` +
        `${this.#caughtUp.toLocaleString()} caught up, ${this.#missing.toLocaleString()} lost`,
    );
  }

  note(log) {
    this.tell({ log });
  }
}

function wire(transport) {
  return transport === 'sse' ? ' over server-sent events' : '';
}
