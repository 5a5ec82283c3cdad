import NIOConcurrencyHelpers
import NIOCore

/// What /readyz tells, and what new attaches meet.
package final class NodeState: Sendable {
  private struct Values {
    /// Seconds that a refused device should wait.
    var drainingFor: Int64?
    var busyConnections = 0
    var requests = 0
    var endsUploads = false
    var reached = false
    var lost: (at: NIODeadline, why: String)?
  }

  private let values = NIOLockedValueBox(Values())

  package let roles: NodeRoles

  package init(roles: NodeRoles = .all) { self.roles = roles }

  package var drainingFor: Int64? { values.withLockedValue { $0.drainingFor } }
  package func beginDraining(retryAfter seconds: Int64) { values.withLockedValue { $0.drainingFor = seconds } }

  /// Connections on which somebody waits for an answer, or for its end.
  package var busyConnections: Int { values.withLockedValue { $0.busyConnections } }
  package func connectionIsBusy(_ isBusy: Bool) {
    values.withLockedValue { $0.busyConnections += isBusy ? 1 : -1 }
  }

  /// False: as many requests are worked on as may be; else `endRequest` follows.
  package func beginRequest(atMost most: Int) -> Bool {
    values.withLockedValue { values in
      guard values.requests < most else { return false }
      values.requests += 1
      return true
    }
  }

  package func endRequest() { values.withLockedValue { $0.requests -= 1 } }

  /// Uploads have had their time: they are answered with what the stream has.
  package var endsUploads: Bool { values.withLockedValue { $0.endsUploads } }
  package func endUploads() { values.withLockedValue { $0.endsUploads = true } }

  /// Told by whoever talks to Redis, at each change.
  package func storeReached() {
    values.withLockedValue {
      $0.reached = true
      $0.lost = nil
    }
  }

  package func storeLost(at now: NIODeadline, why: String) {
    values.withLockedValue { $0.lost = ($0.lost?.at ?? now, why) }
  }

  /// Nil: ready. Otherwise why not.
  package func unreadiness(at now: NIODeadline) -> String? {
    values.withLockedValue { values in
      if values.drainingFor != nil { return "draining" }
      let why = values.lost.map { ": \($0.why)" } ?? ""
      if !values.reached { return "Redis was never reached" + why }
      if let lost = values.lost, now - lost.at > .seconds(30) {
        return "Redis has not served all that is needed for 30 s" + why
      }
      return nil
    }
  }
}
