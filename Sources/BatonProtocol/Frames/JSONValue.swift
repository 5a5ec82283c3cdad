import NIOCore

/// JSON as others' programs write it (RFC 8259): half a surrogate pair becomes U+FFFD, numbers are kept as text, however
/// large, and nesting has no limit, but what lies deeper than `JSONValue.depth` is checked and not kept.
package enum JSONValue: Sendable, Equatable {
  case string(String)
  case number(String)
  case bool(Bool)
  case null
  case array([JSONValue])
  /// Of a repeated name the last counts.
  case object([String: JSONValue])
  case deep

  package static let depth = 32

  /// Nil for anything but one JSON text in UTF-8, with or without a byte order mark.
  ///
  /// - Parameter namesOnce: nil for a text in which an object has a name twice, too: of what decides who may do what, no
  ///   two readers may see different things.
  package init?(_ bytes: ByteBuffer, namesOnce: Bool = false) {
    let parsed = bytes.withUnsafeReadableBytes { bytes -> JSONValue? in
      var parser = Parser(bytes: bytes, namesOnce: namesOnce)
      if bytes.starts(with: [0xEF, 0xBB, 0xBF]) { parser.at = 3 }
      guard let value = parser.value(depth: 0) else { return nil }
      parser.skipSpace()
      return parser.at == bytes.count ? value : nil
    }
    guard let parsed else { return nil }
    self = parsed
  }

  package var text: String? { if case .string(let text) = self { text } else { nil } }
  package var members: [String: JSONValue]? { if case .object(let members) = self { members } else { nil } }

  private struct Parser {
    let bytes: UnsafeRawBufferPointer
    let namesOnce: Bool
    var at = 0

    init(bytes: UnsafeRawBufferPointer, namesOnce: Bool) { (self.bytes, self.namesOnce) = (bytes, namesOnce) }

    var next: UInt8? { at < bytes.count ? bytes[at] : nil }

    mutating func skipSpace() {
      while let byte = next, byte == 0x20 || byte == 0x0A || byte == 0x0D || byte == 0x09 { at += 1 }
    }

    mutating func take(_ byte: Character) -> Bool {
      guard let wanted = byte.asciiValue, next == wanted else { return false }
      at += 1
      return true
    }

    mutating func take(word: StaticString) -> Bool {
      let end = at + word.utf8CodeUnitCount
      guard end <= bytes.count,
        bytes[at..<end].elementsEqual(UnsafeBufferPointer(start: word.utf8Start, count: word.utf8CodeUnitCount))
      else { return false }
      at = end
      return true
    }

    mutating func value(depth: Int) -> JSONValue? {
      skipSpace()
      switch next {
      case UInt8(ascii: "{"): return depth < JSONValue.depth ? object(depth) : deep()
      case UInt8(ascii: "["): return depth < JSONValue.depth ? array(depth) : deep()
      default: return scalar()
      }
    }

    private mutating func scalar() -> JSONValue? {
      switch next {
      case UInt8(ascii: "\""): string().map { .string($0) }
      case UInt8(ascii: "t"): take(word: "true") ? .bool(true) : nil
      case UInt8(ascii: "f"): take(word: "false") ? .bool(false) : nil
      case UInt8(ascii: "n"): take(word: "null") ? .null : nil
      default: number()
      }
    }

    private mutating func object(_ depth: Int) -> JSONValue? {
      var members: [String: JSONValue] = [:]
      at += 1
      skipSpace()
      if take("}") { return .object(members) }
      while true {
        guard let name = name(), let value = value(depth: depth + 1) else { return nil }
        guard members.updateValue(value, forKey: name) == nil || !namesOnce else { return nil }
        skipSpace()
        if take("}") { return .object(members) }
        guard take(",") else { return nil }
      }
    }

    private mutating func name() -> String? {
      skipSpace()
      guard next == UInt8(ascii: "\""), let name = string() else { return nil }
      skipSpace()
      return take(":") ? name : nil
    }

    private mutating func array(_ depth: Int) -> JSONValue? {
      var elements: [JSONValue] = []
      at += 1
      skipSpace()
      if take("]") { return .array(elements) }
      while true {
        guard let value = value(depth: depth + 1) else { return nil }
        elements.append(value)
        skipSpace()
        if take("]") { return .array(elements) }
        guard take(",") else { return nil }
      }
    }

    /// Checks a nested value without recursion.
    private mutating func deep() -> JSONValue? {
      var isObject: [Bool] = []
      while true {
        skipSpace()
        if take("{") {
          skipSpace()
          if !take("}") {
            isObject.append(true)
            guard name() != nil else { return nil }
            continue
          }
        } else if take("[") {
          skipSpace()
          if !take("]") {
            isObject.append(false)
            continue
          }
        } else if scalar() == nil {
          return nil
        }
        // A value has ended, and with it perhaps what it lies in.
        while let inObject = isObject.last {
          skipSpace()
          if take(inObject ? "}" : "]") {
            isObject.removeLast()
          } else {
            guard take(","), !inObject || name() != nil else { return nil }
            break
          }
        }
        if isObject.isEmpty { return .deep }
      }
    }

    private mutating func number() -> JSONValue? {
      let start = at
      _ = take("-")
      if !take("0") { guard digits() else { return nil } }
      if take(".") { guard digits() else { return nil } }
      if take("e") || take("E") {
        if !take("+") { _ = take("-") }
        guard digits() else { return nil }
      }
      return .number(String(decoding: bytes[start..<at], as: UTF8.self))
    }

    private mutating func digits() -> Bool {
      let start = at
      while let byte = next, byte >= UInt8(ascii: "0"), byte <= UInt8(ascii: "9") { at += 1 }
      return at > start
    }

    private mutating func string() -> String? {
      at += 1
      let start = at
      while let byte = next, byte != UInt8(ascii: "\""), byte != UInt8(ascii: "\\"), byte >= 0x20 { at += 1 }
      if take("\"") { return String(utf8: bytes[start..<at - 1]) }
      var text = Array(bytes[start..<at])
      while let byte = next, byte >= 0x20 {
        at += 1
        switch byte {
        case UInt8(ascii: "\""): return String(utf8: text)
        case UInt8(ascii: "\\"): guard escape(into: &text) else { return nil }
        default: text.append(byte)
        }
      }
      return nil
    }

    private mutating func escape(into text: inout [UInt8]) -> Bool {
      guard let byte = next else { return false }
      at += 1
      switch byte {
      case UInt8(ascii: "\""), UInt8(ascii: "\\"), UInt8(ascii: "/"): text.append(byte)
      case UInt8(ascii: "b"): text.append(0x08)
      case UInt8(ascii: "f"): text.append(0x0C)
      case UInt8(ascii: "n"): text.append(0x0A)
      case UInt8(ascii: "r"): text.append(0x0D)
      case UInt8(ascii: "t"): text.append(0x09)
      case UInt8(ascii: "u"):
        guard let unit = unit() else { return false }
        var scalar = Unicode.Scalar(UInt32(unit))
        if UTF16.isLeadSurrogate(unit) {
          let rewind = at
          if take(word: "\\u"), let trail = self.unit(), UTF16.isTrailSurrogate(trail) {
            scalar = Unicode.Scalar(0x10000 + (UInt32(unit) - 0xD800) << 10 + (UInt32(trail) - 0xDC00))
          } else {
            at = rewind
          }
        }
        text += Array(String(scalar ?? "\u{FFFD}").utf8)
      default: return false
      }
      return true
    }

    private mutating func unit() -> UInt16? {
      guard at + 4 <= bytes.count else { return nil }
      var value: UInt16 = 0
      for byte in bytes[at..<at + 4] {
        guard let digit = Character(UnicodeScalar(byte)).hexDigitValue else { return nil }
        value = value << 4 | UInt16(digit)
      }
      at += 4
      return value
    }
  }
}
