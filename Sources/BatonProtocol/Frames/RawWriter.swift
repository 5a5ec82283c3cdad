/// Writes into memory that is known to be large enough; what would go beyond it is left out.
struct RawWriter {
  private let memory: UnsafeMutableRawBufferPointer
  private(set) var count = 0

  init(_ memory: UnsafeMutableRawBufferPointer) { self.memory = memory }

  @inline(__always)
  mutating func write(_ text: StaticString) {
    write(UnsafeRawBufferPointer(start: text.utf8Start, count: text.utf8CodeUnitCount))
  }

  @inline(__always)
  mutating func write(_ bytes: UnsafeRawBufferPointer) {
    guard let from = bytes.baseAddress, let to = memory.baseAddress, count + bytes.count <= memory.count else { return }
    (to + count).copyMemory(from: from, byteCount: bytes.count)
    count += bytes.count
  }

  @inline(__always)
  private mutating func write(byte: UInt8) {
    guard count < memory.count else { return }
    memory[count] = byte
    count += 1
  }

  mutating func write(_ number: UInt64) {
    var digits: (UInt64, UInt64, UInt32) = (0, 0, 0)
    withUnsafeMutableBytes(of: &digits) { digits in
      var (rest, at) = (number, digits.count)
      while rest >= 10 {
        let (quotient, two) = rest.quotientAndRemainder(dividingBy: 100)
        at -= 2
        digits.storeBytes(of: RawWriter.pair(two), toByteOffset: at, as: UInt16.self)
        rest = quotient
      }
      // What is left of an even number of digits is nothing, unless it was all.
      if rest > 0 || at == digits.count {
        at -= 1
        digits[at] = UInt8(ascii: "0") &+ UInt8(truncatingIfNeeded: rest)
      }
      write(UnsafeRawBufferPointer(rebasing: digits[at...]))
    }
  }

  /// The two digits of a number below 100.
  @inline(__always)
  private static func pair(_ number: UInt64) -> UInt16 {
    let tens = (number &* 103) >> 10
    return UInt16(truncatingIfNeeded: 0x3030 | tens | (number &- tens &* 10) << 8).littleEndian
  }

  /// `0`, `<ms>-<seq>` or `<ms>-<seq>.<check>`.
  mutating func write(_ offset: Offset) {
    if offset.id == .zero { return write("0") }
    write(offset.id.milliseconds)
    write(byte: UInt8(ascii: "-"))
    write(offset.id.sequence)
    guard let check = offset.check else { return }
    write(byte: UInt8(ascii: "."))
    for shift in stride(from: UInt32(28), through: 0, by: -4) { write(byte: RawWriter.hex(UInt8(check >> shift & 15))) }
  }

  static func length(_ number: UInt64) -> Int {
    var (length, bound) = (1, UInt64(10))
    while length < 20, number >= bound {
      length += 1
      let (next, overflow) = bound.multipliedReportingOverflow(by: 10)
      bound = overflow ? .max : next
    }
    return length
  }

  static func length(_ offset: Offset) -> Int {
    if offset.id == .zero { return 1 }
    return length(offset.id.milliseconds) + 1 + length(offset.id.sequence) + (offset.check == nil ? 0 : 9)
  }

  /// UTF-8 in a JSON string (RFC 8259 section 7).
  mutating func write(escaping bytes: UnsafeRawBufferPointer) {
    guard let base = bytes.baseAddress else { return }
    var at = 0
    while at < bytes.count {
      var plain = at
      while plain + 8 <= bytes.count,
        !TextScan.needsEscape(base.loadUnaligned(fromByteOffset: plain, as: UInt64.self))
      { plain += 8 }
      while plain < bytes.count, !TextScan.needsEscape(bytes[plain]) { plain += 1 }
      write(UnsafeRawBufferPointer(rebasing: bytes[at..<plain]))
      at = plain
      if at < bytes.count {
        escape(bytes[at])
        at += 1
      }
    }
  }

  private mutating func escape(_ byte: UInt8) {
    switch byte {
    case UInt8(ascii: "\""): write("\\\"")
    case UInt8(ascii: "\\"): write("\\\\")
    case UInt8(ascii: "\n"): write("\\n")
    case UInt8(ascii: "\r"): write("\\r")
    case UInt8(ascii: "\t"): write("\\t")
    default:
      write("\\u00")
      write(byte: RawWriter.hex(byte >> 4))
      write(byte: RawWriter.hex(byte & 15))
    }
  }

  /// RFC 4648 section 4, padded.
  mutating func write(base64 bytes: UnsafeRawBufferPointer) {
    for start in stride(from: 0, to: bytes.count, by: 3) {
      let left = bytes.count - start
      let word =
        UInt32(bytes[start]) << 16 | (left > 1 ? UInt32(bytes[start + 1]) << 8 : 0)
        | (left > 2 ? UInt32(bytes[start + 2]) : 0)
      write(byte: RawWriter.base64(word >> 18))
      write(byte: RawWriter.base64(word >> 12 & 63))
      write(byte: left > 1 ? RawWriter.base64(word >> 6 & 63) : UInt8(ascii: "="))
      write(byte: left > 2 ? RawWriter.base64(word & 63) : UInt8(ascii: "="))
    }
  }

  private static func hex(_ digit: UInt8) -> UInt8 {
    digit < 10 ? UInt8(ascii: "0") + digit : UInt8(ascii: "a") + digit - 10
  }

  private static func base64(_ digit: UInt32) -> UInt8 {
    let digit = UInt8(truncatingIfNeeded: digit)
    return switch digit {
    case ..<26: UInt8(ascii: "A") + digit
    case ..<52: UInt8(ascii: "a") + digit - 26
    case ..<62: UInt8(ascii: "0") + digit - 52
    case 62: UInt8(ascii: "+")
    default: UInt8(ascii: "/")
    }
  }
}
