// When to connect, to what, from which offset, and when to stop: everything a Baton client decides.
// It has no clock, no socket and no dice: each call is one event (with the time and a random number),
// and returns the actions to take. Tests/Conformance/client/README.md names both; its cases run here,
// in the Swift client and in the Python one.

/** Milliseconds. @see Tests/Conformance/client/README.md */
export const limits = {
  backoffBase: 250, // full jitter: the n-th attempt in a row waits up to base · 2ⁿ …
  backoffCap: 10_000, // … but never longer than this
  healthy: 5_000, // a connection that stayed attached this long starts the count anew
  connect: 10_000, // from the connect to `attached`
  firstConnect: 4_000, // the same, where a proxy may swallow this wire and another can stand in
  ping: 25_000, // silence before a ping, where the gateway names no pingMs
  pong: 10_000, // what a ping may take
  wakePong: 3_000, // the same, after sleep or a change of network
  retryAfter: 300_000, // the longest wait a gateway can ask for
  upgrade: 1_000, // over SSE: until the first try to get back to WebSocket; doubles …
  upgradeCap: 600_000, // … up to this
  unanswered: 64, // inputs and cancels that wait for their answer
  unreachable: 5, // attempts in a row without a word from a gateway, until the app is told
  shortToken: 60_000, // a token that expires this soon after the last was asked for is short-lived …
  tokenPause: 5_000, // … and the next is asked for after half of what is left, never sooner after the last than this
};

const endings = new Set(['end', 'error', 'cancelled']);
const finalCodes = new Set([1002, 1003, 1007, 1008, 1009]);
const retriedStatuses = new Set([408, 425, 429]);

/** @param {number} status */
const isFinal = (status) => status >= 400 && status < 500 && !retriedStatuses.has(status);

/** @typedef {{at: number, random: number, event: string, [more: string]: any}} Event */
/** @typedef {{do: string, [more: string]: any}} Action */

export class BatonMachine {
  /**
   * @param {{urls?: number, offset?: string, last?: number, response?: string, rollup?: string|number,
   *   until?: 'end', device?: string, renewsToken?: boolean, isFinished?: boolean, sse?: boolean, pages?: boolean, maxUnanswered?: number}} [options]
   *   `urls`: how many there are; `isFinished`: what was asked for is known to its end, unless a gateway says `reset`; `sse`, `pages`: server-sent events, and then pages of history, may stand in for a WebSocket that doesn't get through
   */
  constructor(options = {}) {
    this.options = options;
    /** The place in the stream to go on after; undefined until a gateway named one. @type {string|undefined} */
    this.offset = options.offset;
    /** idle, connecting, behind, live, stalled, waiting, unauthorized, suspended or ended. */
    this.state = 'idle';
    this.url = 0;
    this.transport = 'websocket';
    /** @type {Map<string, object>} */
    this.unanswered = new Map();
    /** Attempts in a row that came to nothing: what backoff counts. */
    this.failures = 0;
    /** Attempts in a row of which not even a refusal came back: what leads to SSE. */
    this.unreached = 0;
    this.offline = false;
    /** What may be tried, in this order. */
    this.wires = ['websocket', ...(options.sse ? ['sse'] : []), ...(options.pages ? ['pages'] : [])];
    /** Those that got through before. */
    this.proven = new Set();
    this.upgradeIn = limits.upgrade;
    /** Attempts in a row in which no gateway said a word. */
    this.unheard = 0;
    /** Connected for the sake of answers: at the stream's end, without moving the place. */
    this.skimming = false;
    this.askedAt = undefined;
    this.isFinished = options.isFinished === true;
    this.#forgetConnection();
  }

  /** @param {Event} event @returns {Action[]} */
  handle(event) {
    if (this.state === 'ended') return [];
    this.at = event.at;
    this.random = event.random;
    /** @type {Action[]} */
    this.actions = [];
    this.#take(event);
    return this.actions;
  }

