import NIOCore

extension RedisCommand {
  package enum Trim: Sendable {
    /// `MAXLEN ~`: at least so many entries are kept.
    case about(Int)
    /// `MAXLEN =`: exactly so many entries are kept.
    case exactly(Int)
  }

  /// Answered with the new entry's id. `id` nil lets the server choose.
  package static func xadd(
    _ key: String, id: RedisStreamID? = nil, trim: Trim? = nil, fields: [(name: Argument, value: Argument)]
  ) -> RedisCommand {
    var arguments: [Argument] = [.string(key)]
    switch trim {
    case .about(let count): arguments += ["MAXLEN", "~", .integer(Int64(count))]
    case .exactly(let count): arguments += ["MAXLEN", "=", .integer(Int64(count))]
    case nil: break
    }
    arguments.append(id.map { .string($0.description) } ?? "*")
    for field in fields { arguments += [field.name, field.value] }
    return RedisCommand("XADD", arguments)
  }

  /// Entries after `after`, at most `count` a stream; never blocks. See ``RESPReply/decodedStreams(_:)``.
  package static func xread(count: Int, _ streams: [(key: String, after: RedisStreamID)]) -> RedisCommand {
    var command = RedisCommandWriter("XREAD", arguments: 3 + 2 * streams.count, size: 96 * streams.count)
    command.write("COUNT")
    command.write(Int64(count))
    command.write("STREAMS")
    for stream in streams { command.write(stream.key) }
    for stream in streams { command.write(stream.after) }
    return command.command
  }

  /// Entries from `from` to `through`, both included, oldest first. See ``RESPReply/decodedEntries(_:)``.
  package static func xrange(
    _ key: String, from: RedisStreamID = .zero, through: RedisStreamID = .max, count: Int
  ) -> RedisCommand {
    RedisCommand(
      "XRANGE", .string(key), .string(from.description), .string(through.description), "COUNT", .integer(Int64(count)))
  }

  /// Entries from `from` down to `through`, both included, newest first.
  package static func xrevrange(
    _ key: String, from: RedisStreamID = .max, through: RedisStreamID = .zero, count: Int
  ) -> RedisCommand {
    RedisCommand(
      "XREVRANGE", .string(key), .string(from.description), .string(through.description), "COUNT",
      .integer(Int64(count)))
  }

  /// See ``RedisStreamInfo``. Refused with `ERR no such key` where there is none.
  package static func xinfoStream(_ key: String) -> RedisCommand { RedisCommand("XINFO", "STREAM", .string(key)) }
}

extension RESPReply {
  /// XADD's answer.
  package func decodedID() throws(RedisError) -> RedisStreamID {
    guard let bytes = try accepted().bytes, let id = RedisStreamID(bytes.readableBytesView) else {
      throw .unexpectedReply("XADD")
    }
    return id
  }

  /// As ``streams(_:)``, with the entries taken out.
  package func decodedStreams(_ keys: [String]) throws(RedisError) -> [(index: Int, read: RawEntries)] {
    var read: [(index: Int, read: RawEntries)] = []
    for (index, entries) in try streams(keys) { read.append((index, try entries.decodedEntries("XREAD"))) }
    return read
  }
}

/// XINFO STREAM's answer.
package struct RedisStreamInfo: Sendable {
  /// The number of entries.
  package let length: Int
  package let lastGeneratedID: RedisStreamID
  /// Entries ever added; nil before Redis 7.
  package let entriesAdded: UInt64?
  /// Nil before Redis 7.
  package let maxDeletedEntryID: RedisStreamID?
  /// The first and the last entry, for ``RESPReply/oneEntry(_:)``.
  package let first: RESPReply?
  package let last: RESPReply?

  package var firstEntry: RawEntry? { first?.decodedEntry }
  package var lastEntry: RawEntry? { last?.decodedEntry }

  package init(_ reply: RESPReply) throws(RedisError) {
    guard var elements = try reply.accepted().elements else { throw .unexpectedReply("XINFO STREAM") }
    var (length, entriesAdded) = (Int64?.none, Int64?.none)
    var (lastID, deletedID) = (RedisStreamID?.none, RedisStreamID?.none)
    var (first, last) = (RESPReply?.none, RESPReply?.none)
    while let name = elements.next(), let value = elements.next() {
      if name.isString("length") {
        length = value.integer
      } else if name.isString("entries-added") {
        entriesAdded = value.integer
      } else if name.isString("last-generated-id") {
        lastID = value.bytes.flatMap { RedisStreamID($0.readableBytesView) }
      } else if name.isString("max-deleted-entry-id") {
        deletedID = value.bytes.flatMap { RedisStreamID($0.readableBytesView) }
      } else if name.isString("first-entry") {
        first = value.isEntry ? value : nil
      } else if name.isString("last-entry") {
        last = value.isEntry ? value : nil
      }
    }
    guard let length, let lastID, (length == 0) == (first == nil), (length == 0) == (last == nil) else {
      throw .unexpectedReply("XINFO STREAM")
    }
    self.length = Int(length)
    self.entriesAdded = entriesAdded.map { UInt64(bitPattern: $0) }
    (lastGeneratedID, maxDeletedEntryID, self.first, self.last) = (lastID, deletedID, first, last)
  }
}
