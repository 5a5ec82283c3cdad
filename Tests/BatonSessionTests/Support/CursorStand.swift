import NIOCore

@testable import BatonProtocol
@testable import BatonSession

/// A cursor beside its session's log, over a model Redis: every step it takes is a line.
struct CursorStand {
  var redis = ModelRedis()
  var log = SessionLog()
  var cursor: Cursor
  /// Entries of one page at the most.
  var pageLimit = 4
  private(set) var asked: PageRequest?
  private(set) var recovered: Bool?
  private(set) var tickets: UInt64 = 0

  /// The stream holds `ids`, and the tail stands at its end.
  init(
    _ start: AttachRequest.Start = .after(.zero), rollup: AttachRequest.Rollup = .auto, untilEnd: Bool = false,
    holding ids: ClosedRange<UInt64>? = nil
  ) {
    cursor = Cursor(
      AttachRequest(session: "s", start: start, rollup: rollup, untilEnd: untilEnd, device: "d"))
    for id in ids ?? 1...1 where ids != nil { add(id) }
    open()
  }

  // MARK: what happens

  /// The tail looked for the first time.
  mutating func open() {
    log = SessionLog()
    log.apply(.opened(base: redis.info("s")?.end ?? .zero))
  }

  /// Into the stream only.
  @discardableResult
  mutating func add(_ id: UInt64, _ fields: KeyValuePairs<String, String>? = nil) -> Entry {
    let pairs = fields.map { $0.map { ($0.key, $0.value) } } ?? [("data", "\(id)")]
    return redis.add("s", id: EntryID(id, 0), pairs) ?? entry(id, "refused")
  }

  /// Into the stream, and the tail brings it.
  mutating func write(_ ids: ClosedRange<UInt64>) { log.apply(.appended(Segment(ids.map { add($0) }))) }
  mutating func write(_ id: UInt64, _ fields: KeyValuePairs<String, String>) {
    log.apply(.appended(Segment([add(id, fields)])))
  }

  mutating func trim(to count: Int) { redis.trim("s", to: count) }
  mutating func delete(_ id: UInt64) {
    if let index = redis.stream("s")?.entries.firstIndex(where: { $0.id == EntryID(id, 0) }) {
      redis.delete("s", at: index)
    }
  }
  mutating func deleteAll() { redis.keys["s"] = nil }

  /// The tail found that continuity is broken.
  mutating func reset(_ reason: ResetReason) {
    let info = redis.info("s") ?? .absent
    log.apply(.reset(Reset(reason, requested: log.end.offset, info), base: info.end))
  }

  mutating func confirm() { log.apply(.confirmed(ticket: tickets)) }

  // MARK: what it does

  /// All it does until it waits for something.
  mutating func steps() -> [String] {
    var lines: [String] = []
    while lines.count < 50, let step = cursor.next(log) {
      if case .read(let request) = step { asked = request }
      if case .attached(_, _, _, let recovered) = step { self.recovered = recovered }
      lines.append(show(step))
      if case .touch = step {
        tickets += 1
        cursor.touched(tickets)
      }
    }
    return lines
  }

  /// What it does after the answer to what it asked for.
  mutating func answered(_ outcome: PageOutcome? = nil) -> [String] {
    guard var request = asked else { return ["nothing was asked for"] }
    asked = nil
    request.limit = min(request.limit, pageLimit)
    cursor.pageArrived(outcome ?? redis.page(request))
    return steps()
  }

  /// All it does until it waits for something else than history; the reads are left out.
  mutating func settled() -> [String] {
    var lines = steps()
    while asked != nil, lines.count < 100 { lines += answered() }
    return lines.filter { !$0.hasPrefix("read") }
  }

  private func show(_ step: Cursor.Step) -> String {
    func window(_ first: Offset?, _ last: Offset?) -> String {
      first.flatMap { first in last.map { "[\(first.id.milliseconds) \($0.id.milliseconds)]" } } ?? "[]"
    }
    func show(_ offset: Offset) -> String { BatonSessionTests.show(offset) }
    switch step {
    case .read(let request):
      let span =
        switch request.span {
        case .after(let id): "after \(BatonSessionTests.show(id))"
        case .before(let id): "before \(id.map(BatonSessionTests.show) ?? "end")"
        }
      return "read \(span)" + (request.limit == Cursor.pageLimit ? "" : " limit \(request.limit)")
        + (request.look ? " look" : "")
    case .touch: return "touch"
    case .attached(let offset, let first, let last, _): return "attached \(show(offset)) \(window(first, last))"
    case .reset(let reset):
      return
        "reset \(reset.reason) from \(show(reset.from)) to \(show(reset.offset)) \(window(reset.first, reset.last))"
    case .deliver(let delivery):
      return (delivery.joined ? "join " : "tell ") + BatonSessionTests.show(delivery.entries)
    case .behind: return "behind"
    case .live(let offset): return "live \(show(offset))"
    case .stalled: return "stalled"
    case .wrongType: return "wrong type"
    case .unavailable: return "unavailable"
    case .finish: return "finish"
    }
  }
}
