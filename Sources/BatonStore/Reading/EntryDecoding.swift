import BatonProtocol
import BatonRedis
import BatonSession
import NIOCore

/// From what BatonRedis read to what BatonSession knows.
package struct StreamDecoder {
  private var reader: EntryReader

  package init(maxEntryBytes: Int) { reader = EntryReader(maxEntryBytes: maxEntryBytes) }

  package var misshapen: Int { reader.misshapen }

  package mutating func entry(_ raw: RawEntry) -> Entry {
    let id = EntryID(raw.id.milliseconds, raw.id.sequence)
    if raw.isElided { return reader.elided(id, bytes: raw.byteCount) }
    var pairs: [Entry.Field] = []
    pairs.reserveCapacity(raw.fields.count)
    for (name, value) in raw.fields { pairs.append(Entry.Field(name: name, value: value)) }
    return reader.entry(id, pairs)
  }

  /// The entries, and whether the reply's limits cut their end.
  package mutating func entries(_ raw: RawEntries) -> (entries: [Entry], isCut: Bool) {
    var entries: [Entry] = []
    entries.reserveCapacity(raw.entries.count)
    for one in raw.entries { entries.append(entry(one)) }
    return (entries, raw.isCut)
  }

  /// XINFO STREAM's answer; nil where the key holds another type.
  package mutating func info(_ reply: RESPReply) throws(RedisError) -> StreamInfo? {
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
  package var redis: RedisStreamID { RedisStreamID(milliseconds, sequence) }
}
