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
    case .connected(let wakeup): logger.info("following Redis", metadata: ["wakeup": "\(wakeup.rawValue)"])
    case .disconnected(let connection, let error):
      metrics.redisReconnects.increment()
      troubles.occurred(
        "connection", .warning, "no connection to Redis",
        metadata: ["connection": "\(connection.rawValue)", "error": "\(error)"])
    case .wakeupChanged(.poll, let error?):
      logger.warning("CLIENT TRACKING is refused: polling", metadata: ["error": "\(error)"])
    case .wakeupChanged(.poll, nil):
      logger.warning("Redis announces no changes here: polling from now on", metadata: ["wakeup": "poll"])
    case .wakeupChanged:
      logger.error("Redis announces no changes here; --wakeup auto or poll would poll instead")
    case .reached:
      state.storeReached()
      troubles.ended("connection", "Redis is reached again")
    case .lost(let time): state.storeLost(at: time)
    case .entriesRead(let count, let newest):
      metrics.entriesRead.increment(by: count)
      let lag = StoreReports.wallClockMs() - Int64(clamping: newest.milliseconds)
      if lag >= 0, lag < 3_600_000 { metrics.lag.recordMilliseconds(lag) }
    case .misshapenFields(let count): metrics.misshapenFields.increment(by: count)
    case .sweepFound: metrics.tailSweepFinds.increment()
    case .answered(_, let time): metrics.redisLatency.recordNanoseconds(time.nanoseconds)
    case .refused(let connection, let session, let error):
      metrics.redisErrors.increment()
      troubles.occurred(
        "refused \(error.code ?? "")", .warning, "a read failed",
        metadata: [
          "connection": "\(connection.rawValue)", "session": "\(session?.description ?? "")", "error": "\(error)",
        ])
    case .continuityBroken(let session, let reset):
      logger.notice(
        "continuity is broken",
        metadata: [
          "session": "\(session)", "reason": "\(reset.reason.rawValue)", "offset": "\(reset.requested)",
        ])
    case .wrongType(let session):
      troubles.occurred("wrong type", .warning, "the key holds another type", metadata: ["session": "\(session)"])
    case .producerLost(let session, let response, let id):
      logger.notice(
        "a producer was lost",
        metadata: ["session": "\(session)", "response": "\(response)", "offset": "\(id)"])
    }
  }

  private static func wallClockMs() -> Int64 {
    var time = timespec()
    clock_gettime(CLOCK_REALTIME, &time)
    return Int64(time.tv_sec) * 1000 + Int64(time.tv_nsec) / 1_000_000
  }
}

extension Problem {
  init(_ error: RedisError, _ session: SessionName) {
    switch error.code {
    case "WRONGTYPE": self = .wrongType(session)
    case "OOM", "EXECABORT":
      self = Problem(
        .serviceUnavailable, "store-full", "Redis accepts no writes now (\(error.description)); nothing was appended."
      ).with(header: "Retry-After", "5")
    default: self = .storeUnavailable
    }
  }

  /// An answer of the script that it never gives.
  static let unexpectedAnswer = Problem(
    .internalServerError, "internal", "The append script answered in an unknown shape; is another version loaded?")
}