  #take(event) {
    switch (event.event) {
      case 'start': return this.#start();
      case 'close': return this.#close();
      case 'suspend': return this.#suspend();
      case 'resume': return this.#resume();
      case 'move': return this.#moveOn();
      case 'replay': return this.#replay();
      case 'submit': return this.#submit(event);
      case 'token': return this.#tokenCame(event);
      case 'failed': return this.#failed();
      case 'refused': return this.#refused(event);
      case 'closed': return this.#closed(event);
      case 'garbled': return this.#garbled();
      case 'timer': return this.#timer();
      case 'frame': return this.#frame(event);
      case 'heard': return this.#heard();
      case 'offline': return this.#wentOffline();
      case 'online': return this.#wentOnline();
      case 'wake': return this.#woke();
      case 'probed': return this.#probed(event);
      case 'withdraw': return void this.unanswered.delete(event.key);
      case 'skim': return this.#skim();
      case 'opened': return;
    }
  }

  // What the app does

  #start() {
    if (this.state !== 'idle') return;
    this.#connect();
  }

  #close() {
    if (this.#connected) this.#do({ do: 'disconnect', code: 1000 });
    this.#end({ reason: 'closed' });
  }

  #suspend() {
    if (this.#connected) this.#do({ do: 'disconnect', code: 4000 });
    this.#forgetConnection();
    this.skimming = false;
    this.#become('suspended');
  }

  #resume() {
    if (!this.skimming && this.state !== 'suspended') return;
    const skimmed = this.skimming;
    this.skimming = false;
    if (this.#connected) this.#do({ do: 'disconnect', code: 4000 });
    else if (skimmed) return;
    this.failures = 0;
    this.#connect();
  }

  /** The app takes no more events for now, but what is submitted must be answered. */
  #skim() {
    if (this.skimming) return;
    this.skimming = true;
    if (!this.#connected && this.state !== 'suspended') return;
    if (this.#connected) this.#do({ do: 'disconnect', code: 4000 });
    this.#connect();
  }

  /** Goes to the next URL at once. */
  #moveOn() {
    if (!this.#connected && this.state !== 'waiting') return;
    if (this.#connected) this.#do({ do: 'disconnect', code: 4000 });
    this.failures = 0;
    this.#rotate();
    this.#connect();
  }

  /** Asks for everything again from the start: what is shown can't be mended otherwise. */
  #replay() {
    const wasConnected = this.#connected;
    this.isFinished = false;
    if (wasConnected) this.#do({ do: 'disconnect', code: 4000 });
    this.offset = '0';
    this.#do({ do: 'deliver', frame: { type: 'reset', reason: 'replay', from: '0', offset: '0' } });
    if (wasConnected) this.#connect();
  }

  #submit({ frame }) {
    if (this.unanswered.size >= (this.options.maxUnanswered ?? limits.unanswered)) {
      this.#do({ do: 'settle', key: frame.key, error: 'too_many' });
    } else {
      this.unanswered.set(frame.key, frame);
      if (this.#attached) this.#do({ do: 'send', frame });
    }
  }

  #tokenCame({ token }) {
    if (this.state === 'unauthorized') {
      if (this.failures <= 1) return this.#connect();
      this.hasNewToken = true;
      this.#do({ do: 'timer', ms: this.#jitter(this.failures - 1) });
    } else if (this.#attached) {
      this.#send({ type: 'auth', token });
    }
  }

  // What becomes of a connection

  #failed() {
    if (!this.#connected) return;
    if (!this.offline) this.unreached += 1;
    this.#retry();
  }

  /** `problem`: in the gateway's own form. Whatever else answers may stand in front of it. */
  #refused({ status, retryAfterMs = 0, problem = false }) {
    if (!this.#connected) return;
    const canFinish = this.options.until !== undefined || this.options.response !== undefined;
    if (status === 204 && this.transport === 'sse' && canFinish && !this.skimming) return this.#end({ reason: 'finished' });
    if (!problem) return this.#retry(retryAfterMs);
    this.unheard = 0;
    if (status === 401) this.#needToken({ status });
    else if (isFinal(status)) this.#end({ reason: 'rejected', status });
    else this.#retry(retryAfterMs);
  }

  #closed({ code }) {
    if (!this.#connected) return;
    if (code === 1000 && !this.skimming) this.#end({ reason: 'finished' });
    else if (code === 4401) this.#needToken({ code });
    else if (finalCodes.has(code) || (code >= 4400 && code < 4500 && isFinal(code - 4000))) this.#end({ reason: 'rejected', code });
    else this.#retry(this.retryAfterMs);
  }

  #garbled() {
    if (!this.#connected) return;
    this.#do({ do: 'disconnect', code: 4000 });
    this.#retry();
  }

  #timer() {
    switch (this.state) {
      case 'waiting':
        return this.#connect();
      case 'unauthorized':
        if (this.hasNewToken) this.#connect();
        return;
      case 'connecting':
        this.#do({ do: 'disconnect', code: 4000 });
        return this.#failed();
      case 'behind':
      case 'live':
      case 'stalled':
        return this.transport === 'websocket' ? this.#checkPulse() : this.#checkStream();
    }
  }

  #frame({ frame }) {
    if (!this.#connected || frame === null || typeof frame !== 'object') return;
    this.#heard();
    this.unheard = 0;
    if (this.skimming && !this.unanswered.has(frame.key)) return this.#skimmed(frame);
    if (frame.type === undefined) return this.#entry(frame);
    switch (frame.type) {
      case 'attached':
        this.#move(frame.offset);
        this.#do({ do: 'deliver', frame });
        return this.#welcome(frame);
      case 'live':
      case 'reset':
      case 'skipped':
      case 'behind':
      case 'stalled':
        this.#move(frame.offset);
        this.#do({ do: 'deliver', frame });
        if (frame.type === 'reset') this.isFinished = false;
        if (frame.type === 'live' && this.isFinished) return this.#finish();
        if (frame.type !== 'skipped') this.#become(frame.type === 'reset' ? 'behind' : frame.type);
        return;
      case 'draining':
        this.retryAfterMs = Math.max(0, Number(frame.retryAfterMs) || 0);
        return this.#do({ do: 'deliver', frame });
      case 'expiring':
        this.#do({ do: 'deliver', frame });
        return this.#expiring(frame);
      case 'accepted':
        if (this.unanswered.delete(frame.key)) this.#do({ do: 'settle', key: frame.key, inboxId: frame.inboxId });
        return;
      case 'error':
        if (this.unanswered.delete(frame.key)) {
          return this.#do({ do: 'settle', key: frame.key, error: frame.code, message: frame.message });
        }
        return this.#do({ do: 'deliver', frame });
    }
  }

  #skimmed(frame) {
    if (frame.type === 'attached') this.#welcome(frame);
    else if (frame.type === 'draining') this.retryAfterMs = Math.max(0, Number(frame.retryAfterMs) || 0);
    else if (frame.type === 'expiring') this.#expiring(frame);
  }

  /** A token that lives shorter than a gateway's warning must not be asked for without end. */
  #expiring({ inMs }) {
    if (!this.options.renewsToken) return;
    const sinceLast = this.askedAt === undefined ? Infinity : this.at - this.askedAt;
    const half = Math.floor(Math.min(Math.max(0, Number(inMs) || 0), 1e9) / 2);
    this.#askForToken(sinceLast < limits.shortToken ? Math.max(half, limits.tokenPause - sinceLast) : 0);
  }

  #askForToken(afterMs = 0) {
    this.askedAt = this.at + afterMs;
    this.#do({ do: 'needToken', ...(afterMs > 0 && { afterMs }) });
  }

  /** Something came that is no frame: a comment line. */
  #heard() {
    this.heardAt = this.at;
    this.pinged = false;
  }

  // What the platform tells

  #wentOffline() {
    this.offline = true;
    if (this.#attached) this.#pingNow();
  }

  #wentOnline() {
    this.offline = false;
    this.upgradeIn = limits.upgrade; // another network may let WebSockets through
    if (this.#attached) return this.#pingNow();
    if (this.state === 'waiting') {
      this.failures = 0;
      this.#do({ do: 'timer', ms: this.#jitter(0) });
    } else if (this.state === 'connecting') {
      this.#do({ do: 'disconnect', code: 4000 });
      this.#connect();
    }
  }

  /** The page is looked at again, or the machine wakes from sleep. */
  #woke() {
    if (this.#attached) return this.#pingNow();
    if (this.state !== 'waiting') return;
    this.failures = 0;
    this.#connect();
  }

  /** Whether a WebSocket, or another better wire, got through beside the one in use. */
  #probed({ passed, transport = 'websocket' }) {
    if (this.transport === 'websocket' || !this.#attached) return;
    if (passed && transport === 'websocket') {
      this.upgradeIn = limits.upgrade;
    } else {
      this.upgradeIn = Math.min(this.upgradeIn * 2, limits.upgradeCap);
      this.upgradeAt = this.at + this.upgradeIn;
      if (!passed) return;
    }
    this.#do({ do: 'disconnect', code: 4000 });
    this.unreached = this.#round * this.wires.indexOf(transport);
    this.proven.add(transport);
    this.#connect();
  }

  // How

  get #attached() {
    return this.state === 'behind' || this.state === 'live' || this.state === 'stalled';
  }

  get #connected() {
    return this.#attached || this.state === 'connecting';
  }

  #do(action) {
    this.actions.push(action);
  }

  #become(state) {
    if (this.state === state) return;
    this.state = state;
    this.#do({ do: 'state', state });
  }

  #move(offset) {
    if (typeof offset === 'string') this.offset = offset;
  }

  #forgetConnection() {
    this.attachedAt = undefined;
    this.pinged = false;
    this.retryAfterMs = 0;
    this.hasNewToken = false;
  }

  #connect() {
    this.#forgetConnection();
    this.#become('connecting');
    const { last, response, rollup, until, device } = this.options;
    const query = {};
    if (this.skimming) query.offset = '$';
    else if (this.offset !== undefined) query.offset = this.offset;
    else if (response !== undefined) query.response = response;
    else if (last !== undefined) query.last = String(last);
    else query.offset = '0';
    if (rollup !== undefined && !this.skimming) query.rollup = String(rollup);
    if (until !== undefined && !this.skimming) query.until = until;
    if (device !== undefined) query.device = device;
    this.transport = this.wires[Math.floor(this.unreached / this.#round) % this.wires.length];
    const transport = this.transport === 'websocket' ? {} : { transport: this.transport };
    this.#do({ do: 'connect', url: this.url, ...transport, query });
    const doubtful = this.transport !== this.wires.at(-1) && !this.proven.has(this.transport);
    this.#do({ do: 'timer', ms: doubtful ? limits.firstConnect : limits.connect });
  }

  #welcome(frame) {
    this.attachedAt = this.at;
    this.pingMs = frame.pingMs >= 1000 && frame.pingMs <= 300_000 ? frame.pingMs : limits.ping;
    this.proven.add(this.transport);
    this.#become('behind');
    this.unreached = this.#round * this.wires.indexOf(this.transport); // the next attempt starts with this wire again
    if (this.transport !== 'websocket') {
      this.upgradeAt = this.at + this.upgradeIn;
      this.#do({ do: 'timer', ms: Math.min(this.upgradeIn, this.pingMs) });
    } else {
      this.#do({ do: 'timer', ms: this.pingMs });
    }
    for (const frame of this.unanswered.values()) this.#do({ do: 'send', frame });
  }

  #entry(frame) {
    if (typeof frame.id !== 'string') return;
    this.#move(frame.id);
    const wanted = this.options.response;
    if (wanted !== undefined && frame.response !== wanted) return;
    this.#do({ do: 'deliver', frame });
    if (wanted !== undefined && endings.has(frame.event)) this.#finish();
  }

  #finish() {
    this.#do({ do: 'disconnect', code: 1000 });
    this.#end({ reason: 'finished' });
  }

  #checkPulse() {
    if (this.pinged) {
      this.#do({ do: 'disconnect', code: 4000 });
      return this.#retry();
    }
    const silent = this.at - this.heardAt;
    if (silent < this.pingMs) this.#do({ do: 'timer', ms: this.pingMs - silent });
    else this.#ping(limits.pong);
  }

  /** An event stream can't be pinged: its comment lines must do. */
  #checkStream() {
    if (this.at - this.heardAt >= 3 * this.pingMs) {
      this.#do({ do: 'disconnect', code: 4000 });
      return this.#retry();
    }
    const due = this.upgradeAt - this.at;
    if (due <= 0) {
      this.upgradeAt = Infinity;
      this.#do({ do: 'probe' });
    }
    this.#do({ do: 'timer', ms: due > 0 ? Math.min(due, this.pingMs) : this.pingMs });
  }

  #pingNow() {
    if (this.transport === 'websocket') return this.#ping(limits.wakePong);
    this.#do({ do: 'disconnect', code: 4000 });
    this.#connect();
  }

  #ping(deadline) {
    this.pinged = true;
    this.#send({ type: 'ping' });
    this.#do({ do: 'timer', ms: deadline });
  }

  /** What only a WebSocket carries. */
  #send(frame) {
    if (this.transport === 'websocket') this.#do({ do: 'send', frame });
  }

  #jitter(failures) {
    return Math.floor(this.random * Math.min(limits.backoffCap, limits.backoffBase * 2 ** Math.min(failures, 30)));
  }

  /** Attempts with one wire before the next one is tried. */
  get #round() {
    return Math.max(2, this.options.urls ?? 1);
  }

  #rotate() {
    this.url = (this.url + 1) % (this.options.urls ?? 1);
  }

  #countFailure() {
    if (this.attachedAt !== undefined && this.at - this.attachedAt >= limits.healthy) this.failures = 0;
    this.failures += 1;
  }

  /** Says once that no gateway can be reached. The token may be why: a browser hides most refusals. */
  #noteSilence() {
    if (this.attachedAt !== undefined || this.offline) return;
    this.unheard += 1;
    if (this.unheard !== limits.unreachable) return;
    this.#do({ do: 'deliver', frame: { type: 'error', code: 'unreachable', attempts: this.unheard } });
    if (this.options.renewsToken) this.#askForToken();
  }

  #retry(retryAfterMs = 0) {
    this.#countFailure();
    this.#noteSilence();
    this.#rotate();
    const jitter = this.#jitter(this.failures - 1);
    this.#wait(this.offline ? limits.backoffCap : Math.min(retryAfterMs, limits.retryAfter) + jitter);
  }

  #wait(ms) {
    this.#forgetConnection();
    this.#become('waiting');
    this.#do({ do: 'timer', ms });
  }

  #needToken(why) {
    if (!this.options.renewsToken) return this.#end({ reason: 'rejected', ...why });
    this.#countFailure();
    this.#forgetConnection();
    this.#become('unauthorized');
    this.#askForToken();
  }

  #end(why) {
    for (const key of this.unanswered.keys()) this.#do({ do: 'settle', key, error: 'ended' });
    this.unanswered.clear();
    this.#become('ended');
    this.#do({ do: 'end', ...why });
  }
}
