import NIOCore

@testable import BatonProtocol
@testable import BatonSession

/// SplitMix64: the whole run follows from one number.
struct Dice: RandomNumberGenerator {
  private var state: UInt64

  init(seed: UInt64) { state = seed }

  mutating func next() -> UInt64 {
    state &+= 0x9E37_79B9_7F4A_7C15
    var z = state
    z = (z ^ (z >> 30)) &* 0xBF58_476D_1CE4_E5B9
    z = (z ^ (z >> 27)) &* 0x94D0_49BB_1331_11EB
    return z ^ (z >> 31)
  }

  mutating func roll(_ range: ClosedRange<Int>) -> Int { Int.random(in: range, using: &self) }
  mutating func chance(_ percent: Double) -> Bool { Double.random(in: 0..<100, using: &self) < percent }
}

/// One entry that ever was, in one history: it is told apart from an equal id elsewhere by its serial number.
struct Written {
  var entry: Entry
  var serial: Int
  /// `entries-added` with this one.
  var index: UInt64
}

/// The streams of one Redis node, with what its documentation says of them.
struct ModelRedis {
  struct Stream {
    var entries: [Written] = []
    var lastGenerated: EntryID = .zero
    var added: UInt64 = 0
    var maxDeleted: EntryID = .zero
  }

  enum Key {
    case stream(Stream)
    case other
  }

  var keys: [SessionName: Key] = [:]
  /// Whether it is Redis 7: `entries-added` and `max-deleted-entry-id` are told.
  var countsAdded = true
  private(set) var serial = 0

  func stream(_ session: SessionName) -> Stream? {
    if case .stream(let stream)? = keys[session] { stream } else { nil }
  }

  /// `XADD` with this id, or with the next one; nil where Redis refuses.
  mutating func add(_ session: SessionName, id: EntryID, _ fields: [(String, String)]) -> Written? {
    var stream: Stream
    switch keys[session] {
    case .other: return nil
    case .stream(let known): stream = known
    case nil: stream = Stream()
    }
    guard id > stream.lastGenerated else { return nil }
    serial += 1
    var reader = EntryReader(maxEntryBytes: 400)
    let pairs = fields.map { Entry.Field(name: ByteBuffer(string: $0.0), value: ByteBuffer(string: $0.1)) }
    let written = Written(entry: reader.entry(id, pairs), serial: serial, index: stream.added + 1)
    stream.entries.append(written)
    stream.lastGenerated = id
    stream.added += 1
    keys[session] = .stream(stream)
    return written
  }

  /// Returns what was removed.
  mutating func trim(_ session: SessionName, to count: Int) -> [Written] {
    guard var stream = stream(session), stream.entries.count > count else { return [] }
    let removed = Array(stream.entries.prefix(stream.entries.count - count))
    stream.entries.removeFirst(removed.count)
    keys[session] = .stream(stream)
    return removed
  }

  mutating func delete(_ session: SessionName, at index: Int) -> Written? {
    guard var stream = stream(session), stream.entries.indices.contains(index) else { return nil }
    let removed = stream.entries.remove(at: index)
    stream.maxDeleted = max(stream.maxDeleted, removed.entry.id)
    keys[session] = .stream(stream)
    return removed
  }

  /// `XINFO STREAM`; nil for another type.
  func info(_ session: SessionName) -> StreamInfo? {
    switch keys[session] {
    case nil: .absent
    case .other: nil
    case .stream(let stream):
      StreamInfo(
        exists: true, length: UInt64(stream.entries.count), first: stream.entries.first?.entry.offset,
        last: stream.entries.last?.entry.place, lastGenerated: stream.lastGenerated,
        entriesAdded: countsAdded ? stream.added : nil, maxDeleted: countsAdded ? stream.maxDeleted : nil)
    }
  }

  /// `XREAD COUNT count STREAMS session after`.
  func read(_ read: TailRead) -> TailOutcome {
    guard let info = info(read.session) else { return .wrongType }
    let entries = stream(read.session)?.entries.drop { $0.entry.id <= read.after }.prefix(read.count) ?? []
    return .entries(
      entries.map(\.entry), info: read.look ? info : nil, more: entries.count == read.count)
  }

  /// `XRANGE` or `XREVRANGE`.
  func page(_ request: PageRequest) -> PageOutcome {
    guard let info = info(request.session) else { return .wrongType }
    let all = stream(request.session)?.entries ?? []
    let entries: [Written]
    switch request.span {
    case .after(let id): entries = Array(all.drop { $0.entry.id < id }.prefix(request.count))
    case .before(let id):
      entries = Array(all.filter { $0.entry.id <= id ?? EntryID(.max, .max) }.reversed().prefix(request.count))
    }
    return .page(
      Page(
        info: request.look ? info : nil, entries: entries.map(\.entry), more: entries.count == request.count))
  }
}
