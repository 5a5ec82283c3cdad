import NIOCore

/// One item of the stream, as it was read: a place in an arena of entries, which it keeps.
package struct Entry: @unchecked Sendable {
  package enum Payload: Sendable, Equatable {
    case none
    case text(ByteBuffer)
    /// Not UTF-8; delivered as base64.
    case binary(ByteBuffer)
    /// Names and values together exceed `--max-entry-bytes`: not kept, `skipped` says so.
    case tooBig
  }

  package struct Field: Sendable, Equatable {
    package var name: ByteBuffer
    package var value: ByteBuffer

    package init(name: ByteBuffer, value: ByteBuffer) {
      self.name = name
      self.value = value
    }
  }

  let arena: EntryArena
  let index: Int

  package static let token = "token"

  private func read<R>(_ body: (EntryRecord, UnsafeRawPointer) -> R) -> R {
    arena.withContents { records, bytes in body(records[index], bytes) }
  }

  private var record: EntryRecord { read { record, _ in record } }

  package var id: EntryID { record.id }
  /// Nil only where the entry was too large to be read.
  package var check: UInt32? { record.offset.check }
  package var n: UInt64? { record.hasN ? record.n : nil }
  /// How many deltas it holds; 1 where the producer joined none.
  package var joined: UInt64 { read(Entry.joined) }
  /// Names and values together.
  package var bytes: Int { record.bytes }
  package var isTooBig: Bool { record.kind == .tooBig }
  package var offset: Offset { record.offset }
  package var place: Place { Place(offset: offset) }

  package var event: String {
    read { record, bytes in
      record.eventLength == 0 ? Entry.token : String(decoding: Entry.event(record, bytes), as: UTF8.self)
    }
  }

  package var response: String? {
    read { record, bytes in
      record.responseLength == 0 ? nil : String(decoding: Entry.response(record, bytes), as: UTF8.self)
    }
  }

  package var part: String? {
    read { record, bytes in
      record.partLength == 0 ? nil : String(decoding: Entry.part(record, bytes), as: UTF8.self)
    }
  }

  /// The data goes on in the next entry of the same response and event.
  package var hasMore: Bool { record.hasMore }

  package var payload: Payload {
    read { record, bytes in
      switch record.kind {
      case .none: .none
      case .tooBig: .tooBig
      case .text: .text(ByteBuffer(bytes: Entry.data(record, bytes)))
      case .binary: .binary(ByteBuffer(bytes: Entry.data(record, bytes)))
      }
    }
  }

  /// The other fields, in their order.
  package var fields: [Field] {
    read { record, bytes in
      guard record.hasFields else { return [] }
      var at = bytes + Int(record.start) + Entry.known(record)
      let count = at.loadUnaligned(as: UInt32.self)
      at += 4
      func next(_ length: Int) -> ByteBuffer {
        defer { at += length }
        return ByteBuffer(bytes: UnsafeRawBufferPointer(start: at, count: length))
      }
      return (0..<count).map { _ in
        let name = Int(at.loadUnaligned(as: UInt32.self))
        let value = Int(at.loadUnaligned(fromByteOffset: 4, as: UInt32.self))
        at += 8
        return Field(name: next(name), value: next(value))
      }
    }
  }

  /// `end`, `error` and `cancelled` end a response.
  package var endsResponse: Bool {
    read { record, bytes in
      guard record.eventLength > 0 else { return false }
      let event = Entry.event(record, bytes)
      return event.elementsEqual("end".utf8) || event.elementsEqual("error".utf8)
        || event.elementsEqual("cancelled".utf8)
    }
  }

  /// Whether it is of this response.
  package func isOf(_ response: String) -> Bool {
    read { record, bytes in Entry.response(record, bytes).elementsEqual(response.utf8) }
  }

  // MARK: where things lie

  static func data(_ record: EntryRecord, _ bytes: UnsafeRawPointer) -> UnsafeRawBufferPointer {
    UnsafeRawBufferPointer(start: bytes + Int(record.start), count: Int(record.dataLength))
  }

  static func response(_ record: EntryRecord, _ bytes: UnsafeRawPointer) -> UnsafeRawBufferPointer {
    UnsafeRawBufferPointer(
      start: bytes + Int(record.start) + Int(record.dataLength), count: Int(record.responseLength))
  }

  static func event(_ record: EntryRecord, _ bytes: UnsafeRawPointer) -> UnsafeRawBufferPointer {
    UnsafeRawBufferPointer(
      start: bytes + Int(record.start) + Int(record.dataLength) + Int(record.responseLength),
      count: Int(record.eventLength))
  }

  static func part(_ record: EntryRecord, _ bytes: UnsafeRawPointer) -> UnsafeRawBufferPointer {
    UnsafeRawBufferPointer(
      start: bytes + Int(record.start) + named(record) - Int(record.partLength), count: Int(record.partLength))
  }

  static func joined(_ record: EntryRecord, _ bytes: UnsafeRawPointer) -> UInt64 {
    record.shortJoined > 0
      ? UInt64(record.shortJoined)
      : (bytes + Int(record.start) + named(record)).loadUnaligned(as: UInt64.self)
  }

  private static func named(_ record: EntryRecord) -> Int {
    Int(record.dataLength) + Int(record.responseLength) + Int(record.eventLength) + Int(record.partLength)
  }

  /// Of all that stands in front of the other fields.
  private static func known(_ record: EntryRecord) -> Int { named(record) + (record.shortJoined > 0 ? 0 : 8) }

  /// Of all its bytes in the arena.
  static func length(_ record: EntryRecord, _ bytes: UnsafeRawPointer) -> Int {
    var length = known(record)
    guard record.hasFields else { return length }
    let count = (bytes + Int(record.start) + length).loadUnaligned(as: UInt32.self)
    length += 4
    for _ in 0..<count {
      let at = bytes + Int(record.start) + length
      length += 8 + Int(at.loadUnaligned(as: UInt32.self)) + Int(at.loadUnaligned(fromByteOffset: 4, as: UInt32.self))
    }
    return length
  }
}

