import NIOConcurrencyHelpers
import NIOCore

/// What /readyz tells, and what new attaches meet.
package final class NodeState: Sendable {
  private struct Values {
    /// Seconds that a refused device should wait.
    var drainingFor: Int64?
    var busyConnections = 0
    var endsUploads = false
    var reached = false
    var lostAt: NIODeadline?
  }

  private let values = NIOLockedValueBox(Values())

  package init() {}

  package var drainingFor: Int64? { values.withLockedValue { $0.drainingFor } }
  package func beginDraining(retryAfter seconds: Int64) { values.withLockedValue { $0.drainingFor = seconds } }

  /// Connections on which somebody waits for an answer, or for its end.
  package var busyConnections: Int { values.withLockedValue { $0.busyConnections } }
  package func connectionIsBusy(_ isBusy: Bool) {
    values.withLockedValue { $0.busyConnections += isBusy ? 1 : -1 }
  }

  /// Uploads have had their time: they are answered with what the stream has.
  package var endsUploads: Bool { values.withLockedValue { $0.endsUploads } }
  package func endUploads() { values.withLockedValue { $0.endsUploads = true } }

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
