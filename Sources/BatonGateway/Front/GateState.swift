import NIOCore

/// What a connection carries, and what is to be done with it, told in events. It knows no socket.
///
/// A connection begins with control requests, which Hummingbird answers one after the other, and may become a device's
/// with the first request that attaches.
struct GateState {
  enum Kind: Equatable {
    case control
    /// Attaches, and waits for the answers before it.
    case device
    /// Answered by the gate itself, once the answers before it are written.
    case refused
  }

  enum Action: Equatable {
    case nothing
    /// On to Hummingbird.
    case pass
    /// Ask the front door.
    case decide
    /// Write the refusal of the last head, then `answered`.
    case refuse
    case refuseMalformed
    /// The last answer is written: end the output, drop what still comes until the peer ends its side (RFC 9112 section
    /// 9.6). Closing both sides at once could destroy the answer on its way.
    case linger
    case close
  }

  private enum Phase: Equatable {
    case passing
    case waiting(Action)
    /// The front door was asked.
    case deciding
    case device
    case lingering
  }

  private var phase = Phase.passing
  /// Control requests that are not answered.
  private var outstanding = 0
  /// The end of the newest control request is not here.
  private var isReading = false
  private var expectsContinue = false
  private var closesAfterAnswer = false
  /// Reads since the front door was asked, and the one that brought the request.
  private var reads = 0
  private var hasHeard = false
  private var since: NIODeadline

  /// How long the peer may go on sending after the last answer.
  static let patience = TimeAmount.seconds(5)

  init(now: NIODeadline) { since = now }

  // MARK: Requests

  /// - Parameter isLast: nothing can follow it on this connection.
  mutating func headArrived(_ kind: Kind, isLast: Bool, expectsContinue: Bool, now: NIODeadline) -> Action {
    guard phase == .passing, !closesAfterAnswer else { return .nothing }
    hasHeard = true
    since = now
    switch kind {
    case .control:
      outstanding += 1
      isReading = true
      self.expectsContinue = expectsContinue
      closesAfterAnswer = isLast
      return .pass
    case .device:
      isReading = true
      phase = .waiting(.decide)
      return .nothing
    case .refused: return wait(for: .refuse)
    }
  }

  mutating func bodyArrived() -> Action {
    expectsContinue = false
    return phase == .passing ? .pass : .nothing
  }

  mutating func endArrived() -> Action {
    expectsContinue = false
    switch phase {
    case .passing where isReading:
      isReading = false
      return .pass
    case .waiting(.decide):
      isReading = false
      reads = -1
      return wait(for: .decide)
    default: return .nothing
    }
  }

  private mutating func wait(for action: Action) -> Action {
    guard outstanding == 0 else {
      phase = .waiting(action)
      return .nothing
    }
    phase = action == .decide ? .deciding : .lingering
    return action
  }

  /// Whoever answers wants the body: true where the client waits for 100 Continue (RFC 9110 section 10.1.1).
  mutating func bodyWanted() -> Bool {
    defer { expectsContinue = false }
    return expectsContinue && outstanding == 1 && isReading
  }

  /// What arrived is no HTTP.
  mutating func parserFailed() -> Action {
    guard phase == .passing, !closesAfterAnswer || isReading else { return .nothing }
    closesAfterAnswer = true
    if isReading { return .pass }
    return wait(for: .refuseMalformed)
  }

  // MARK: Answers

  /// - Returns: whether the answer has to say that the connection ends with it.
  mutating func answerStarted(isDraining: Bool) -> Bool {
    // What is still on its way of a request that is answered would be taken for the next one.
    if isDraining || outstanding == 1 && isReading && phase == .passing { closesAfterAnswer = true }
    return closesAfterAnswer && outstanding == 1
  }

  mutating func answerEnded(now: NIODeadline) -> Action {
    outstanding = max(0, outstanding - 1)
    since = now
    guard outstanding == 0 else { return .nothing }
    switch phase {
    case .waiting(.decide) where isReading: return .nothing
    case .waiting(let action):
      reads = 0
      return wait(for: action)
    case .passing where closesAfterAnswer:
      phase = .lingering
      return .linger
    default: return .nothing
    }
  }

  /// What the front door says.
  mutating func decided(isAdmitted: Bool, now: NIODeadline) {
    phase = isAdmitted ? .device : .lingering
    since = now
  }

  // MARK: The connection

  mutating func quiesced() -> Action {
    guard phase == .passing else { return .nothing }
    closesAfterAnswer = true
    return outstanding == 0 ? .close : .nothing
  }

  mutating func inputClosed() -> Action {
    switch phase {
    case .lingering: .close
    case .passing where outstanding == 0: .close
    case .waiting where outstanding == 0: .close
    default: .pass
    }
  }

  /// Whether bytes are asked for: not while they could belong to a device, but once while the front door decides, since mostly
  /// none come and asking no more and asking again costs two calls of the system.
  var takesBytes: Bool {
    switch phase {
    case .deciding: reads < 1
    case .waiting(.decide): isReading
    default: true
    }
  }

  /// What has arrived was taken in.
  mutating func readCompleted() { if phase == .deciding { reads += 1 } }
  var isDevice: Bool { phase == .device }
  var isLingering: Bool { phase == .lingering }

  /// Whether somebody waits for an answer, or for the end of one.
  var isBusy: Bool { outstanding > 0 || phase != .passing && phase != .device }

  /// When the connection is closed if nothing happens.
  func deadline(_ limits: HTTPLimits) -> NIODeadline? {
    switch phase {
    case .lingering: since + GateState.patience
    case .passing where outstanding == 0: since + (hasHeard ? limits.idleTimeout : limits.headerTimeout)
    case .waiting(.decide) where outstanding == 0 && isReading: since + limits.headerTimeout
    default: nil
    }
  }
}
