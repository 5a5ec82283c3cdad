import NIOCore

/// When a link connects, prepares, reports and tries again.
package struct RedisLinkState {
  package enum Action: Equatable {
    case none
    case connect
    case setUp
    case up
    case retry(after: TimeAmount)
    /// Close what is open.
    case close
  }

  private enum Phase {
    case idle, connecting, settingUp
    case up(since: NIODeadline)
    case waiting, stopped
  }

  private var phase = Phase.idle
  private var backoff: RedisBackoff

  package init(backoff: RedisBackoff = RedisBackoff()) { self.backoff = backoff }

  package var isStopped: Bool { if case .stopped = phase { true } else { false } }

  package mutating func started() -> Action {
    guard case .idle = phase else { return .none }
    phase = .connecting
    return .connect
  }

  package mutating func connected() -> Action {
    guard case .connecting = phase else { return .close }
    phase = .settingUp
    return .setUp
  }

  package mutating func setUpSucceeded(now: NIODeadline) -> Action {
    guard case .settingUp = phase else { return .none }
    phase = .up(since: now)
    return .up
  }

  /// An attempt failed, or the connection was lost. A link that was up for the longest delay starts over with short ones.
  package mutating func failed(now: NIODeadline, random: Double) -> Action {
    switch phase {
    case .up(let since): if now - since >= backoff.maximum { backoff.reset() }
    case .connecting, .settingUp: break
    case .idle, .waiting, .stopped: return .none
    }
    phase = .waiting
    return .retry(after: backoff.next(random: random))
  }

  package mutating func delayPassed() -> Action {
    guard case .waiting = phase else { return .none }
    phase = .connecting
    return .connect
  }

  package mutating func stopRequested() -> Action {
    phase = .stopped
    return .close
  }
}
