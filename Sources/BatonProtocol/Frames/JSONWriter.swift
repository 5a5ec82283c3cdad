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

  /// A value that is written already.
  package mutating func value(json: ByteBuffer) {
    comma()
    buffer.writeImmutableBuffer(json)
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
    buffer.writeWithUnsafeMutableBytes(minimumWritableBytes: TextScan.escapedLength(bytes)) { memory in
      var out = RawWriter(memory)
      out.write(escaping: bytes)
      return out.count
    }
  }
}

extension ByteBuffer {
  /// RFC 4648 section 4, padded.
  package mutating func writeBase64(_ bytes: ByteBuffer) {
    _ = bytes.withUnsafeReadableBytes { raw in
      writeWithUnsafeMutableBytes(minimumWritableBytes: (raw.count + 2) / 3 * 4) { memory in
        var out = RawWriter(memory)
        out.write(base64: raw)
        return out.count
      }
    }
  }
}
