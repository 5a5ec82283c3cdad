import BatonProtocol
import BatonRedis
import BatonSession
import NIOCore

/// From what BatonRedis read to what BatonSession knows.
package struct StreamDecoder: ~Copyable {
  private var reader: EntryReader

  package init(maxEntryBytes: Int) { reader = EntryReader(maxEntryBytes: maxEntryBytes) }

  package var misshapen: Int { reader.misshapen }

  private mutating func take(_ raw: EntryBytes) {
    let id = EntryID(raw.id.milliseconds, raw.id.sequence)
    if raw.isElided {
      reader.takeElided(id, bytes: raw.byteCount)
    } else {
      reader.take(
        id, bytes: raw.byteCount, check: Check.of(raw.framed), count: raw.pairCount, { raw.pair($0) })
    }
  }

  private mutating func entry(_ reply: RESPReply) -> Entry? {
    reply.oneEntry { take($0) }
    return reader.finish().first
  }

  /// What a read brought, out of XRANGE's or XREVRANGE's answer or the inner part of XREAD's.
  ///
  /// - Parameter known: an entry at this id is not kept: only its offset is told.
  /// - Returns: `isCut`: the reply's limits cut the end of the entries.
  package mutating func entries(
    _ reply: RESPReply, known: EntryID? = nil
  ) throws(RedisError) -> (overlap: Offset?, entries: Entries, isCut: Bool) {
    var overlap: Offset?
    do throws(RedisError) {
      let isCut = try reply.eachEntry { raw in
        if let known, overlap == nil, EntryID(raw.id.milliseconds, raw.id.sequence) == known {
          overlap = Offset(id: known, check: raw.isElided ? nil : Check.of(raw.framed))
        } else {
          take(raw)
        }
      }
      return (overlap, reader.finish(), isCut)
    } catch {
      _ = reader.finish()
      throw error
    }
  }

  /// XINFO STREAM's answer; nil where the key holds another type.
  package mutating func info(_ reply: RESPReply) throws(RedisError) -> StreamInfo? {
    if reply.isRefusal("ERR no such key") { return .absent }
    if let error = reply.error {
      if error.code == "WRONGTYPE" { return nil }
      if error.code == "ERR", error.description.contains("no such key") { return .absent }
      throw error
    }
    let raw = try RedisStreamInfo(reply)
    return StreamInfo(
      exists: true, length: UInt64(raw.length), first: raw.first.flatMap { entry($0)?.offset },
      last: raw.last.flatMap { entry($0)?.place },
      lastGenerated: EntryID(raw.lastGeneratedID.milliseconds, raw.lastGeneratedID.sequence),
      entriesAdded: raw.entriesAdded,
      maxDeleted: raw.maxDeletedEntryID.map { EntryID($0.milliseconds, $0.sequence) },
      firstFollows: raw.entriesAdded == nil ? raw.first.flatMap(Self.predecessor) : nil)
  }

  /// What an entry that was added to a stream without any tells in its last field.
  private static func predecessor(_ reply: RESPReply) -> EntryID? {
    var id: EntryID?
    reply.oneEntry { raw in
      guard raw.pairCount > 0 else { return }
      let (name, value) = raw.pair(raw.pairCount - 1)
      if name.elementsEqual("_after".utf8) { id = EntryID(String(decoding: value, as: UTF8.self)) }
    }
    return id
  }
}

extension EntryID {
  package var redis: RedisStreamID { RedisStreamID(milliseconds, sequence) }
}
