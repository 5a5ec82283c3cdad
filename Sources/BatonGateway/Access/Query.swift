import BatonProtocol

/// The query of a request target, parsed strictly: a parameter that is asked for may stand there once, and must be
/// percent-encoded UTF-8. A `+` is a `+`: offsets, names and tokens hold no spaces.
package struct Query: Sendable {
  private var values: [String: [String]] = [:]

  /// - Throws: `Problem` where an escape is broken.
  package init(_ query: Substring?) throws(Problem) {
    for pair in (query ?? "").split(separator: "&") {
      let parts = pair.split(separator: "=", maxSplits: 1, omittingEmptySubsequences: false)
      let name = try Query.decode(parts[0])
      values[name, default: []].append(parts.count > 1 ? try Query.decode(parts[1]) : "")
    }
  }

  /// - Throws: `Problem` where the parameter is given twice.
  package func one(_ name: String) throws(Problem) -> String? {
    guard let all = values[name] else { return nil }
    guard all.count == 1 else {
      throw .badRequest("repeated-parameter", "Give the query parameter \(name) once.")
    }
    return all[0]
  }

  package static func decode(_ text: Substring) throws(Problem) -> String {
    guard let decoded = percentDecoded(text) else { throw .badEncoding }
    return decoded
  }

  /// Nil for a broken escape or for what is not UTF-8 (RFC 3986 section 2.1).
  static func percentDecoded(_ text: Substring) -> String? {
    guard text.utf8.contains(UInt8(ascii: "%")) else { return String(text) }
    var bytes: [UInt8] = []
    var rest = text.utf8
    while let byte = rest.popFirst() {
      guard byte == UInt8(ascii: "%") else {
        bytes.append(byte)
        continue
      }
      guard let high = rest.popFirst().flatMap(hexValue), let low = rest.popFirst().flatMap(hexValue) else {
        return nil
      }
      bytes.append(high << 4 | low)
    }
    return String(utf8: bytes)
  }

  private static func hexValue(_ byte: UInt8) -> UInt8? {
    switch byte {
    case UInt8(ascii: "0")...UInt8(ascii: "9"): byte - UInt8(ascii: "0")
    case UInt8(ascii: "a")...UInt8(ascii: "f"): byte - UInt8(ascii: "a") + 10
    case UInt8(ascii: "A")...UInt8(ascii: "F"): byte - UInt8(ascii: "A") + 10
    default: nil
    }
  }
}

extension Substring.UTF8View {
  fileprivate mutating func popFirst() -> UInt8? {
    guard let byte = first else { return nil }
    self = dropFirst()
    return byte
  }
}