extension Entries {
  /// Whether the entry behind this one may be joined to it in a frame (PROTOCOL 4).
  func joinsNext(_ index: Int) -> Bool {
    arena.withContents { records, bytes in
      let (one, next) = (records[index], records[index + 1])
      guard one.eventLength == 0, next.eventLength == 0, one.kind == .text, next.kind == .text,
        !one.hasFields, !next.hasFields, !one.hasMore, !next.hasMore,
        one.responseLength == next.responseLength, one.partLength == next.partLength,
        Entry.response(one, bytes).elementsEqual(Entry.response(next, bytes)),
        Entry.part(one, bytes).elementsEqual(Entry.part(next, bytes))
      else { return false }
      switch (one.hasN, next.hasN) {
      case (false, false): return true
      case (true, true) where next.n >= Entry.joined(next, bytes) && next.n - Entry.joined(next, bytes) == one.n:
        // A delta that was appended twice stays alone, so that who has its number can leave it out (PROTOCOL 2).
        guard index > 0, records[index - 1].hasN, records[index - 1].n >= one.n else { return true }
        let before = records[index - 1]
        return before.responseLength != one.responseLength
          || !Entry.response(before, bytes).elementsEqual(Entry.response(one, bytes))
      default: return false
      }
    }
  }
}

/// Where something stands in a stream: behind an entry, or where there is none (yet, or any more).
package struct Place: Sendable, Equatable {
  package var offset: Offset
  /// False at the start, and at the last generated id of a stream that holds nothing: there is no entry to prove the place by.
  package var isEntry: Bool

  package static let zero = Place(offset: .zero)

  package init(offset: Offset) {
    self.offset = offset
    isEntry = offset != .zero
  }

  /// Behind all ids up to this one, none of which is retained.
  package init(emptyUpTo id: EntryID) {
    offset = Offset(id: id)
    isEntry = false
  }
}
