import Foundation
import NIOCore

/// Tells when a device's token is about to expire, and when it has. Lives on the device's event loop.
final class ExpiryWatch {
  static let notice = TimeAmount.seconds(30)

  private var tasks: [Scheduled<Void>] = []

  /// - Parameters:
  ///   - expires: seconds since 1970.
  ///   - isRenewed: it is likely to be followed by another end: there is a pause between the two, however near they are.
  ///   - soon: called with the milliseconds that are left.
  func start(
    _ expires: Double, isRenewed: Bool = false, on eventLoop: any EventLoop, soon: @escaping (Int) -> Void,
    over: @escaping () -> Void
  ) {
    cancel()
    let left = ExpiryWatch.left(expires)
    let earliest: TimeAmount = isRenewed ? .nanoseconds(max(1_000_000_000, left.nanoseconds / 2)) : .zero
    let warning = max(earliest, left - ExpiryWatch.notice)
    let remaining = Int(max(.zero, left - warning).nanoseconds / 1_000_000)
    let eventLoop = eventLoop.assumeIsolated()
    tasks = [
      eventLoop.scheduleTask(in: warning) { soon(remaining) }, eventLoop.scheduleTask(in: left) { over() },
    ]
  }

  func cancel() {
    for task in tasks { task.cancel() }
    tasks = []
  }

  /// Until then by the wall clock, a year at the most.
  static func left(_ expires: Double) -> TimeAmount {
    let seconds = min(max(expires - Date().timeIntervalSince1970, 0), 365 * 86_400)
    return .milliseconds(Int64(seconds * 1000))
  }
}
