import Foundation
import NIOCore

/// systemd, where it has asked to be told how the process is (sd_notify(3), sd_watchdog_enabled(3)).
package struct ServiceManager: Sendable {
  private let address: String
  /// How often it wants a sign of life, halved as sd_watchdog_enabled(3) advises; nil where it wants none.
  private let watchdog: TimeAmount?

  package init?(environment: [String: String], process: Int32 = getpid()) {
    guard let address = environment["NOTIFY_SOCKET"], address.hasPrefix("/") || address.hasPrefix("@") else {
      return nil
    }
    self.address = address
    let isOurs = environment["WATCHDOG_PID"].map { Int32($0) == process } ?? true
    watchdog = environment["WATCHDOG_USEC"].flatMap { Int64($0) }.flatMap {
      $0 > 0 && isOurs ? .microseconds($0 / 2) : nil
    }
  }

  func isReady(_ listening: String) { tell("READY=1\nSTATUS=\(listening)") }
  func isStopping() { tell("STOPPING=1\nSTATUS=draining") }

  /// Tells that the process lives for as long as every event loop answers; returns when cancelled.
  func watch(_ group: any EventLoopGroup) async {
    guard let watchdog else { return }
    while !Task.isCancelled {
      for loop in group.makeIterator() { try? await loop.submit {}.get() }
      tell("WATCHDOG=1")
      try? await Task.sleep(for: .nanoseconds(watchdog.nanoseconds))
    }
  }

  /// Never waits: a message that has no room is lost.
  private func tell(_ message: String) { UnixSocket.send(message, to: address) }
}
