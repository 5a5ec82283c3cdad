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
  private var attempt = 0
  /// Drawn anew by each restart: an attempt under another number is void.
  package private(set) var attemptNumber = 0
  private var lastError: RedisError?
  private var lastLeave: NIODeadline?
  private var patience = Self.firstPatience

  private static let firstPatience = TimeAmount.seconds(1)
  private static let longestPatience = TimeAmount.seconds(30)

  package init(backoff: RedisBackoff = RedisBackoff()) { self.backoff = backoff }

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
  package mutating func failed(
    _ error: RedisError, now: NIODeadline, random: Double
  ) -> (RedisLink.Failure, Action)? {
    switch phase {
    case .up(let since):
      if now - since >= backoff.maximum {
        backoff.reset()
        (attempt, lastError) = (0, nil)
      }
    case .connecting, .settingUp: break
    case .idle, .waiting, .stopped: return nil
    }
    phase = .waiting
    attempt += 1
    let failure = RedisLink.Failure(error: error, attempt: attempt, isRepeated: error == lastError)
    lastError = error
    return (failure, .retry(after: backoff.next(random: random)))
  }

  /// Whether the connection may be left for another one now. Each time that it is, the next one is kept for longer.
  package mutating func leaveRequested(now: NIODeadline) -> Bool {
    guard case .up = phase else { return false }
    if let lastLeave {
      if now - lastLeave < patience { return false }
      let isOver = now - lastLeave >= Self.longestPatience * 2
      patience = isOver ? Self.firstPatience : min(patience * 2, Self.longestPatience)
    }
    lastLeave = now
    return true
  }

  /// The server is elsewhere: what was, counts no longer.
  package mutating func restartRequested() -> Action {
    switch phase {
    case .idle, .stopped: return .none
    case .connecting, .settingUp, .up, .waiting: break
    }
    backoff.reset()
    (attempt, lastError, phase) = (0, nil, .connecting)
    attemptNumber += 1
    return .connect
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
