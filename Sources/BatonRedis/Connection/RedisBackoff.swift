import NIOCore

/// Full jitter: each delay is a random part of a ceiling that doubles from attempt to attempt.
package struct RedisBackoff: Sendable, Equatable {
  /// The first ceiling.
  package let base: TimeAmount
  package let maximum: TimeAmount
  private var ceiling: TimeAmount

  package init(base: TimeAmount = .milliseconds(50), maximum: TimeAmount = .seconds(2)) {
    (self.base, self.maximum, ceiling) = (base, maximum, base)
  }

  /// `random` is 0 to 1.
  package mutating func next(random: Double) -> TimeAmount {
    defer { ceiling = min(ceiling * 2, maximum) }
    return .nanoseconds(Int64(Double(ceiling.nanoseconds) * min(max(random, 0), 1)))
  }

  package mutating func reset() { ceiling = base }
}
