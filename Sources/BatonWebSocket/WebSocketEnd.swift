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

  private var decoder: FrameDecoder
  private var assembler: MessageAssembler
  private var closing: ClosingHandshake
  /// The answer to the last ping, while nothing can be written: earlier ones need none (RFC 6455 section 5.5.3).
  private var pendingPong: Pong?
  private indirect enum Pong {
    case payload(ByteBuffer)
  }

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
    decoder = assembler.makeDecoder()
    closing = ClosingHandshake(role: role, patience: patience)
  }

  /// Whether data may still be written.
  package var isOpen: Bool { closing.isOpen }

  /// What has arrived: ask for what is to be done about its frames until that is nil.
  package mutating func arrived(_ bytes: ByteBuffer) { if closing.isListening { decoder.feed(bytes) } }

  /// - Parameter isWritable: whether a pong would leave soon.
  /// - Returns: nil where the next frame is not whole, or is not listened to any more.
  package mutating func next(isWritable: Bool, now: NIODeadline) -> Action? {
    guard closing.isListening else { return nil }
    do throws(WebSocketViolation) {
      return try decoder.next().map { frame throws(WebSocketViolation) in
        try take(frame, isWritable: isWritable, now: now)
      }
    } catch {
      return .close(closing.violated(error, now: now), because: .violation(error))
    }
  }

  private mutating func take(
    _ frame: WebSocketFrame, isWritable: Bool, now: NIODeadline
  ) throws(WebSocketViolation) -> Action {
    awaitsPong = false
    if let violation = excess(frame, now: now) {
      takesBytes = false
      throw violation
    }
    switch try assembler.receive(frame) {
    case nil: return .nothing
    case .close(let code, let reason)?:
      return .close(closing.peerClosed(code, now: now), because: .peer(code, reason: reason))
    case .ping(let payload)?:
      guard closing.isOpen else { return .nothing }
      if isWritable { return .pong(payload) }
      pendingPong = .payload(payload)
      return .nothing
    case .text(let bytes)?: return .deliver(.text(bytes))
    case .binary(let bytes)?: return .deliver(.binary(bytes))
    case .pong(let payload)?: return .deliver(.pong(payload))
    }
  }

  private mutating func excess(_ frame: WebSocketFrame, now: NIODeadline) -> WebSocketViolation? {
    if let rate = assembler.limits.frames, !frames.take(rate, now: now) { return .tooManyFrames }
    if frame.opcode == .ping, let rate = assembler.limits.pings, !pings.take(rate, now: now) { return .tooManyPings }
    return nil
  }

  package mutating func becameWritable() -> Action {
    guard closing.isOpen, case .payload(let payload)? = pendingPong.take() else { return .nothing }
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
