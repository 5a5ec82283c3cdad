import NIOCore

/// So many in a time. As many as fit into `burst` may come at once.
package struct Rate: Sendable, Equatable {
  package let interval: TimeAmount
  package let burst: TimeAmount

  /// - Parameter count: at least 1.
  package init(_ count: Int, per time: TimeAmount = .seconds(1), burst: TimeAmount = .seconds(10)) {
    interval = .nanoseconds(max(1, time.nanoseconds / Int64(max(1, count))))
    self.burst = max(burst, interval)
  }
}

/// Counts what comes against a rate.
package struct RateMeter: Sendable {
  /// When all that has come fits into the rate.
  private var due = NIODeadline.uptimeNanoseconds(0)

  package init() {}

  /// False: one more is too much, and was not counted.
  package mutating func take(_ rate: Rate, now: NIODeadline) -> Bool {
    guard wait(rate, now: now) == .zero else { return false }
    due = max(due, now) + rate.interval
    return true
  }

  /// How long it takes until one more fits.
  package func wait(_ rate: Rate, now: NIODeadline) -> TimeAmount {
    max(.zero, max(due, now) + rate.interval - now - rate.burst)
  }

  package func isIdle(now: NIODeadline) -> Bool { due <= now }
}
