import BatonProtocol
import BatonRedis
import BatonSession
import BatonStore
import NIOCore

/// What one response's producer does: when it calls the atomic step with what, and what it makes of the answers.
///
/// Tell it what happened, then ask ``next(now:)`` for the call to make. One call is on its way at a time.
struct ResponseWriter {
  struct Options: Sendable {
    /// Deltas within it travel as one entry.
    var window = TimeAmount.milliseconds(20)
    /// How often the lease's token changes.
    var lease = TimeAmount.seconds(5)
    /// Bytes that are kept to append them again; as many may wait for Redis.
    var keep = 1 << 20
    /// How long they are kept after the end.
    var keepAfterEnd = TimeAmount.seconds(10)
    /// How often to ask in that time whether Redis still has it all.
    var probe = TimeAmount.seconds(1)
    /// Nil: waits for Redis without end.
    var patience: TimeAmount?
  }

  enum Phase: Equatable {
    case opening
    case open
    /// All is there, the end too; kept for a while because Redis may lose it yet.
    case ended
    /// Nothing is kept or asked any more.
    case released
    case failed(ProducerError)
  }

  let response: String
  let options: Options
  private(set) var phase = Phase.opening
  private(set) var items = KeptItems()
  /// The inbox's newest entry when the response was opened.
  private(set) var inbox = EntryID.zero

  private let writer: String
  private let start: [Entry.Field]
  private var ending: (state: ResponseState, fields: [Entry.Field])?
  private var epoch: UInt64 = 0
  private var generation: UInt64?
  private var renewals = 0
  private var isConnected = false
  /// Where the call that is on its way begins.
  private var flight: UInt64?
  /// Redis has lost sight of the response: open it again.
  private var isLost = false
  /// When what waits must go.
  private var due: NIODeadline?
  private var renewAt: NIODeadline?
  private var probeAt: NIODeadline?
  private var releaseAt: NIODeadline?
  private var notBefore: NIODeadline?
  /// Since when Redis owes an answer.
  private var waitingSince: NIODeadline?
  private(set) var lastRefusal = "it does not answer"
  private var backoff = RedisBackoff()

  /// `writer` is random, for each opening another, of letters and digits.
  init(response: String, writer: String, start: [Entry.Field] = [], options: Options = Options(), now: NIODeadline) {
    (self.response, self.writer, self.start, self.options) = (response, writer, start, options)
    due = now
    waitingSince = now
  }

  /// Whether more may be appended; otherwise wait for an answer.
  var hasRoom: Bool { items.unknownBytes < options.keep }
  var isEnding: Bool { ending != nil }
  /// How this producer ends it; nil while it does not.
  var end: ResponseEnd? { ending.flatMap { ResponseEnd($0.state) } }
  private var token: String { "\(writer).\(renewals)" }
  private var isOver: Bool {
    switch phase {
    case .released, .failed: true
    default: false
    }
  }

  // MARK: the app

  mutating func appended(_ item: KeptItems.Item, now: NIODeadline) {
    guard phase == .open, ending == nil else { return }
    let isFirst = items.last == 0
    items.append(item)
    if case .delta = item, !isFirst {
      due = min(due ?? .distantFuture, now + options.window)
    } else {
      due = now
    }
    waitingSince = waitingSince ?? now
  }

  mutating func ended(_ state: ResponseState, _ fields: [Entry.Field], now: NIODeadline) {
    guard phase == .open, ending == nil else { return }
    ending = (state, fields)
    due = now
    waitingSince = waitingSince ?? now
  }

  // MARK: Redis

  /// A connection is there: whatever happened before, ask what Redis has.
  mutating func connected(now: NIODeadline) {
    isConnected = true
    flight = nil
    notBefore = nil
    if !isOver { due = now }
  }

  /// The call's answer will never come; it may have been done.
  mutating func disconnected(_ why: String) {
    isConnected = false
    flight = nil
    lastRefusal = why
  }

  /// Redis refused the call for the time being. `random` is 0 to 1.
  mutating func refused(_ why: String, now: NIODeadline, random: Double) {
    flight = nil
    lastRefusal = why
    notBefore = now + backoff.next(random: random)
    due = now
  }

