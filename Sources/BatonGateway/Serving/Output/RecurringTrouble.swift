import Logging
import NIOConcurrencyHelpers
import NIOCore

/// When to speak of a trouble that comes again and again: at once, then with a growing pause, and once when it is over.
package struct RecurringTrouble: Sendable {
  package static let firstPause = TimeAmount.seconds(5)
  package static let longestPause = TimeAmount.minutes(10)

  private var pause = firstPause
  private var due = NIODeadline.uptimeNanoseconds(0)
  private var last: NIODeadline?
  private var count = 0
  private var isTold = false

  package init() {}

  /// - Returns: nil to stay silent, else how often it has occurred since it was spoken of, this time included.
  package mutating func occurred(at now: NIODeadline) -> Int? {
    // After a long rest it is another trouble.
    if let last, now - last > max(pause + pause, .seconds(60)) { self = RecurringTrouble() }
    last = now
    count += 1
    guard now >= due else { return nil }
    due = now + pause
    pause = min(pause + pause, Self.longestPause)
    isTold = true
    defer { count = 0 }
    return count
  }

  /// It may come again: the pause stays.
  /// - Returns: whether to say so.
  package mutating func ended() -> Bool {
    defer { isTold = false }
    return isTold
  }
}

/// A logger of troubles, each by a name of ours: what a peer can choose must not be a part of it.
package final class TroubleLog: Sendable {
  private let logger: Logger
  private let troubles = NIOLockedValueBox<[String: RecurringTrouble]>([:])

  package init(_ logger: Logger) { self.logger = logger }

  package func occurred(
    _ name: String, _ level: Logger.Level, _ message: @autoclosure () -> Logger.Message, metadata: Logger.Metadata
  ) {
    guard let times = troubles.withLockedValue({ $0[name, default: RecurringTrouble()].occurred(at: .now()) }) else {
      return
    }
    var metadata = metadata
    if times > 1 { metadata["times"] = "\(times)" }
    logger.log(level: level, message(), metadata: metadata)
  }

  package func ended(_ name: String, _ message: @autoclosure () -> Logger.Message) {
    if troubles.withLockedValue({ $0[name]?.ended() }) == true { logger.info(message()) }
  }
}
