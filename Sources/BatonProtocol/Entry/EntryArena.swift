/// What is known of one entry beside its bytes, in 48 bytes: a window holds one for each token. The entry's own lie in the
/// arena from `start` on: data, response, event, part, a `joined` of over 32 bits, and the other fields: how many, in 4
/// bytes, and each as two lengths of 4 bytes, name and value.
package struct EntryRecord: Sendable {
  package enum Kind: UInt8 {
    case none, text, binary, tooBig
  }

  private struct Flags: OptionSet {
    let rawValue: UInt8
    static let kind = Flags(rawValue: 3)
    static let hasMore = Flags(rawValue: 4)
    static let hasCheck = Flags(rawValue: 8)
    static let isEscaped = Flags(rawValue: 16)
    static let hasFields = Flags(rawValue: 32)
  }

  package var id: EntryID
  package var n: UInt64 = 0
  package var check: UInt32 = 0
  package var start: UInt32 = 0
  package var dataLength: UInt32 = 0
  private var storedBytes: UInt32 = 0
  /// 0: in the arena.
  var shortJoined: UInt32 = 1
  package var responseLength: UInt8 = 0
  /// 0: a token.
  package var eventLength: UInt8 = 0
  package var partLength: UInt8 = 0
  private var flags: Flags = []

  package init(_ id: EntryID) { self.id = id }

  /// Names and values together, as they were stored; 2³²−1 for all that is more.
  package var bytes: Int {
    get { Int(storedBytes) }
    set { storedBytes = UInt32(clamping: newValue) }
  }

  package var kind: Kind {
    get { Kind(rawValue: flags.rawValue & Flags.kind.rawValue) ?? .none }
    set { flags = Flags(rawValue: flags.rawValue & ~Flags.kind.rawValue | newValue.rawValue) }
  }

  /// The data goes on in the next entry.
  package var hasMore: Bool {
    get { flags.contains(.hasMore) }
    set { set(.hasMore, newValue) }
  }

  package var hasCheck: Bool {
    get { flags.contains(.hasCheck) }
    set { set(.hasCheck, newValue) }
  }

  /// Whether the data can stand in JSON as it is.
  package var isPlain: Bool {
    get { !flags.contains(.isEscaped) }
    set { set(.isEscaped, !newValue) }
  }

  /// Whether there are other fields.
  package var hasFields: Bool {
    get { flags.contains(.hasFields) }
    set { set(.hasFields, newValue) }
  }

  private mutating func set(_ flag: Flags, _ isSet: Bool) {
    if isSet { flags.insert(flag) } else { flags.remove(flag) }
  }

  package var offset: Offset { Offset(id: id, check: hasCheck ? check : nil) }
  package var hasN: Bool { n > 0 }
}

struct EntryArenaHead {
  var count: Int
  /// Of everything, the records among it.
  var size: Int
}

/// Entries side by side in one piece of memory: their records, then their bytes. Immutable once it is made.
final class EntryArena: ManagedBuffer<EntryArenaHead, UInt64> {
  static func make(_ records: UnsafeBufferPointer<EntryRecord>, _ bytes: UnsafeRawBufferPointer) -> EntryArena {
    let recordBytes = records.count * MemoryLayout<EntryRecord>.stride
    let arena = create(minimumCapacity: (recordBytes + bytes.count + 7) / 8) { _ in
      EntryArenaHead(count: records.count, size: recordBytes + bytes.count)
    }
    arena.withUnsafeMutablePointerToElements { memory in
      let raw = UnsafeMutableRawPointer(memory)
      if let from = records.baseAddress { raw.copyMemory(from: from, byteCount: recordBytes) }
      if let from = bytes.baseAddress, bytes.count > 0 {
        (raw + recordBytes).copyMemory(from: from, byteCount: bytes.count)
      }
    }
    // Made by a class of ours, it is one of ours.
    return unsafeDowncast(arena, to: EntryArena.self)
  }

  var count: Int { header.count }
  var size: Int { header.size }

  /// The records, and where the bytes begin. Neither may be kept.
  func withContents<R>(_ body: (UnsafePointer<EntryRecord>, UnsafeRawPointer) -> R) -> R {
    withUnsafeMutablePointers { head, memory in
      let raw = UnsafeRawPointer(memory)
      return body(
        raw.assumingMemoryBound(to: EntryRecord.self),
        raw + head.pointee.count * MemoryLayout<EntryRecord>.stride)
    }
  }
}

