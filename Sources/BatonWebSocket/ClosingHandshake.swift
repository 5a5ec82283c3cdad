import NIOCore

/// The end of a connection (RFC 6455 section 7): each end sends one close frame, then TCP is closed, by the server first.
/// It knows no clock and no socket; what it returns is to be done.
package struct ClosingHandshake: Sendable {
  package enum Action: Equatable, Sendable {
    case nothing
    /// Write this close frame (nothing else after it), do what follows once it is written, and call `deadlinePassed`
    /// at the deadline, written or not.
    case send(CloseCode?, reason: String, then: After, deadline: NIODeadline)
    case closeTransport
  }

  package enum After: Equatable, Sendable {
    /// The peer has sent its close frame: close TCP.
    case closeTransport
    /// Go on reading for the peer's close frame.
    case awaitPeer
    /// The peer is not to be listened to any more: close the output side and drop what still comes until it ends TCP.
    /// Closing both sides at once could destroy the close frame on its way.
    case endOutput
  }

  private enum State {
    case open
    case awaitingPeer
    case awaitingEnd
    case closed
  }

  private let role: WebSocketRole
  private let patience: TimeAmount
  private var state = State.open

  /// - Parameter patience: how long the peer may take to answer a close frame or to end TCP.
  package init(role: WebSocketRole, patience: TimeAmount = .seconds(5)) {
    self.role = role
    self.patience = patience
  }

  /// Whether data, pings and pongs may still be written.
  package var isOpen: Bool { if case .open = state { true } else { false } }

  /// Whether what arrives still means something: false after a violation and after the peer's close frame.
  package var isListening: Bool {
    switch state {
    case .open, .awaitingPeer: true
    case .awaitingEnd, .closed: false
    }
  }

  /// We want to close.
  package mutating func close(_ code: CloseCode, reason: String = "", now: NIODeadline) -> Action {
    guard case .open = state else { return .nothing }
    state = .awaitingPeer
    return .send(code, reason: reason, then: .awaitPeer, deadline: now + patience)
  }

  /// The peer's close frame arrived: its code is echoed once, unless ours was first.
  package mutating func peerClosed(_ code: CloseCode?, now: NIODeadline) -> Action {
    switch (state, role) {
    case (.open, .server):
      state = .awaitingEnd
      return .send(code, reason: "", then: .closeTransport, deadline: now + patience)
    case (.open, .client):
      state = .awaitingEnd
      return .send(code, reason: "", then: .endOutput, deadline: now + patience)
    case (.awaitingPeer, .server):
      state = .closed
      return .closeTransport
    case (.awaitingPeer, .client):
      state = .awaitingEnd
      return .nothing
    case (.awaitingEnd, _), (.closed, _):
      return .nothing
    }
  }

  /// The peer broke the protocol, or a limit.
  package mutating func violated(_ violation: WebSocketViolation, now: NIODeadline) -> Action {
    switch state {
    case .open:
      state = .awaitingEnd
      return .send(violation.code, reason: violation.reason, then: .endOutput, deadline: now + patience)
    case .awaitingPeer:
      state = .closed
      return .closeTransport
    case .awaitingEnd, .closed:
      return .nothing
    }
  }

  /// The deadline of an earlier answer is over.
  package mutating func deadlinePassed() -> Action {
    switch state {
    case .awaitingPeer, .awaitingEnd:
      state = .closed
      return .closeTransport
    case .open, .closed:
      return .nothing
    }
  }

  /// TCP is closed.
  package mutating func transportClosed() { state = .closed }
}
