import NIOCore
import NIOWebSocket

/// What a frame carries (RFC 6455 section 5.2).
package enum Opcode: UInt8, Sendable {
  case continuation = 0x0
  case text = 0x1
  case binary = 0x2
  case close = 0x8
  case ping = 0x9
  case pong = 0xA
}

public enum WebSocketRole: Sendable {
  case server
  case client
}

extension ByteBuffer {
  /// Appends one whole frame. Several calls on one buffer make one write.
  ///
  /// - Parameters:
  ///   - mask: nil in frames of a server; 32 unpredictable bits in those of a client (RFC 6455 section 5.3).
  ///   - final: false where continuations follow.
  package mutating func writeWebSocketFrame(
    _ opcode: Opcode, payload: ByteBuffer, mask: UInt32? = nil, final: Bool = true
  ) {
    reserveCapacity(minimumWritableBytes: 14 + payload.readableBytes)
    writeWebSocketHeader(opcode, length: payload.readableBytes, mask: mask, final: final)
    let start = writerIndex
    writeImmutableBuffer(payload)
    if let mask { self.mask(from: start, with: mask) }
  }

  /// Appends one whole unmasked text frame whose payload is what `body` appends, without a second buffer:
  /// room for the shortest header is left, and only a payload of more than 125 bytes is moved (by 2 or 8 bytes).
  package mutating func writeWebSocketText(_ body: (inout ByteBuffer) throws -> Void) rethrows {
    let frame = writerIndex
    writeRepeatingByte(0, count: 2)
    let payload = writerIndex
    do {
      try body(&self)
    } catch {
      moveWriterIndex(to: frame)
      throw error
    }
    let length = writerIndex - payload
    let header = length <= 125 ? 2 : length <= 0xFFFF ? 4 : 10
    if header > 2 {
      writeRepeatingByte(0, count: header - 2)
      moveReadable(from: payload, to: frame + header, length: length)
    }
    let end = writerIndex
    moveWriterIndex(to: frame)
    writeWebSocketHeader(.text, length: length, mask: nil, final: true)
    moveWriterIndex(to: end)
  }

  /// Appends a close frame. A reason beyond 123 bytes of UTF-8 is cut before the character that does not fit;
  /// without a code the frame is empty.
  package mutating func writeWebSocketClose(_ code: CloseCode?, reason: String = "", mask: UInt32? = nil) {
    var payload = ByteBuffer()
    if let code {
      payload.writeInteger(code.rawValue)
      payload.writeSubstring(reason.utf8Prefix(123))
    }
    writeWebSocketFrame(.close, payload: payload, mask: mask)
  }

  private mutating func writeWebSocketHeader(_ opcode: Opcode, length: Int, mask: UInt32?, final: Bool) {
    writeInteger(opcode.rawValue | (final ? 0x80 : 0))
    let masked: UInt8 = mask == nil ? 0 : 0x80
    switch length {
    case ...125:
      writeInteger(UInt8(length) | masked)
    case ...0xFFFF:
      writeMultipleIntegers(126 | masked, UInt16(length))
    default:
      writeMultipleIntegers(127 | masked, UInt64(length))
    }
    if let mask { writeInteger(mask) }
  }

  private mutating func mask(from start: Int, with mask: UInt32) {
    let key = [UInt8](unsafeUninitializedCapacity: 4) { bytes, count in
      for i in 0..<4 { bytes[i] = UInt8(truncatingIfNeeded: mask >> (24 - 8 * UInt32(i))) }
      count = 4
    }
    let offset = start - readerIndex
    withUnsafeMutableReadableBytes { bytes in
      for i in offset..<bytes.count { bytes[i] ^= key[(i - offset) & 3] }
    }
  }

  private mutating func moveReadable(from: Int, to: Int, length: Int) {
    let base = readerIndex
    withUnsafeMutableReadableBytes { bytes in
      guard let start = bytes.baseAddress else { return }
      (start + (to - base)).copyMemory(from: start + (from - base), byteCount: length)
    }
  }
}

/// Writes the frames of one end of a connection.
package struct FrameEncoder<Random: RandomNumberGenerator> {
  package let role: WebSocketRole
  private var random: Random

  /// - Parameter random: where a client's masks come from; it must be unpredictable outside tests
  ///   (RFC 6455 section 10.3). A server draws nothing.
  package init(role: WebSocketRole, random: Random) {
    self.role = role
    self.random = random
  }

  package mutating func write(
    _ opcode: Opcode, _ payload: ByteBuffer, final: Bool = true, into buffer: inout ByteBuffer
  ) {
    buffer.writeWebSocketFrame(opcode, payload: payload, mask: nextMask(), final: final)
  }

  package mutating func writeClose(_ code: CloseCode?, reason: String = "", into buffer: inout ByteBuffer) {
    buffer.writeWebSocketClose(code, reason: reason, mask: nextMask())
  }

  private mutating func nextMask() -> UInt32? {
    role == .client ? .random(in: .min ... .max, using: &random) : nil
  }
}

extension FrameEncoder where Random == SystemRandomNumberGenerator {
  package init(role: WebSocketRole) { self.init(role: role, random: SystemRandomNumberGenerator()) }
}

extension FrameEncoder: Sendable where Random: Sendable {}

extension String {
  /// The longest prefix of whole characters (Unicode scalars) in at most `limit` bytes of UTF-8.
  fileprivate func utf8Prefix(_ limit: Int) -> Substring {
    var end = utf8.index(startIndex, offsetBy: limit, limitedBy: endIndex) ?? endIndex
    while end < endIndex, UTF8.isContinuation(utf8[end]) { end = utf8.index(before: end) }
    return self[..<end]
  }
}

/// What stands in front of the payload of a whole unmasked text frame (RFC 6455 section 5.2).
package enum WebSocketTextHeader {
  /// Bytes of it, by those of the payload.
  package static func length(for payload: Int) -> Int { payload <= 125 ? 2 : payload <= 0xFFFF ? 4 : 10 }

  /// - Parameter memory: of that length.
  package static func write(for payload: Int, to memory: UnsafeMutableRawBufferPointer) {
    guard let start = memory.baseAddress, memory.count == length(for: payload) else { return }
    start.storeBytes(of: 0x80 | Opcode.text.rawValue, as: UInt8.self)
    switch memory.count {
    case 2: start.storeBytes(of: UInt8(truncatingIfNeeded: payload), toByteOffset: 1, as: UInt8.self)
    case 4:
      start.storeBytes(of: 126, toByteOffset: 1, as: UInt8.self)
      start.storeBytes(of: UInt16(truncatingIfNeeded: payload).bigEndian, toByteOffset: 2, as: UInt16.self)
    default:
      start.storeBytes(of: 127, toByteOffset: 1, as: UInt8.self)
      start.storeBytes(of: UInt64(payload).bigEndian, toByteOffset: 2, as: UInt64.self)
    }
  }
}