/// Consecutive entries of a stream: a stretch of an arena, which it keeps.
package struct Entries: RandomAccessCollection, @unchecked Sendable {
  let arena: EntryArena
  package let startIndex: Int
  package let endIndex: Int

  private nonisolated(unsafe) static let nothing = EntryArena.make(
    UnsafeBufferPointer(start: nil, count: 0), UnsafeRawBufferPointer(start: nil, count: 0))

  init(_ arena: EntryArena, _ range: Range<Int>) {
    self.arena = arena
    (startIndex, endIndex) = (range.lowerBound, range.upperBound)
  }

  package init() { self.init(Entries.nothing, 0..<0) }

  /// Copies them side by side.
  package init(_ entries: some Sequence<Entry>) {
    var builder = EntriesBuilder()
    for entry in entries { builder.append(entry) }
    self = builder.finish()
  }

  package subscript(position: Int) -> Entry {
    precondition(position >= startIndex && position < endIndex, "no such entry")
    return Entry(arena: arena, index: position)
  }

  package subscript(bounds: Range<Int>) -> Entries {
    precondition(bounds.lowerBound >= startIndex && bounds.upperBound <= endIndex, "no such entries")
    return Entries(arena, bounds)
  }

  /// The last entry's.
  package var end: Offset? { isEmpty ? nil : arena.withContents { records, _ in records[endIndex - 1].offset } }

  /// What the whole arena costs in memory.
  package var keptBytes: Int { arena.size + 48 }

  /// Names and values of all entries together, as they were stored.
  package var bytes: Int {
    arena.withContents { records, _ in (startIndex..<endIndex).reduce(0) { $0 + records[$1].bytes } }
  }

  /// The first entry with an id that is not smaller; the end where there is none.
  package func firstIndex(from id: EntryID) -> Int {
    arena.withContents { records, _ in
      var (low, high) = (startIndex, endIndex)
      while low < high {
        let middle = (low + high) / 2
        if records[middle].id < id { low = middle + 1 } else { high = middle }
      }
      return low
    }
  }
}

extension Entries: ExpressibleByArrayLiteral {
  package init(arrayLiteral entries: Entry...) { self.init(entries) }
}

/// Puts entries together, one after the other; used again and again, it keeps its memory.
package struct EntriesBuilder: ~Copyable, @unchecked Sendable {
  private var records: [EntryRecord] = []
  private var bytes = UnsafeMutableRawBufferPointer(start: nil, count: 0)
  private var used = 0

  /// More than this is not kept for the next ones.
  private static let keptCapacity = 256 << 10

  package init() {}

  deinit { bytes.deallocate() }

  /// What was appended, and an empty builder.
  package mutating func finish() -> Entries {
    let arena = records.withUnsafeBufferPointer {
      EntryArena.make($0, UnsafeRawBufferPointer(rebasing: bytes[..<used]))
    }
    let isLarge = records.count * MemoryLayout<EntryRecord>.stride > EntriesBuilder.keptCapacity
    records.removeAll(keepingCapacity: !isLarge)
    used = 0
    if bytes.count > EntriesBuilder.keptCapacity {
      bytes.deallocate()
      bytes = UnsafeMutableRawBufferPointer(start: nil, count: 0)
    }
    return Entries(arena, 0..<arena.count)
  }

  package mutating func append(_ record: EntryRecord) { records.append(record) }

  /// Where the next bytes will lie.
  package var position: Int { used }

  package mutating func append(_ more: UnsafeRawBufferPointer) {
    guard more.count > 0, let from = more.baseAddress else { return }
    reserve(more.count)
    bytes.baseAddress.map { ($0 + used).copyMemory(from: from, byteCount: more.count) }
    used += more.count
  }

  package mutating func append(length: Int) {
    withUnsafeBytes(of: UInt32(truncatingIfNeeded: length)) { append($0) }
  }

  /// In the place of one that was appended at this position.
  package mutating func set(length: Int, at position: Int) {
    precondition(position >= 0 && position + 4 <= used, "no length there")
    bytes.storeBytes(of: UInt32(truncatingIfNeeded: length), toByteOffset: position, as: UInt32.self)
  }

  /// How many deltas the record stands for, behind its part.
  package mutating func append(joined: UInt64, to record: inout EntryRecord) {
    if let short = UInt32(exactly: joined) {
      record.shortJoined = short
    } else {
      record.shortJoined = 0
      withUnsafeBytes(of: joined) { append($0) }
    }
  }

  private mutating func reserve(_ count: Int) {
    guard used + count > bytes.count else { return }
    let grown = UnsafeMutableRawBufferPointer.allocate(
      byteCount: max(1024, max(used + count, 2 * bytes.count)), alignment: 8)
    grown.copyMemory(from: UnsafeRawBufferPointer(rebasing: bytes[..<used]))
    bytes.deallocate()
    bytes = grown
  }

  package mutating func append(_ entry: Entry) {
    entry.arena.withContents { records, base in
      var record = records[entry.index]
      let bytes = UnsafeRawBufferPointer(start: base + Int(record.start), count: Entry.length(record, base))
      record.start = UInt32(truncatingIfNeeded: used)
      append(bytes)
      append(record)
    }
  }
}
