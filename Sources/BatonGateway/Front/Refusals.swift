import BatonProtocol
import Logging
import NIOConcurrencyHelpers
import NIOCore

/// Counts and logs what was refused and why, without credentials. What is refused often is logged seldom.
package final class Refusals: Sendable {
  private let metrics: GatewayMetrics
  private let logger: Logger
  private let audit: AuditLog?
  private let paces = NIOLockedValueBox<[String: Pace]>([:])

  package init(metrics: GatewayMetrics, logger: Logger, audit: AuditLog? = nil) {
    self.metrics = metrics
    self.logger = logger
    self.audit = audit
  }

  /// - Parameters:
  ///   - uri: the request target; its query is never logged.
  ///   - address: whose request it is.
  func note(
    _ problem: Problem, uri: String, origin: String?, from address: PeerAddress?, now: NIODeadline = .now()
  ) {
    metrics.refused(status: problem.status.code, reason: problem.name)
    if let limit = problem.limit { metrics.exceeded(limit) }
    let named: SessionName? =
      switch Target(uri).resource {
      case .session(let name), .response(_, let name), .controls(_, let name), .responses(let name), .input(let name),
        .cancel(_, let name):
        SessionName(name)
      case .other, .malformed: nil
      }
    let session = problem.session ?? named
    audit?.refused(problem, AuditLog.Facts(address: address, session: session, problem.identity), now: now)
    guard let left = paces.withLockedValue({ $0[problem.name, default: Pace(now: now)].next(now) }) else { return }
    var metadata: Logger.Metadata = ["reason": "\(problem.name)", "status": "\(problem.status.code)"]
    if let session { metadata["session"] = "\(session.qualified)" }
    if let origin { metadata["origin"] = "\(origin.prefix(200))" }
    if left > 0 { metadata["unlogged"] = "\(left)" }
    logger.info("refused a request: \(problem.detail)", metadata: metadata)
  }

  /// Five at once, then one every ten seconds; each tells how many were left out before it.
  struct Pace {
    static let burst = 5.0
    static let interval = TimeAmount.seconds(10)

    private var tokens = Pace.burst
    private var last: NIODeadline
    private var left = 0

    init(now: NIODeadline) { last = now }

    /// Nil: not to be logged.
    mutating func next(_ now: NIODeadline) -> Int? {
      tokens = min(Pace.burst, tokens + Double((now - last).nanoseconds) / Double(Pace.interval.nanoseconds))
      last = now
      guard tokens >= 1 else {
        left += 1
        return nil
      }
      tokens -= 1
      defer { left = 0 }
      return left
    }

    /// How many were left out and not told of.
    mutating func settle() -> Int {
      defer { left = 0 }
      return left
    }

    /// Nothing has come for so long that it might as well be new.
    func isIdle(_ now: NIODeadline) -> Bool { now - last > .seconds(60) }
  }
}
