import BatonProtocol
import CBatonZlib
import NIOCore

/// Makes entries of the names and values that Redis returns, side by side in one arena.
package struct EntryReader: ~Copyable, Sendable {
  /// `--max-entry-bytes`: entries whose names and values together exceed it are not kept.
  package let maxEntryBytes: Int
  /// Fields of a wrong shape, since the reader was made.
  package private(set) var misshapen = 0
  private var builder = EntriesBuilder()

  package init(maxEntryBytes: Int) {
    self.maxEntryBytes = maxEntryBytes
  }

  /// What was taken since the last time.
  package mutating func finish() -> Entries { builder.finish() }

  /// An entry that was not read whole because one of its strings was too large to be taken in.
  package mutating func takeElided(_ id: EntryID, bytes: Int) {
    var record = EntryRecord(id)
    (record.kind, record.bytes, record.start) = (.tooBig, bytes, UInt32(truncatingIfNeeded: builder.position))
    builder.append(record)
  }

  /// One entry.
  ///
  /// - Parameters:
  ///   - bytes: of its names and values together.
  ///   - check: the check of PROTOCOL 1.
  ///   - count: of pairs.
  ///   - pair: the names and values, in stored order; asked for more than once.
  package mutating func take(
    _ id: EntryID, bytes: Int, check: UInt32, count: Int,
    _ pair: (Int) -> (name: UnsafeRawBufferPointer, value: UnsafeRawBufferPointer)
  ) {
    var record = EntryRecord(id)
    (record.bytes, record.check, record.hasCheck) = (bytes, check, true)
    record.start = UInt32(truncatingIfNeeded: builder.position)
    let isTooBig = bytes > maxEntryBytes
    if isTooBig { record.kind = .tooBig }
    // The first of a name counts; where it has a wrong shape it stays among the others, as the second does.
    var seen: Known = []
    var others = 0
    var found = (data: -1, response: -1, event: -1, joined: -1, part: -1)
    for index in 0..<count {
      let (name, value) = pair(index)
      guard let known = Known(name) else {
        if name.first != UInt8(ascii: "_") { others += 1 }
        continue
      }
      guard seen.insert(known).inserted else {
        others += 1
        continue
      }
      var isTaken = true
      switch known {
      case .data: found.data = index
      case .response:
        isTaken = Shape.name(value, upTo: 128)
        if isTaken { found.response = index }
      case .event:
        isTaken = Shape.event(value)
        if isTaken { found.event = index }
      case .part:
        isTaken = Shape.part(value)
        if isTaken { found.part = index }
      case .more:
        isTaken = value.elementsEqual("1".utf8)
        record.hasMore = isTaken
      case .n:
        if let n = Shape.number(value) { record.n = n } else { isTaken = false }
      default: found.joined = index
      }
      if !isTaken {
        misshapen += 1
        others += 1
        seen.formUnion(Known(wrong: known))
      }
    }
    var deltas: UInt64 = 1
    if found.joined >= 0 {
      if let joined = Shape.number(pair(found.joined).value), !record.hasN || joined <= record.n {
        deltas = joined
      } else {
        misshapen += 1
        others += 1
        seen.formUnion(Known(wrong: .joined))
      }
    }
    if found.data >= 0, !isTooBig {
      let data = pair(found.data).value
      switch TextScan(data) {
      case .plain: record.kind = .text
      case .escaped: (record.kind, record.isPlain) = (.text, false)
      case .binary: record.kind = .binary
      }
      record.dataLength = UInt32(truncatingIfNeeded: data.count)
      builder.append(data)
    }
    if found.response >= 0 {
      let response = pair(found.response).value
      record.responseLength = UInt8(truncatingIfNeeded: response.count)
      builder.append(response)
    }
    if found.event >= 0 {
      let event = pair(found.event).value
      if !event.elementsEqual(Entry.token.utf8) {
        record.eventLength = UInt8(truncatingIfNeeded: event.count)
        builder.append(event)
      }
    }
    if found.part >= 0 {
      let part = pair(found.part).value
      record.partLength = UInt8(truncatingIfNeeded: part.count)
      builder.append(part)
    }
    if deltas != 1 { builder.append(joined: deltas, to: &record) }
    if others > 0, !isTooBig { takeOthers(&record, seen, count, pair) }
    builder.append(record)
  }

  private mutating func takeOthers(
    _ record: inout EntryRecord, _ known: Known, _ count: Int,
    _ pair: (Int) -> (name: UnsafeRawBufferPointer, value: UnsafeRawBufferPointer)
  ) {
    let start = builder.position
    builder.append(length: 0)
    var (taken, fields): (Known, Int) = ([], 0)
    for index in 0..<count {
      let (name, value) = pair(index)
      if let one = Known(name) {
        if taken.insert(one).inserted, !known.contains(Known(wrong: one)) { continue }
      } else if name.first == UInt8(ascii: "_") {
        continue
      }
      fields += 1
      builder.append(length: name.count)
      builder.append(length: value.count)
      builder.append(name)
      builder.append(value)
    }
    record.hasFields = true
    builder.set(length: fields, at: start)
  }

  private struct Known: OptionSet {
    let rawValue: UInt16
    static let data = Known(rawValue: 1)
    static let event = Known(rawValue: 2)
    static let response = Known(rawValue: 4)
    static let n = Known(rawValue: 8)
    static let joined = Known(rawValue: 16)
    static let part = Known(rawValue: 32)
    static let more = Known(rawValue: 64)

    init(rawValue: UInt16) { self.rawValue = rawValue }

    /// Says that the first of this name has a wrong shape.
    init(wrong known: Known) { rawValue = known.rawValue << 8 }

    init?(_ name: UnsafeRawBufferPointer) {
      switch name.count {
      case 1 where name[0] == UInt8(ascii: "n"): self = .n
      case 4 where Known.same(name, "data"): self = .data
      case 4 where Known.same(name, "part"): self = .part
      case 4 where Known.same(name, "more"): self = .more
      case 5 where Known.same(name, "event"): self = .event
      case 6 where Known.same(name, "joined"): self = .joined
      case 8 where Known.same(name, "response"): self = .response
      default: return nil
      }
    }

    /// Of the same length.
    @inline(__always)
    private static func same(_ name: UnsafeRawBufferPointer, _ word: StaticString) -> Bool {
      for index in 0..<name.count where name[index] != word.utf8Start[index] { return false }
      return true
    }
  }
}

