import BatonRedis
import BatonSession
import NIOCore

/// From what BatonRedis read to what BatonSession knows.
struct StreamDecoder {
  private var reader: EntryReader
  private let maxEntryBytes: Int

  init(maxEntryBytes: Int) {
    self.maxEntryBytes = maxEntryBytes
    reader = EntryReader(maxEntryBytes: maxEntryBytes)
  }

  var misshapen: Int { reader.misshapen }

  mutating func entry(_ raw: RawEntry) -> Entry {
    let id = EntryID(raw.id.milliseconds, raw.id.sequence)
    if raw.isElided { return reader.elided(id, bytes: raw.byteCount) }
    var pairs: [Entry.Field] = []
    pairs.reserveCapacity(raw.fields.count)
    for (name, value) in raw.fields {
      guard let name = name.bytes, let value = value.bytes else { return reader.elided(id, bytes: raw.byteCount) }
      pairs.append(Entry.Field(name: name, value: value))
    }
    return reader.entry(id, pairs)
  }

  /// The entries, and whether the reply's limits cut their end.
  mutating func entries(_ raw: RawEntries) -> (entries: [Entry], isCut: Bool) {
    var entries: [Entry] = []
    entries.reserveCapacity(raw.entries.count)
    for one in raw.entries { entries.append(entry(one)) }
    if entries.isEmpty, let cut = raw.cut, cut.byteCount > maxEntryBytes { entries.append(entry(cut)) }
    return (entries, raw.isCut)
  }

  /// XINFO STREAM's answer; nil where the key holds another type.
  mutating func info(_ reply: RESPReply) throws(RedisError) -> StreamInfo? {
    if let error = reply.error {
      if error.code == "WRONGTYPE" { return nil }
      if error.code == "ERR", error.description.contains("no such key") { return .absent }
      throw error
    }
    let raw = try RedisStreamInfo(reply)
    return StreamInfo(
      exists: true, length: UInt64(raw.length), first: raw.firstEntry.map { entry($0).offset },
      last: raw.lastEntry.map { entry($0).place },
      lastGenerated: EntryID(raw.lastGeneratedID.milliseconds, raw.lastGeneratedID.sequence),
      entriesAdded: raw.entriesAdded,
      maxDeleted: raw.maxDeletedEntryID.map { EntryID($0.milliseconds, $0.sequence) })
  }
}

extension EntryID {
  var redis: RedisStreamID { RedisStreamID(milliseconds, sequence) }
}

extension TailRead {
  /// How many commands, and so replies, this read is.
  var commandCount: Int { look ? 4 : 1 }

  func commands(key: String) -> [RedisCommand] {
    let xread = RedisCommand.xread(count: count, [(key, after.redis)])
    return look ? [.multi, .xinfoStream(key), xread, .exec] : [xread]
  }

  /// Throws what is no property of this key.
  func outcome(_ replies: ArraySlice<RESPReply>, key: String, _ decoder: inout StreamDecoder) throws(RedisError)
    -> TailOutcome
  {
    var info: StreamInfo?
    let xread: RESPReply
    if look {
      let results = try decodeExec(Array(replies))
      guard results.count == 2 else { throw .unexpectedReply("EXEC") }
      guard let known = try decoder.info(results[0]) else { return .wrongType }
      info = known
      xread = results[1]
    } else {
      guard let reply = replies.first else { throw .unexpectedReply("XREAD") }
      xread = reply
    }
    if xread.error?.code == "WRONGTYPE" { return .wrongType }
    guard let raw = try xread.decodedStreams([key]).first?.read else { return .entries([], info: info, more: false) }
    let (entries, isCut) = decoder.entries(raw)
    return .entries(entries, info: info, more: isCut || entries.count >= count)
  }
}

extension PageRequest {
  func commands(key: String) -> [RedisCommand] {
    let range: RedisCommand
    switch span {
    case .after(let id): range = .xrange(key, from: id.redis, count: count)
    case .before(let id): range = .xrevrange(key, from: id?.redis ?? .max, count: count)
    }
    return look ? [.multi, .xinfoStream(key), range, .exec] : [range]
  }

  func outcome(_ replies: [RESPReply], _ decoder: inout StreamDecoder) throws(RedisError) -> PageOutcome {
    var info: StreamInfo?
    let range: RESPReply
    if look {
      let results = try decodeExec(replies)
      guard results.count == 2 else { throw .unexpectedReply("EXEC") }
      guard let known = try decoder.info(results[0]) else { return .wrongType }
      info = known
      range = results[1]
    } else {
      guard let reply = replies.first else { throw .unexpectedReply("XRANGE") }
      range = reply
    }
    if range.error?.code == "WRONGTYPE" { return .wrongType }
    let (entries, isCut) = decoder.entries(try range.decodedEntries())
    return .page(Page(info: info, entries: entries, more: isCut || entries.count >= count))
  }
}
