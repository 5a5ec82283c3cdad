import NIOCore

/// Writes JSON text into a ByteBuffer: just what the frames need (RFC 8259).
package struct JSONWriter {
  package var buffer: ByteBuffer
  private var needsComma = false

  package init(into buffer: ByteBuffer) {
    self.buffer = buffer
  }

  package mutating func object(_ members: (inout JSONWriter) -> Void) {
    open("{")
    members(&self)
    close("}")
  }

  package mutating func array(_ elements: (inout JSONWriter) -> Void) {
    open("[")
    elements(&self)
    close("]")
  }

  /// The name of the member that the next value belongs to.
  package mutating func name(_ name: String) {
    comma()
    quoted(name)
    buffer.writeStaticString(":")
    needsComma = false
  }

  package mutating func value(_ text: String) {
    comma()
    quoted(text)
    needsComma = true
  }

  package mutating func value(utf8 bytes: ByteBuffer) {
    comma()
    buffer.writeStaticString("\"")
    bytes.withUnsafeReadableBytes { escape($0) }
    buffer.writeStaticString("\"")
    needsComma = true
  }

  /// One string out of several pieces of UTF-8.
  package mutating func joinedValue(_ pieces: ((ByteBuffer) -> Void) -> Void) {
    comma()
    buffer.writeStaticString("\"")
    pieces { piece in piece.withUnsafeReadableBytes { escape($0) } }
    buffer.writeStaticString("\"")
    needsComma = true
  }

  package mutating func value(base64 bytes: ByteBuffer) {
    comma()
    buffer.writeStaticString("\"")
    buffer.writeBase64(bytes)
    buffer.writeStaticString("\"")
    needsComma = true
  }

  package mutating func value(_ number: some FixedWidthInteger) {
    comma()
    buffer.writeString(String(number))
    needsComma = true
  }

  package mutating func null() {
    comma()
    buffer.writeStaticString("null")
    needsComma = true
  }

  package mutating func value(_ flag: Bool) {
    comma()
    buffer.writeStaticString(flag ? "true" : "false")
    needsComma = true
  }

  package mutating func member(_ name: String, _ text: String) {
    self.name(name)
    value(text)
  }

  package mutating func member(_ name: String, _ text: String?) {
    self.name(name)
    if let text { value(text) } else { null() }
  }

  package mutating func member(_ name: String, _ number: some FixedWidthInteger) {
    self.name(name)
    value(number)
  }

  private mutating func open(_ bracket: StaticString) {
    comma()
    buffer.writeStaticString(bracket)
    needsComma = false
  }

  private mutating func close(_ bracket: StaticString) {
    buffer.writeStaticString(bracket)
    needsComma = true
  }

  private mutating func comma() {
    if needsComma { buffer.writeStaticString(",") }
  }

  private mutating func quoted(_ text: String) {
    buffer.writeStaticString("\"")
    var text = text
    text.withUTF8 { escape(UnsafeRawBufferPointer($0)) }
    buffer.writeStaticString("\"")
  }

  private mutating func escape(_ bytes: UnsafeRawBufferPointer) {
    var start = 0
    for (index, byte) in bytes.enumerated()
    where byte < 0x20 || byte == UInt8(ascii: "\"") || byte == UInt8(ascii: "\\") {
      buffer.writeBytes(UnsafeRawBufferPointer(rebasing: bytes[start..<index]))
      start = index + 1
      switch byte {
      case UInt8(ascii: "\""): buffer.writeStaticString("\\\"")
      case UInt8(ascii: "\\"): buffer.writeStaticString("\\\\")
      case UInt8(ascii: "\n"): buffer.writeStaticString("\\n")
      case UInt8(ascii: "\r"): buffer.writeStaticString("\\r")
      case UInt8(ascii: "\t"): buffer.writeStaticString("\\t")
      default:
        buffer.writeStaticString("\\u00")
        buffer.writeInteger(JSONWriter.hex[Int(byte >> 4)])
        buffer.writeInteger(JSONWriter.hex[Int(byte & 15)])
      }
    }
    buffer.writeBytes(UnsafeRawBufferPointer(rebasing: bytes[start...]))
  }

  private static let hex = Array("0123456789abcdef".utf8)
}

extension ByteBuffer {
  /// RFC 4648 section 4, padded.
  package mutating func writeBase64(_ bytes: ByteBuffer) {
    let alphabet = ByteBuffer.base64Alphabet
    bytes.withUnsafeReadableBytes { raw in
      var index = 0
      while index < raw.count {
        let left = raw.count - index
        let word =
          UInt32(raw[index]) << 16 | (left > 1 ? UInt32(raw[index + 1]) << 8 : 0)
          | (left > 2 ? UInt32(raw[index + 2]) : 0)
        writeInteger(alphabet[Int(word >> 18)])
        writeInteger(alphabet[Int(word >> 12 & 63)])
        writeInteger(left > 1 ? alphabet[Int(word >> 6 & 63)] : UInt8(ascii: "="))
        writeInteger(left > 2 ? alphabet[Int(word & 63)] : UInt8(ascii: "="))
        index += 3
      }
    }
  }

  private static let base64Alphabet = Array("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/".utf8)
}
