import NIOCore

@testable import BatonProtocol
@testable import BatonSession

/// A tail over a model Redis: every action is a line, and a read is answered when the transcript says so.
struct TailStand {
  var redis = ModelRedis()
  var tail: Tail
  /// Sent and not answered, oldest first.
  private(set) var sent: [TailRead] = []
  /// How changes were to be learnt, in order.
  private(set) var sources: [Tail.Source] = []

  init(_ change: (inout Tail.Configuration) -> Void = { _ in }) {
    var configuration = Tail.Configuration()
    change(&configuration)
    tail = Tail(configuration)
  }

  /// Follows these and has read each; every stream that is there already was found.
  static func following(_ names: SessionName..., holding count: UInt64 = 0) -> TailStand {
    var stand = TailStand()
    for name in names {
      for id in 1...max(count, 1) where count > 0 { stand.add(id, to: name) }
      _ = stand.did { $0.follow(name) }
    }
    _ = stand.did { $0.connected(source: .tracking) }
    while !stand.sent.isEmpty { _ = stand.answered() }
    // Notices do come here.
    _ = stand.noticed("another")
    return stand
  }

  mutating func add(_ id: UInt64, _ fields: KeyValuePairs<String, String>? = nil, to session: SessionName = "s") {
    let pairs = fields.map { $0.map { ($0.key, $0.value) } } ?? [("data", "\(id)")]
    redis.add(session, id: EntryID(id, 0), pairs)
  }

  mutating func did(_ event: (inout Tail) -> [Tail.Action]) -> [String] { event(&tail).flatMap { show($0) } }

  mutating func noticed(_ session: SessionName = "s") -> [String] {
    did { tail in
      tail.noticed(session)
      return tail.reads()
    }
  }

  mutating func disconnected(at now: Int64) {
    tail.disconnected(at: now)
    sent.removeAll()
  }

  /// What Redis says to the oldest read, as the streams are now.
  func reply() -> TailOutcome { sent.first.map { redis.read($0) } ?? .failed }

  /// As though Redis had brought these.
  mutating func brought(_ entries: [Entry], more: Bool = false) -> [String] {
    answered(sent.first?.brought(entries, more: more))
  }

  mutating func answered(_ outcome: TailOutcome? = nil) -> [String] {
    let outcome = outcome ?? reply()
    guard !sent.isEmpty else { return ["nothing was asked for"] }
    let read = sent.removeFirst()
    return did { $0.completed(read.session, outcome) }
  }

  private mutating func show(_ action: Tail.Action) -> [String] {
    switch action {
    case .read(let reads):
      sent += reads
      return [
        "read "
          + reads.map { "\($0.session)>\(BatonSessionTests.show($0.after))x\($0.count)\($0.look ? " look" : "")" }
          .joined(separator: ", ")
      ]
    case .probeNotices(let token): return ["probe \(token)"]
    case .sourceChanged(let source):
      sources.append(source)
      return []
    case .tell(let session, let update): return ["\(session) \(show(update))"]
    }
  }

  private func show(_ update: TailUpdate) -> String {
    func show(_ offset: Offset) -> String { BatonSessionTests.show(offset) }
    switch update {
    case .opened(let base): return "opened \(show(base.offset))"
    case .appended(let segment): return "+ \(BatonSessionTests.show(segment.entries))"
    case .rebased(let base): return "rebased \(show(base.offset))"
    case .reset(let reset, let base): return "reset \(reset.reason) \(show(reset.requested)) base \(show(base.offset))"
    case .confirmed(let ticket): return "confirmed \(ticket)"
    case .stalled: return "stalled"
    case .held(let isHeld): return isHeld ? "held" : "released"
    case .wrongType: return "wrong type"
    }
  }
}
