import NIOCore

@testable import BatonProtocol
@testable import BatonSession

/// Redis' streams as values, for machines that are driven without bytes; the simulation's speaks RESP.
struct ModelRedis {
  struct Stream {
    var entries: [Entry] = []
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

  func stream(_ session: SessionName) -> Stream? {
    if case .stream(let stream)? = keys[session] { stream } else { nil }
  }

  /// `XADD` with this id, or with the next one; nil where Redis refuses.
  @discardableResult mutating func add(_ session: SessionName, id: EntryID, _ fields: [(String, String)]) -> Entry? {
    var stream: Stream
    switch keys[session] {
    case .other: return nil
    case .stream(let known): stream = known
    case nil: stream = Stream()
    }
    guard id > stream.lastGenerated else { return nil }
    var reader = EntryReader(maxEntryBytes: 400)
    let pairs = fields.map { Entry.Field(name: ByteBuffer(string: $0.0), value: ByteBuffer(string: $0.1)) }
    let entry = reader.entry(id, pairs)
    stream.entries.append(entry)
    stream.lastGenerated = id
    stream.added += 1
    keys[session] = .stream(stream)
    return entry
  }

  mutating func trim(_ session: SessionName, to count: Int) {
    guard var stream = stream(session), stream.entries.count > count else { return }
    stream.entries.removeFirst(stream.entries.count - count)
    keys[session] = .stream(stream)
  }

  mutating func delete(_ session: SessionName, at index: Int) {
    guard var stream = stream(session), stream.entries.indices.contains(index) else { return }
    stream.maxDeleted = max(stream.maxDeleted, stream.entries.remove(at: index).id)
    keys[session] = .stream(stream)
  }

  /// `XINFO STREAM`; nil for another type.
  func info(_ session: SessionName) -> StreamInfo? {
    switch keys[session] {
    case nil: .absent
    case .other: nil
    case .stream(let stream):
      StreamInfo(
        exists: true, length: UInt64(stream.entries.count), first: stream.entries.first?.offset,
        last: stream.entries.last?.place, lastGenerated: stream.lastGenerated,
        entriesAdded: countsAdded ? stream.added : nil, maxDeleted: countsAdded ? stream.maxDeleted : nil)
    }
  }

  /// `XREAD COUNT count STREAMS session after`.
  func read(_ read: TailRead) -> TailOutcome {
    guard let info = info(read.session) else { return .wrongType }
    let entries = stream(read.session)?.entries.drop { $0.id <= read.after }.prefix(read.count) ?? []
    return read.brought(Array(entries), info: read.look ? info : nil, more: entries.count == read.count)
  }

  /// `XRANGE` or `XREVRANGE`.
  func page(_ request: PageRequest) -> PageOutcome {
    guard let info = info(request.session) else { return .wrongType }
    let all = stream(request.session)?.entries ?? []
    let entries: [Entry]
    switch request.span {
    case .after(let id): entries = Array(all.drop { $0.id < id }.prefix(request.count))
    case .before(let id):
      entries = Array(all.filter { $0.id <= id ?? EntryID(.max, .max) }.reversed().prefix(request.count))
    }
    return .page(
      Page(
        info: request.look ? info : nil, entries: Entries(entries), more: entries.count == request.count))
  }
}

extension TailRead {
  /// As the store tells what came of it.
  func brought(_ entries: [Entry], info: StreamInfo? = nil, more: Bool = false) -> TailOutcome {
    let known = entries.first.flatMap { $0.id == overlap ? $0.offset : nil }
    return .entries(overlap: known, Entries(entries.dropFirst(known == nil ? 0 : 1)), info: info, more: more)
  }
}
