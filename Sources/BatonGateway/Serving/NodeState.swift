import NIOConcurrencyHelpers
import NIOCore

/// What /readyz tells, and what new attaches meet.
package final class NodeState: Sendable {
  private struct Values {
    /// Seconds that a refused device should wait.
    var drainingFor: Int64?
    var reached = false
    var lostAt: NIODeadline?
  }

  private let values = NIOLockedValueBox(Values())

  package init() {}

  package var drainingFor: Int64? { values.withLockedValue { $0.drainingFor } }
  package func beginDraining(retryAfter seconds: Int64) { values.withLockedValue { $0.drainingFor = seconds } }

  /// Told by whoever talks to Redis, at each change.
  package func storeReached() {
    values.withLockedValue {
      $0.reached = true
      $0.lostAt = nil
    }
  }

  package func storeLost(at now: NIODeadline) { values.withLockedValue { if $0.lostAt == nil { $0.lostAt = now } } }

  /// Nil: ready. Otherwise why not.
  package func unreadiness(at now: NIODeadline) -> String? {
    values.withLockedValue { values in
      if values.drainingFor != nil { return "draining" }
      if !values.reached { return "Redis was never reached" }
      if let lostAt = values.lostAt, now - lostAt > .seconds(30) { return "Redis is out of reach" }
      return nil
    }
  }
}
