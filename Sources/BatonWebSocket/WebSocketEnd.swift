import NIOCore
import NIOWebSocket

/// One end of an open WebSocket (RFC 6455 sections 5 to 7): makes messages of frames, and decides about pings and about
/// closing. It knows no socket and no clock; every handler drives this value, so what the conformance suite judges is
/// what ships.
package struct WebSocketEnd: Sendable {
  package enum Action: Equatable, Sendable {
    case nothing
    case deliver(WebSocketEvent)
    /// Answer a ping with this payload.
    case pong(ByteBuffer)
    case ping
    /// The last ping had no answer, nor did anything else arrive.
    case unanswered
    /// Told to whoever uses the connection first, then done.
    case close(ClosingHandshake.Action, because: Cause)
  }

  package enum Cause: Equatable, Sendable {
    case ourselves
    case peer(CloseCode?, reason: String)
    case violation(WebSocketViolation)
  }

  private var assembler: MessageAssembler
  private var closing: ClosingHandshake
  /// The answer to the last ping, while nothing can be written: earlier ones need none (RFC 6455 section 5.5.3).
  private var pendingPong: ByteBuffer?
  private var awaitsPong = false
  private var frames = RateMeter()
  private var pings = RateMeter()
  /// False: what still comes is a flood, and left to the network.
  package private(set) var takesBytes = true

  /// - Parameters:
  ///   - role: which end we are.
  ///   - patience: how long the peer may take to answer a close frame or to end TCP.
  package init(role: WebSocketRole, limits: WebSocketLimits = WebSocketLimits(), patience: TimeAmount = .seconds(5)) {
    assembler = MessageAssembler(role: role, limits: limits)
    closing = ClosingHandshake(role: role, patience: patience)
  }

  /// Whether data may still be written.
  package var isOpen: Bool { closing.isOpen }

  /// A decoder of frames, with the limits of this end.
  package func makeDecoder() -> ByteToMessageHandler<FrameDecoder> { assembler.makeDecoder() }

  /// - Parameter isWritable: whether a pong would leave soon.
  package mutating func frameArrived(_ frame: WebSocketFrame, isWritable: Bool, now: NIODeadline) -> Action {
    guard closing.isListening else { return .nothing }
    awaitsPong = false
    if let violation = excess(frame, now: now) {
      takesBytes = false
      return violated(violation, now: now)
    }
    let event: WebSocketEvent?
    do throws(WebSocketViolation) {
      event = try assembler.receive(frame)
    } catch {
      return violated(error, now: now)
    }
    switch event {
    case nil: return .nothing
    case .close(let code, let reason):
      return .close(closing.peerClosed(code, now: now), because: .peer(code, reason: reason))
    case .ping(let payload):
      guard closing.isOpen else { return .nothing }
      if isWritable { return .pong(payload) }
      pendingPong = payload
      return .nothing
    case .text(let bytes): return .deliver(.text(bytes))
    case .binary(let bytes): return .deliver(.binary(bytes))
    case .pong(let payload): return .deliver(.pong(payload))
    }
  }

  private mutating func excess(_ frame: WebSocketFrame, now: NIODeadline) -> WebSocketViolation? {
    if let rate = assembler.limits.frames, !frames.take(rate, now: now) { return .tooManyFrames }
    if frame.opcode == .ping, let rate = assembler.limits.pings, !pings.take(rate, now: now) { return .tooManyPings }
    return nil
  }

  /// An error of the pipeline. Nil: not about the protocol, and the connection is still listened to.
  package mutating func errorCaught(_ error: any Error, now: NIODeadline) -> Action? {
    // The decoder reports every byte that comes after the violation.
    guard closing.isListening else { return .nothing }
    return (error as? WebSocketViolation).map { violated($0, now: now) }
  }

  private mutating func violated(_ violation: WebSocketViolation, now: NIODeadline) -> Action {
    .close(closing.violated(violation, now: now), because: .violation(violation))
  }

  package mutating func becameWritable() -> Action {
    guard closing.isOpen, let payload = pendingPong.take() else { return .nothing }
    return .pong(payload)
  }

  /// It is time to ask whether the peer is there.
  package mutating func pingDue() -> Action {
    guard closing.isOpen else { return .nothing }
    if awaitsPong { return .unanswered }
    awaitsPong = true
    return .ping
  }

  package mutating func close(_ code: CloseCode, reason: String, now: NIODeadline) -> Action {
    .close(closing.close(code, reason: reason, now: now), because: .ourselves)
  }

  /// The deadline of an earlier close is over.
  package mutating func deadlinePassed() -> Action { .close(closing.deadlinePassed(), because: .ourselves) }

  package mutating func transportClosed() { closing.transportClosed() }
}
