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

  private let masters: Masters
  private let prefix: String

  /// - Parameter redis: any address that gateways take.
  /// - Throws: `RedisError`.
  init(redis: String, prefix: String) throws(RedisError) {
    masters = Masters(try RedisConnector(RedisURL(redis)))
    self.prefix = prefix
  }

  /// What the stream holds now: a header, its facts, its entries, and that this is all.
  ///
  /// - Throws: `RedisError`; what `line` throws.
  func record(_ session: SessionName, _ line: (ByteBuffer) throws -> Void) async throws {
    let key = session.key(prefix: prefix)
    let connection = try await masters.connection(for: key)
    let now = { Int64(Date().timeIntervalSince1970 * 1000) }
    try line(RecordingLines.header(RecordingHeader(.stream, session: session.qualified, at: now())))
    // A refusal says that there is none.
    guard let reply = try await connection.send([.xinfoStream(key)], timeout: Self.patience).first else {
      throw RedisError.unexpectedReply("XINFO STREAM")
    }
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

/// Connections to the masters, wherever they are. Everything is done on one event loop.
private final class Masters: Sendable {
  /// For so long a master is looked for.
  private static let patience = TimeAmount.seconds(10)

  private let eventLoop: any EventLoop
  private let state: NIOLoopBoundBox<State>

  private struct State {
    var links: MasterLinks?
    var waiting: [(key: String, promise: EventLoopPromise<RedisConnection>)] = []
    /// A server of that one address can't be reached.
    var failure: RedisError?

    /// Those whose master is there; all of them, where the only one can't be reached.
    mutating func settle() {
      waiting.removeAll { key, promise in
        if let connection = links?.master(of: key).flatMap({ links?.connection(to: $0) }) {
          promise.succeed(connection)
        } else if let failure {
          promise.fail(failure)
        } else {
          return false
        }
        return true
      }
    }
  }

  init(_ connector: RedisConnector) {
    let eventLoop = MultiThreadedEventLoopGroup.singleton.next()
    self.eventLoop = eventLoop
    state = NIOLoopBoundBox.makeBoxSendingValue(State(), eventLoop: eventLoop)
    eventLoop.execute { [state] in
      let links = MasterLinks(connector, on: eventLoop) { event in
        if case .down(_, let failure) = event, connector.url.topology == .standalone {
          state.value.failure = failure.error
        }
        state.value.settle()
      }
      state.value.links = links
      links.start()
    }
  }

  deinit {
    eventLoop.execute { [state] in
      state.value.links?.stop()
      state.value.links = nil
    }
  }

  func connection(for key: String) async throws -> RedisConnection {
    try await eventLoop.flatSubmit { [eventLoop, state] in
      let promise = eventLoop.makePromise(of: RedisConnection.self)
      state.value.waiting.append((key, promise))
      state.value.settle()
      eventLoop.scheduleTask(in: Self.patience) {
        state.value.failure = state.value.failure ?? .misplaced("no master was found for \(key)")
        state.value.settle()
      }
      return promise.futureResult
    }.get()
  }
}
