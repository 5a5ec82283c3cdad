/// The name of a session: 1 to 128 characters of `A-Z a-z 0-9 . _ ~ : @ -`, and not `.` or `..`.
public struct SessionName: Hashable, Sendable, CustomStringConvertible {
  public let description: String
  /// Names are looked up far more often than made.
  private let hash: Int

  public init?(_ text: String) {
    guard Shape.name(text.utf8, upTo: 128), text != ".", text != ".." else { return nil }
    description = text
    hash = text.hashValue
  }

  public func hash(into hasher: inout Hasher) { hasher.combine(hash) }

  public static func == (one: SessionName, other: SessionName) -> Bool {
    one.hash == other.hash && one.description == other.description
  }
}

/// The character sets of PROTOCOL 2.
package enum Shape {
  /// A session, response or device name: characters of `A-Z a-z 0-9 . _ ~ : @ -`.
  package static func name(_ bytes: some Collection<UInt8>, upTo limit: Int) -> Bool {
    holds(bytes, upTo: limit) { $0 == UInt8(ascii: "~") || $0 == UInt8(ascii: "@") }
  }

  /// An event's name: 1 to 64 characters of `A-Z a-z 0-9 . _ : -`.
  package static func event(_ bytes: some Collection<UInt8>) -> Bool {
    holds(bytes, upTo: 64) { _ in false }
  }

  /// A part's name, `kind:name`: 1 to 128 characters of ``name(_:upTo:)``, the kind of `a-z 0-9 -`.
  package static func part(_ bytes: some Collection<UInt8>) -> Bool {
    guard name(bytes, upTo: 128), let colon = bytes.firstIndex(of: UInt8(ascii: ":")), colon != bytes.startIndex,
      bytes.index(after: colon) != bytes.endIndex
    else { return false }
    return bytes[..<colon].allSatisfy { byte in
      switch byte {
      case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "0")...UInt8(ascii: "9"), UInt8(ascii: "-"): true
      default: false
      }
    }
  }

  /// An `n` or `joined`: 1 to 2⁵³−1 in decimal, without leading zeros.
  package static func number(_ bytes: some Collection<UInt8>) -> UInt64? {
    guard bytes.first != UInt8(ascii: "0"), let value = UInt64(decimalDigits: bytes), value < 1 << 53 else {
      return nil
    }
    return value
  }

  private static func holds(
    _ bytes: some Collection<UInt8>, upTo limit: Int, also extra: (UInt8) -> Bool
  ) -> Bool {
    guard !bytes.isEmpty, bytes.count <= limit else { return false }
    return bytes.allSatisfy { byte in
      switch byte {
      case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"),
        UInt8(ascii: "0")...UInt8(ascii: "9"), UInt8(ascii: "."), UInt8(ascii: "_"), UInt8(ascii: ":"),
        UInt8(ascii: "-"):
        true
      default: extra(byte)
      }
    }
  }
}
