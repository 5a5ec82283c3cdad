import NIOCore
import NIOWebSocket

/// What a peer sent, once it is whole and proven to be in order.
public enum WebSocketEvent: Equatable, Sendable {
  case text(ByteBuffer)
  case binary(ByteBuffer)
  case ping(ByteBuffer)
  case pong(ByteBuffer)
  case close(CloseCode?, reason: String)
}

/// Shared by all connections that they bound.
public final class WebSocketLimits: Sendable {
  /// In bytes, 125 to 2³²−1; beyond it the connection is closed with 1009.
  package let maxMessageBytes: Int
  /// Frames of one message, empty ones included; beyond it the connection is closed with 1008.
  package let maxFragments: Int
  /// Frames of any kind, and pings among them; beyond it the connection is closed with 1008. Nil: as many as come.
  package let frames: Rate?
  package let pings: Rate?

  package init(
    maxMessageBytes: Int = 64 << 10, maxFragments: Int = 1024, frames: Rate? = nil, pings: Rate? = nil
  ) {
    self.maxMessageBytes = min(max(maxMessageBytes, 125), Int(UInt32.max))
    self.maxFragments = max(maxFragments, 1)
    self.frames = frames
    self.pings = pings
  }
}

/// Makes messages of frames and refuses what their decoder lets through (RFC 6455 sections 5.1 to 5.6, 7.4, 8.1).
///
/// It gets the frames of a `makeDecoder()`. After a violation of either it must be fed no more.
package struct MessageAssembler: Sendable {
  private let role: WebSocketRole
  let limits: WebSocketLimits
  private var begun: Begun?

  /// On the heap: mostly there is none.
  private indirect enum Begun {
    case message(Message)
  }

  private struct Message {
    let isText: Bool
    var bytes: ByteBuffer
    var fragments = 1
    var utf8 = UTF8Validator()

    var event: WebSocketEvent { isText ? .text(bytes) : .binary(bytes) }
  }

  /// - Parameter role: which end we are: a server refuses unmasked frames, a client masked ones.
  package init(role: WebSocketRole, limits: WebSocketLimits = WebSocketLimits()) {
    self.role = role
    self.limits = limits
  }

  /// A decoder of frames, with these limits.
  package func makeDecoder() -> FrameDecoder { FrameDecoder(role: role, limits: limits) }

  /// Returns nil where a message is not whole yet.
  package mutating func receive(_ frame: WebSocketFrame) throws(WebSocketViolation) -> WebSocketEvent? {
    let payload = frame.maskKey == nil ? frame.data : frame.unmaskedData
    switch frame.opcode {
    case .text: return try begin(isText: true, payload, final: frame.fin)
    case .binary: return try begin(isText: false, payload, final: frame.fin)
    case .continuation: return try goOn(payload, final: frame.fin)
    case .ping: return .ping(payload)
    case .pong: return .pong(payload)
    case .connectionClose: return try close(payload)
    default: throw WebSocketViolation(.protocolError, "unknown opcode")
    }
  }

  private mutating func begin(
    isText: Bool, _ payload: ByteBuffer, final: Bool
  ) throws(WebSocketViolation) -> WebSocketEvent? {
    guard begun == nil else { throw WebSocketViolation(.protocolError, "new message within a message") }
    var new = Message(isText: isText, bytes: payload)
    try check(&new, payload, final: final)
    if final { return new.event }
    begun = .message(new)
    return nil
  }

  private mutating func goOn(_ payload: ByteBuffer, final: Bool) throws(WebSocketViolation) -> WebSocketEvent? {
    guard case .message(var current)? = begun.take() else {
      throw WebSocketViolation(.protocolError, "stray continuation")
    }
    current.fragments += 1
    guard current.fragments <= limits.maxFragments else {
      throw WebSocketViolation(.policyViolation, "message in too many fragments")
    }
    guard current.bytes.readableBytes + payload.readableBytes <= limits.maxMessageBytes else {
      throw WebSocketViolation(.tooBig, "message too big")
    }
    try check(&current, payload, final: final)
    current.bytes.writeImmutableBuffer(payload)
    if final { return current.event }
    begun = .message(current)
    return nil
  }

  private func check(_ message: inout Message, _ payload: ByteBuffer, final: Bool) throws(WebSocketViolation) {
    guard message.bytes.readableBytes <= limits.maxMessageBytes else {
      throw WebSocketViolation(.tooBig, "message too big")
    }
    guard message.isText else { return }
    guard payload.withUnsafeReadableBytes({ message.utf8.feed($0) }), !final || message.utf8.isComplete else {
      throw WebSocketViolation(.invalidData, "text is not UTF-8")
    }
  }

  private func close(_ payload: ByteBuffer) throws(WebSocketViolation) -> WebSocketEvent {
    var payload = payload
    if payload.readableBytes == 0 { return .close(nil, reason: "") }
    guard let code = payload.readInteger(as: UInt16.self).map(CloseCode.init(rawValue:)), code.isAllowedOnWire else {
      throw WebSocketViolation(.protocolError, "close code not allowed")
    }
    var utf8 = UTF8Validator()
    guard payload.withUnsafeReadableBytes({ utf8.feed($0) }), utf8.isComplete else {
      throw WebSocketViolation(.invalidData, "close reason is not UTF-8")
    }
    return .close(code, reason: String(buffer: payload))
  }
}
