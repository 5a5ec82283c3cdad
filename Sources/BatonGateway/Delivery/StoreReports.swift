import BatonProtocol
import BatonRedis
import BatonSession
import BatonStore
import Logging
import NIOCore

#if canImport(Glibc)
  import Glibc
#else
  import Darwin
#endif

/// Turns what the store tells of itself into metrics, log lines and the node's readiness.
struct StoreReports: Sendable {
  let metrics: GatewayMetrics
  let state: NodeState
  let logger: Logger
  private let troubles: TroubleLog

  init(metrics: GatewayMetrics, state: NodeState, logger: Logger) {
    self.metrics = metrics
    self.state = state
    self.logger = logger
    troubles = TroubleLog(logger)
  }

  func take(_ event: StoreEvent) {
    switch event {
    case .following(let sessions): metrics.sessions.set(sessions)
    case .up(let connection): logger.debug("connected to Redis", metadata: ["connection": "\(connection.rawValue)"])
    case .cluster(.masters(let addresses)):
      let list = addresses.map(\.description).joined(separator: ", ")
      logger.info("the cluster's masters", metadata: ["addresses": "\(list)"])
    case .cluster(.silent(let error)):
      troubles.occurred(
        "cluster", .warning, "a node of the cluster does not tell who has which slots", metadata: ["error": "\(error)"])
    case .sentinel(.follows(let address)):
      logger.info("following the master that the Sentinels name", metadata: ["address": "\(address)"])
    case .sentinel(.silent(let address, let error)):
      troubles.occurred(
        "sentinel \(address)", .warning, "a Sentinel names no master",
        metadata: ["address": "\(address)", "error": "\(error)"])
    case .disconnected(let connection, let failure):
      metrics.redisReconnects.increment()
      troubles.occurred(
        "connection", .warning, "no connection to Redis",
        metadata: ["connection": "\(connection.rawValue)", "error": "\(failure.error)"])
    case .wakeupChanged(let source, let error):
      metrics.wakeup(source)
      var metadata: Logger.Metadata = ["wakeup": "\(source.rawValue)"]
      if let error { metadata["error"] = "\(error)" }
      logger.info("following Redis", metadata: metadata)
    case .ready:
      state.storeReached()
      troubles.ended("connection", "Redis is reached again")
    case .unready(let since, let why):
      troubles.occurred(
        "connection", .warning, "Redis does not serve all that is needed", metadata: ["error": "\(why)"])
      state.storeLost(at: since, why: why)
    case .entriesRead(let count, let newest):
      metrics.entriesRead.increment(by: count)
      let lag = StoreReports.wallClockMs() - Int64(clamping: newest.milliseconds)
      if lag >= 0, lag < 3_600_000 { metrics.lag.recordMilliseconds(lag) }
    case .misshapenFields(let count): metrics.misshapenFields.increment(by: count)
    case .unannounced: metrics.tailSweepFinds.increment()
    case .answered(_, let time): metrics.redisLatency.recordNanoseconds(time.nanoseconds)
    case .refused(let connection, let session, let error):
      metrics.redisErrors.increment()
      troubles.occurred(
        "refused \(error.code ?? "")", .warning, "Redis refuses",
        metadata: [
          "connection": "\(connection.rawValue)", "session": "\(session?.qualified ?? "")", "error": "\(error)",
        ])
    case .continuityBroken(let session, let reset):
      logger.notice(
        "continuity is broken",
        metadata: [
          "session": "\(session.qualified)", "reason": "\(reset.reason.rawValue)", "offset": "\(reset.requested)",
        ])
    case .wrongType(let session):
      troubles.occurred(
        "wrong type", .warning, "the key holds another type", metadata: ["session": "\(session.qualified)"])
    case .producerLost(let session, let response, let id):
      logger.notice(
        "a producer was lost",
        metadata: ["session": "\(session.qualified)", "response": "\(response)", "offset": "\(id)"])
    }
  }

  private static func wallClockMs() -> Int64 {
    var time = timespec()
    clock_gettime(CLOCK_REALTIME, &time)
    return Int64(time.tv_sec) * 1000 + Int64(time.tv_nsec) / 1_000_000
  }
}

extension Problem {
  init(_ error: RedisError, _ session: SessionName?) {
    switch error.meaning {
    case _ where error.code == "WRONGTYPE": self = session.map(Problem.wrongType) ?? .storeUnavailable
    // Another server is looked for.
    case .refusesWrites where error.code == "READONLY": self = .storeUnavailable
    case .refusesWrites:
      self = Problem(
        .serviceUnavailable, "store-full", "Redis accepts no writes now (\(error.description)); nothing was appended."
      ).with(header: "Retry-After", "5")
    case .refusesThis, .refused, .shutsUntilMended: self = .refusedByStore(error.description)
    case .unanswered, .shutsForNow, .shutsNewcomers, .refusesForNow: self = .storeUnavailable
    }
  }

  /// Trying again does not help: the operator has to mend it.
  static func refusedByStore(_ reason: String) -> Problem {
    Problem(.internalServerError, "store-refused", "\(reason). This does not pass by itself: ask who runs the gateway.")
  }

  /// An answer of the script that it never gives.
  static let unexpectedAnswer = Problem(
    .internalServerError, "internal", "The append script answered in an unknown shape; is another version loaded?")
}
