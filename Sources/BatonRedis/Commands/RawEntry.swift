import NIOCore

/// An entry of a stream. It keeps the reply alive that it came with.
package struct RawEntry: Sendable {
  package let id: RedisStreamID
  /// Names and values together.
  package let byteCount: Int
  /// Pairs of name and value.
  package let fieldCount: Int
  /// The entry passed a limit, and its names and values were not kept: there are no `fields`.
  package let isElided: Bool
  package let fields: Fields

  /// In stored order; slices of the reply, made as they are asked for.
  package struct Fields: RandomAccessCollection, Sendable {
    fileprivate let storage: RESPReply.Storage
    fileprivate let first: Int
    package let endIndex: Int
    package var startIndex: Int { 0 }

    package subscript(position: Int) -> (name: ByteBuffer, value: ByteBuffer) {
      (storage.slice(storage.nodes[first + 2 * position]), storage.slice(storage.nodes[first + 2 * position + 1]))
    }
  }
}

/// Consecutive entries of one stream.
package struct RawEntries: Sendable {
  package let entries: [RawEntry]
  /// There were more entries than the reply had room for: read on after the last. Where nothing else was asked for,
  /// or XINFO before, there is at least one.
  package let isCut: Bool
}

extension RESPReply {
  /// The answer to XRANGE and XREVRANGE, and the inner part of XREAD's. See ``eachEntry(_:_:)``.
  package func decodedEntries(_ command: String = "XRANGE") throws(RedisError) -> RawEntries {
    var entries: [RawEntry] = []
    let isCut = try eachEntry(command) { entries.append(RawEntry($0, of: storage)) }
    return RawEntries(entries: entries, isCut: isCut)
  }

  /// One entry, `[id, [name, value, …]]`; nil for any other shape.
  package var decodedEntry: RawEntry? {
    var entry: RawEntry?
    oneEntry { entry = RawEntry($0, of: storage) }
    return entry
  }
}

extension RawEntry {
  init(_ entry: EntryBytes, of storage: RESPReply.Storage) {
    self.init(
      id: entry.id, byteCount: entry.byteCount, fieldCount: entry.fieldCount, isElided: entry.isElided,
      fields: Fields(storage: storage, first: entry.first, endIndex: entry.pairCount))
  }
}
