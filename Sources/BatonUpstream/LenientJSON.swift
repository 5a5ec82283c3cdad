import BatonProtocol
import NIOCore

/// JSON as model servers write it: RFC 8259, and beside it `NaN`, `None`, single quotes, raw control characters in strings,
/// unknown escapes, commas too many, numbers of any form, bytes that are no UTF-8.
///
/// Of a repeated name the last counts. What lies deeper than ``depth`` is read over and taken for null.
package enum LenientJSON: Sendable, Equatable {
  /// UTF-8 as it came; halves of surrogate pairs are written like other code points (WTF-8), for ``TextPieces``.
  case string([UInt8])
  case number(String)
  case bool(Bool)
  case null
  case array([LenientJSON])
  case object([Member])

  package struct Member: Sendable, Equatable {
    package let name: String
    package let value: LenientJSON

    package init(_ name: String, _ value: LenientJSON) { (self.name, self.value) = (name, value) }
  }

  package static let depth = 64
  /// Values of a text that can be read: each takes ten times the bytes that it may have there.
  package static let maxValues = 1_000_000

  /// The texts of JSON that follow each other in `bytes`, and whether nothing else is there.
  package static func values(_ bytes: some Collection<UInt8>) -> (values: [LenientJSON], isAll: Bool) {
    let (values, end) = read(Array(bytes))
    return (values, end == nil)
  }

  /// What can be read of a text that is cut: its members and elements so far.
  package static func remains(of bytes: some Collection<UInt8>) -> LenientJSON? {
    Array(bytes).withUnsafeBufferPointer { bytes in
      var parser = Parser(bytes: bytes, isCut: true)
      return parser.value(depth: 0)
    }
  }

  /// The texts that follow each other, and where what can't be read begins.
  static func read(_ bytes: [UInt8]) -> (values: [LenientJSON], end: Int?) {
    bytes.withUnsafeBufferPointer { bytes in
      var parser = Parser(bytes: bytes)
      var values: [LenientJSON] = []
      parser.skipSpace()
      while parser.next != nil {
        let start = parser.at
        guard let value = parser.value(depth: 0) else { return (values, start) }
        values.append(value)
        parser.skipSpace()
      }
      return (values, nil)
    }
  }

  package subscript(name: String) -> LenientJSON? {
    guard case .object(let members) = self else { return nil }
    return members.last { $0.name == name }.map(\.value)
  }

  package var text: String? {
    if case .string(let bytes) = self { String(decoding: bytes, as: UTF8.self) } else { nil }
  }
  package var elements: [LenientJSON]? { if case .array(let elements) = self { elements } else { nil } }
  package var isNull: Bool { self == .null }

  /// Says something: no null, false, zero, empty text, list or object.
  package var isSomething: Bool {
    switch self {
    case .string(let bytes): !bytes.isEmpty
    case .number(let text): Double(text) != 0
    case .bool(let value): value
    case .null: false
    case .array(let elements): !elements.isEmpty
    case .object(let members): !members.isEmpty
    }
  }

  /// As RFC 8259 has it.
  package func write(into json: inout JSONWriter) {
    switch self {
    case .string(let bytes): json.value(String(decoding: bytes, as: UTF8.self))
    case .number(let text): json.value(json: ByteBuffer(string: Self.number(text)))
    case .bool(let value): json.value(value)
    case .null: json.null()
    case .array(let elements): json.array { json in for element in elements { element.write(into: &json) } }
    case .object(let members):
      json.object { json in
        for member in members {
          json.name(member.name)
          member.value.write(into: &json)
        }
      }
    }
  }

  /// As RFC 8259 has it.
  package var json: String {
    var json = JSONWriter(into: ByteBuffer())
    write(into: &json)
    return String(buffer: json.buffer)
  }

  private static func number(_ text: String) -> String {
    if isNumber(text.utf8) { return text }
    guard let number = Double(text), number.isFinite else { return "null" }
    return "\(number)"
  }

  /// RFC 8259 section 6. By hand: a body may hold hundreds of thousands of them.
  private static func isNumber(_ text: String.UTF8View) -> Bool {
    var rest = text[...]
    func isDigit(_ byte: UInt8) -> Bool { (UInt8(ascii: "0")...UInt8(ascii: "9")).contains(byte) }
    func digits() -> Bool {
      let count = rest.prefix(while: isDigit).count
      rest = rest.dropFirst(count)
      return count > 0
    }
    func take(_ bytes: UInt8...) -> Bool {
      guard let first = rest.first, bytes.contains(first) else { return false }
      rest = rest.dropFirst()
      return true
    }
    _ = take(UInt8(ascii: "-"))
    if !take(UInt8(ascii: "0")) { guard digits() else { return false } }
    if take(UInt8(ascii: ".")) { guard digits() else { return false } }
    if take(UInt8(ascii: "e"), UInt8(ascii: "E")) {
      _ = take(UInt8(ascii: "+"), UInt8(ascii: "-"))
      guard digits() else { return false }
    }
    return rest.isEmpty
  }

  private struct Parser {
    let bytes: UnsafeBufferPointer<UInt8>
    /// What has no end is taken for what there is of it.
    let isCut: Bool
    var at = 0
    private var left = LenientJSON.maxValues

    init(bytes: UnsafeBufferPointer<UInt8>, isCut: Bool = false) { (self.bytes, self.isCut) = (bytes, isCut) }

    private func broken(_ partial: LenientJSON) -> LenientJSON? { isCut && next == nil ? partial : nil }

    var next: UInt8? { at < bytes.count ? bytes[at] : nil }

    /// White space and byte order marks.
    mutating func skipSpace() {
      while let byte = next {
        if byte == 0xEF, at + 2 < bytes.count, bytes[at + 1] == 0xBB, bytes[at + 2] == 0xBF {
          at += 3
        } else if byte <= 0x20 {
          at += 1
        } else {
          return
        }
      }
    }

    mutating func take(_ byte: Unicode.Scalar) -> Bool {
      guard next == UInt8(ascii: byte) else { return false }
      at += 1
      return true
    }

    mutating func value(depth: Int) -> LenientJSON? {
      guard left > 0 else { return nil }
      left -= 1
      skipSpace()
      switch next {
      case UInt8(ascii: "{"): return depth < LenientJSON.depth ? object(depth) : deep()
      case UInt8(ascii: "["): return depth < LenientJSON.depth ? array(depth) : deep()
      case UInt8(ascii: "\""), UInt8(ascii: "'"): return string().map { .string($0) }
      default: return word()
      }
    }

    private mutating func object(_ depth: Int) -> LenientJSON? {
      var members: [Member] = []
      at += 1
      while true {
        skipSpace()
        if take("}") { return .object(members) }
        guard next == UInt8(ascii: "\"") || next == UInt8(ascii: "'"), let name = string() else {
          return broken(.object(members))
        }
        skipSpace()
        guard take(":"), let value = value(depth: depth + 1) else { return broken(.object(members)) }
        members.append(Member(String(decoding: name, as: UTF8.self), value))
        skipSpace()
        if take("}") { return .object(members) }
        guard take(",") else { return broken(.object(members)) }
      }
    }

    private mutating func array(_ depth: Int) -> LenientJSON? {
      var elements: [LenientJSON] = []
      at += 1
      while true {
        skipSpace()
        if take("]") { return .array(elements) }
        guard let value = value(depth: depth + 1) else { return broken(.array(elements)) }
        elements.append(value)
        skipSpace()
        if take("]") { return .array(elements) }
        guard take(",") else { return broken(.array(elements)) }
      }
    }

    /// Reads over what is nested, without recursion.
    private mutating func deep() -> LenientJSON? {
      var open = 0
      while let byte = next {
        switch byte {
        case UInt8(ascii: "{"), UInt8(ascii: "["): open += 1
        case UInt8(ascii: "}"), UInt8(ascii: "]"): open -= 1
        case UInt8(ascii: "\""):
          guard string() != nil else { return nil }
          continue
        default: break
        }
        at += 1
        if open == 0 { return .null }
      }
      return nil
    }

    /// Numbers, and what is written without quotes.
    private mutating func word() -> LenientJSON? {
      let start = at
      while let byte = next, byte.isWord { at += 1 }
      let word = String(decoding: bytes[start..<at], as: UTF8.self)
      switch word {
      case "true", "True": return .bool(true)
      case "false", "False": return .bool(false)
      case "null", "None", "undefined", "NaN", "nan", "-NaN", "Infinity", "-Infinity", "inf", "-inf": return .null
      default: return Double(word) == nil ? nil : .number(word)
      }
    }

    private mutating func string() -> [UInt8]? {
      guard let quote = next else { return nil }
      at += 1
      var text: [UInt8] = []
      while true {
        let start = at
        while let byte = next, byte != quote, byte != UInt8(ascii: "\\") { at += 1 }
        text += bytes[start..<at]
        guard let byte = next else { return isCut ? text : nil }
        at += 1
        if byte == quote { return text }
        guard escape(into: &text) else { return isCut ? text : nil }
      }
    }

    private mutating func escape(into text: inout [UInt8]) -> Bool {
      guard let byte = next else { return false }
      at += 1
      switch byte {
      case UInt8(ascii: "b"): text.append(0x08)
      case UInt8(ascii: "f"): text.append(0x0C)
      case UInt8(ascii: "n"): text.append(0x0A)
      case UInt8(ascii: "r"): text.append(0x0D)
      case UInt8(ascii: "t"): text.append(0x09)
      case UInt8(ascii: "u"):
        guard let unit = hex(4) else {
          text += [UInt8(ascii: "\\"), byte]
          return true
        }
        append(unit, to: &text)
      case UInt8(ascii: "x"):
        guard let unit = hex(2) else {
          text += [UInt8(ascii: "\\"), byte]
          return true
        }
        append(unit, to: &text)
      default: text.append(byte)
      }
      return true
    }

    private mutating func append(_ unit: UInt32, to text: inout [UInt8]) {
      var code = unit
      if unit & 0xFC00 == 0xD800 {
        let rewind = at
        if take("\\"), take("u"), let trail = hex(4), trail & 0xFC00 == 0xDC00 {
          code = 0x10000 + (unit - 0xD800) << 10 + (trail - 0xDC00)
        } else {
          at = rewind
        }
      }
      text.append(codePoint: code)
    }

    private mutating func hex(_ count: Int) -> UInt32? {
      guard at + count <= bytes.count else { return nil }
      var value: UInt32 = 0
      for byte in bytes[at..<at + count] {
        guard let digit = Character(UnicodeScalar(byte)).hexDigitValue else { return nil }
        value = value << 4 | UInt32(digit)
      }
      at += count
      return value
    }
  }
}

extension [UInt8] {
  /// In UTF-8; a surrogate likewise.
  mutating func append(codePoint code: UInt32) {
    switch code {
    case ..<0x80: append(UInt8(code))
    case ..<0x800: self += [UInt8(0xC0 | code >> 6), UInt8(0x80 | code & 0x3F)]
    case ..<0x10000:
      self += [UInt8(0xE0 | code >> 12), UInt8(0x80 | code >> 6 & 0x3F), UInt8(0x80 | code & 0x3F)]
    default:
      self += [
        UInt8(0xF0 | code >> 18), UInt8(0x80 | code >> 12 & 0x3F), UInt8(0x80 | code >> 6 & 0x3F),
        UInt8(0x80 | code & 0x3F),
      ]
    }
  }
}

extension UInt8 {
  fileprivate var isWord: Bool {
    switch self {
    case UInt8(ascii: "0")...UInt8(ascii: "9"), UInt8(ascii: "a")...UInt8(ascii: "z"),
      UInt8(ascii: "A")...UInt8(ascii: "Z"), UInt8(ascii: "+"), UInt8(ascii: "-"), UInt8(ascii: "."):
      true
    default: false
    }
  }
}
