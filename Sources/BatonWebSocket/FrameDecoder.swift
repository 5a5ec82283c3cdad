import NIOCore
import NIOWebSocket

/// Cuts bytes into frames (RFC 6455 section 5.2). What its head already tells to be wrong is refused before the payload
/// has come.
package struct FrameDecoder: Sendable {

  private struct Head {
    var first: UInt8
    var length: Int
    var mask: WebSocketMaskingKey?

    var isFinal: Bool { first & 0x80 != 0 }
    var isControl: Bool { first & 0x08 != 0 }
    var opcode: UInt8 { first & 0x0F }
  }

  private let role: WebSocketRole
  private let limits: WebSocketLimits
  private var rest: Rest?

  /// What has come of frames that were not asked for; on the heap: mostly there is none.
  private indirect enum Rest {
    case bytes(ByteBuffer, behind: Head?)
  }

  init(role: WebSocketRole, limits: WebSocketLimits) {
    self.role = role
    self.limits = limits
  }

  /// What has arrived: ask for its frames until there is no more.
  package mutating func feed(_ bytes: ByteBuffer) {
    guard case .bytes(var known, let head)? = rest.take() else {
      rest = .bytes(bytes, behind: nil)
      return
    }
    known.discardReadBytes()
    known.writeImmutableBuffer(bytes)
    rest = .bytes(known, behind: head)
  }

  /// Nil where the next frame is not whole.
  ///
  /// - Throws: `WebSocketViolation`; it is to be fed and asked no more.
  package mutating func next() throws(WebSocketViolation) -> WebSocketFrame? {
    guard case .bytes(var bytes, var head)? = rest.take() else { return nil }
    if head == nil { head = try readHead(&bytes) }
    guard let head, let payload = bytes.readSlice(length: head.length) else {
      rest = .bytes(bytes, behind: head)
      return nil
    }
    if bytes.readableBytes > 0 { rest = .bytes(bytes, behind: nil) }
    return WebSocketFrame(
      fin: head.isFinal, opcode: WebSocketOpcode(encodedWebSocketOpcode: head.opcode) ?? .continuation,
      maskKey: head.mask, data: payload)
  }

  private func readHead(_ buffer: inout ByteBuffer) throws(WebSocketViolation) -> Head? {
    guard let start = buffer.getInteger(at: buffer.readerIndex, as: UInt16.self) else { return nil }
    let (first, second) = (UInt8(start >> 8), UInt8(start & 0xFF))
    var head = Head(first: first, length: Int(second & 0x7F))
    try check(head, isMasked: second & 0x80 != 0)
    var size = 2
    switch head.length {
    case 126:
      guard let length = buffer.getInteger(at: buffer.readerIndex + size, as: UInt16.self) else { return nil }
      guard length > 125 else { throw WebSocketViolation(.protocolError, "length not minimal") }
      head.length = Int(length)
      size += 2
    case 127:
      guard let length = buffer.getInteger(at: buffer.readerIndex + size, as: UInt64.self) else { return nil }
      guard length > UInt16.max, length <= Int64.max else {
        throw WebSocketViolation(.protocolError, length > UInt16.max ? "length over 63 bits" : "length not minimal")
      }
      head.length = Int(length)
      size += 8
    default: break
    }
    guard head.length <= limits.maxMessageBytes else { throw WebSocketViolation(.tooBig, "message too big") }
    if second & 0x80 != 0 {
      guard let mask = buffer.getBytes(at: buffer.readerIndex + size, length: 4) else { return nil }
      head.mask = WebSocketMaskingKey(mask)
      size += 4
    }
    buffer.moveReaderIndex(forwardBy: size)
    return head
  }

  private func check(_ head: Head, isMasked: Bool) throws(WebSocketViolation) {
    guard head.first & 0x70 == 0 else { throw WebSocketViolation(.protocolError, "reserved bit set") }
    guard [0, 1, 2, 8, 9, 10].contains(head.opcode) else { throw WebSocketViolation(.protocolError, "unknown opcode") }
    guard isMasked == (role == .server) else {
      throw WebSocketViolation(.protocolError, role == .server ? "unmasked frame" : "masked frame")
    }
    guard head.isControl else { return }
    guard head.isFinal else { throw WebSocketViolation(.protocolError, "fragmented control frame") }
    guard head.length <= 125 else { throw WebSocketViolation(.protocolError, "control frame over 125 bytes") }
  }
}
