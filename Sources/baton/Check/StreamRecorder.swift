import BatonCheck
import BatonProtocol
import BatonRedis
import BatonStore
import Foundation
import NIOCore
import NIOPosix

/// Reads a session's stream from Redis as the lines of a recording.
struct StreamRecorder {
  private static let page = 500
  private static let patience = TimeAmount.seconds(30)

  private let connection: RedisConnection
  private let prefix: String

  /// - Throws: `RedisError`.
  static func with<Result>(
    redis: String, prefix: String, _ body: (StreamRecorder) async throws -> Result
  ) async throws -> Result {
    let connector = try RedisConnector(RedisURL(redis))
    let connection = try await connector.connect(on: MultiThreadedEventLoopGroup.singleton.next()).get()
    defer { connection.eventLoop.execute { connection.close() } }
    return try await body(StreamRecorder(connection: connection, prefix: prefix))
  }

  /// What the stream holds now: a header, its facts, its entries, and that this is all.
  ///
  /// - Throws: `RedisError`; what `line` throws.
  func record(_ session: SessionName, _ line: (ByteBuffer) throws -> Void) async throws {
    let key = session.key(prefix: prefix)
    let now = { Int64(Date().timeIntervalSince1970 * 1000) }
    try line(RecordingLines.header(RecordingHeader(.stream, session: session.description, at: now())))
    let reply = try await connection.send(.xinfoStream(key), timeout: Self.patience)
    if let error = reply.error, error.description.contains("no such key") {
      try line(RecordingLines.info(StreamFacts(length: 0, entriesAdded: nil), at: now()))
    } else {
      let info = try RedisStreamInfo(reply)
      try line(
        RecordingLines.info(StreamFacts(length: UInt64(info.length), entriesAdded: info.entriesAdded), at: now()))
      var from = RedisStreamID.zero
      while from <= info.lastGeneratedID {
        let range = RedisCommand.xrange(key, from: from, through: info.lastGeneratedID, count: Self.page)
        let entries = try await connection.send(range, timeout: Self.patience).decodedEntries()
        for entry in entries.entries {
          let id = EntryID(entry.id.milliseconds, entry.id.sequence)
          try line(
            entry.isElided
              ? RecordingLines.elided(id, bytes: entry.byteCount, at: now())
              : RecordingLines.entry(id, entry.fields, at: now()))
        }
        guard let last = entries.entries.last, entries.isCut || entries.entries.count == Self.page else { break }
        from = RedisStreamID(last.id.milliseconds, last.id.sequence &+ 1)
        if from.sequence == 0 { from = RedisStreamID(last.id.milliseconds &+ 1, 0) }
      }
    }
    try line(RecordingLines.plain("whole", at: now()))
  }
}