extension EntryReader {
  /// One entry by itself, out of fields that are there already.
  package mutating func entry(_ id: EntryID, _ pairs: [Entry.Field]) -> Entry {
    var whole = ByteBuffer()
    var bounds: [(name: Range<Int>, value: Range<Int>)] = []
    for pair in pairs {
      let start = whole.writerIndex
      let middle = start + pair.name.readableBytes
      bounds.append((start..<middle, middle..<middle + pair.value.readableBytes))
      whole.writeImmutableBuffer(pair.name)
      whole.writeImmutableBuffer(pair.value)
    }
    whole.withUnsafeReadableBytes { bytes in
      take(id, bytes: bytes.count, check: Check.of(pairs), count: pairs.count) { index in
        (
          UnsafeRawBufferPointer(rebasing: bytes[bounds[index].name]),
          UnsafeRawBufferPointer(rebasing: bytes[bounds[index].value])
        )
      }
    }
    return builder.finish()[0]
  }

  /// See ``takeElided(_:bytes:)``.
  package mutating func elided(_ id: EntryID, bytes: Int) -> Entry {
    takeElided(id, bytes: bytes)
    return builder.finish()[0]
  }
}

/// The check of PROTOCOL 1.
package enum Check {
  /// zlib's CRC-32 over names and values in stored order, each preceded by its length as 4 bytes big-endian.
  package static func of(_ pairs: [Entry.Field]) -> UInt32 {
    var framed = ByteBuffer()
    for pair in pairs {
      for part in [pair.name, pair.value] {
        framed.writeInteger(UInt32(truncatingIfNeeded: part.readableBytes))
        framed.writeImmutableBuffer(part)
      }
    }
    return framed.withUnsafeReadableBytes { of($0) }
  }

  /// - Parameter framed: the names and values with their lengths.
  package static func of(_ framed: UnsafeRawBufferPointer) -> UInt32 {
    let start = framed.baseAddress?.assumingMemoryBound(to: UInt8.self)
    return UInt32(truncatingIfNeeded: crc32(crc32(0, nil, 0), start, UInt32(truncatingIfNeeded: framed.count)))
  }
}
