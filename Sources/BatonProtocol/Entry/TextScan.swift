/// What a string's bytes are, found eight at a time.
package enum TextScan: Sendable {
  /// UTF-8 that can stand in a JSON string as it is (RFC 8259 section 7).
  case plain
  /// UTF-8 with characters that JSON escapes.
  case escaped
  /// Not UTF-8.
  case binary

  package init(_ bytes: UnsafeRawBufferPointer) {
    var at = 0
    var (isASCII, isPlain) = (true, true)
    if let base = bytes.baseAddress {
      let whole = bytes.count & ~7
      while at < whole {
        let word = base.loadUnaligned(fromByteOffset: at, as: UInt64.self)
        if word & TextScan.high != 0 { isASCII = false }
        if TextScan.needsEscape(word) { isPlain = false }
        at += 8
      }
      while at < bytes.count {
        let byte = bytes[at]
        if byte >= 0x80 { isASCII = false }
        if TextScan.needsEscape(byte) { isPlain = false }
        at += 1
      }
    }
    if !isASCII, String(utf8: bytes) == nil {
      self = .binary
    } else {
      self = isPlain ? .plain : .escaped
    }
  }

  /// Bytes that it takes in a JSON string.
  static func escapedLength(_ bytes: UnsafeRawBufferPointer) -> Int {
    var length = bytes.count
    for byte in bytes where needsEscape(byte) {
      switch byte {
      case UInt8(ascii: "\""), UInt8(ascii: "\\"), UInt8(ascii: "\n"), UInt8(ascii: "\r"), UInt8(ascii: "\t"):
        length += 1
      default: length += 5
      }
    }
    return length
  }

  private static let ones: UInt64 = 0x0101_0101_0101_0101
  private static let high: UInt64 = 0x8080_8080_8080_8080

  /// Whether one of eight bytes is a quotation mark, a reverse solidus or a control character. A byte below a bound, and
  /// a byte that is zero, borrow from their high bit ("Bit Twiddling Hacks", S. E. Anderson).
  @inline(__always)
  static func needsEscape(_ word: UInt64) -> Bool {
    let quotes = word ^ (ones &* UInt64(UInt8(ascii: "\"")))
    let solidi = word ^ (ones &* UInt64(UInt8(ascii: "\\")))
    let control = (word &- ones &* 0x20) & ~word
    let found = (quotes &- ones) & ~quotes | (solidi &- ones) & ~solidi | control
    return found & high != 0
  }

  @inline(__always)
  static func needsEscape(_ byte: UInt8) -> Bool {
    byte < 0x20 || byte == UInt8(ascii: "\"") || byte == UInt8(ascii: "\\")
  }
}