  mutating func failed(_ error: ProducerError) {
    if isOver { return }
    phase = phase == .ended ? .released : .failed(error)
    items.removeAll()
  }

  mutating func replied(_ reply: WriteReply, now: NIODeadline) {
    guard let flight, !isOver else { return }
    self.flight = nil
    waitingSince = nil
    backoff.reset()
    switch reply {
    case .written(let written): self.written(written, now: now)
    case .rewind(let n) where n + 1 < flight:
      items.isKnown(through: n)
      resume(now: now)
    case .lost where phase != .opening:
      isLost = true
      items.isKnown(through: 0)
      resume(now: now)
    case .fenced: failed(.fenced)
    case .deleted: failed(.deleted)
    case .ended(_, let state): failed(ResponseEnd(state).map(ProducerError.ended) ?? .refused("\(reply)"))
    case .wrongType(let key): failed(.refused("the key \(key) holds another type"))
    case .rewind, .lost: failed(.refused("the script answered \(reply), which does not fit what was sent"))
    }
  }

  private mutating func written(_ written: WriteReply.Written, now: NIODeadline) {
    epoch = written.epoch
    generation = generation ?? written.generation
    isLost = false
    if phase == .opening, let end = ResponseEnd(written.state) {
      // Recovered from a stream that had lost its state.
      return failed(.ended(end))
    }
    if phase == .opening {
      phase = .open
      inbox = written.inbox
      items.began(after: written.n)
    } else {
      items.isKnown(through: written.n)
    }
    items.trim(to: options.keep)
    if written.state != .open, phase == .open {
      phase = .ended
      releaseAt = now + options.keepAfterEnd
    } else if written.state == .open, phase == .ended {
      resume(now: now)
    }
    if phase == .ended { probeAt = now + options.probe }
    if due != nil || items.known < items.last { waitingSince = now }
  }

  /// Something that Redis had is gone.
  private mutating func resume(now: NIODeadline) {
    if phase == .ended { phase = .open }
    due = now
    waitingSince = now
  }

  // MARK: what to do

  /// The call to make now, if any.
  mutating func next(now: NIODeadline) -> AppendCall? {
    if let releaseAt, phase == .ended, releaseAt <= now {
      phase = .released
      items.removeAll()
    }
    if let patience = options.patience, let waitingSince, waitingSince + patience <= now {
      failed(.unavailable(lastRefusal))
    }
    guard !isOver, isConnected, flight == nil, (notBefore ?? now) <= now else { return nil }
    guard [due, renewAt, probeAt].contains(where: { ($0 ?? .distantFuture) <= now }) else { return nil }
    if phase != .opening, (renewAt ?? now) <= now, phase != .ended {
      renewals += 1
      renewAt = now + options.lease
    }
    if phase == .opening { renewAt = now + options.lease }
    if phase == .ended {
      renewAt = nil
      probeAt = now + options.probe
    }
    return call(now: now)
  }

  private mutating func call(now: NIODeadline) -> AppendCall {
    let isOpening = phase == .opening || isLost
    let first = items.known + 1
    var (sent, through) = items.unknown()
    if isOpening { sent.insert(.start(start), at: 0) }
    let isAll = through == items.last
    if isAll, phase != .ended, let ending { sent.append(.end(ending.state, ending.fields)) }
    due = isAll ? nil : now
    waitingSince = waitingSince ?? now
    flight = first
    let write = ResponseWrite(
      response: response, epoch: epoch, generation: generation, token: token, first: first, items: sent)
    return isOpening ? .open(write) : .append(write)
  }

  /// When to ask ``next(now:)`` again if nothing else happens.
  var wakeAt: NIODeadline? {
    if isOver { return nil }
    var times = [phase == .ended ? releaseAt : nil]
    if let patience = options.patience, let waitingSince { times.append(waitingSince + patience) }
    if flight == nil, isConnected {
      let next = [due, renewAt, probeAt].compactMap(\.self).min()
      times.append(next.map { max($0, notBefore ?? $0) })
    }
    return times.compactMap(\.self).min()
  }
}
