/// The name of a session: 1 to 128 characters of `A-Z a-z 0-9 . _ ~ : @ -`, and not `.` or `..`. Where a gateway has
/// tenants it is a name among those of one tenant.
public struct SessionName: Hashable, Sendable, CustomStringConvertible {
  /// As Redis has it: `TENANT/NAME`, or the name alone where it is no tenant's. No name holds the separator.
  public let qualified: String
  /// Names are looked up far more often than made.
  private let hash: Int

  public init?(_ text: String) {
    guard Shape.name(text.utf8, upTo: 128), text != ".", text != ".." else { return nil }
    self.init(unchecked: text)
  }

  /// - Parameter qualified: `TENANT/NAME`, or a name alone.
  public init?(qualified: String) {
    guard let separator = qualified.utf8.firstIndex(of: SessionName.separator) else {
      self.init(qualified)
      return
    }
    let name = qualified[qualified.utf8.index(after: separator)...]
    guard SessionName.isTenant(String(qualified[..<separator])), SessionName(String(name)) != nil else { return nil }
    self.init(unchecked: qualified)
  }

  private init(unchecked qualified: String) {
    self.qualified = qualified
    hash = qualified.hashValue
  }

  private static let separator = UInt8(ascii: "/")

  /// A tenant has a name as sessions have.
  package static func isTenant(_ text: String) -> Bool { SessionName(text) != nil }

  /// The session of this name of a tenant.
  package func of(_ tenant: String) -> SessionName { SessionName(unchecked: "\(tenant)/\(description)") }

  /// Among its tenant's.
  public var description: String {
    guard let separator = qualified.utf8.firstIndex(of: SessionName.separator) else { return qualified }
    return String(qualified[qualified.utf8.index(after: separator)...])
  }

  /// Whose it is, where there are tenants.
  public var tenant: String? {
    qualified.utf8.firstIndex(of: SessionName.separator).map { String(qualified[..<$0]) }
  }

  public func hash(into hasher: inout Hasher) { hasher.combine(hash) }

  public static func == (one: SessionName, other: SessionName) -> Bool {
    one.hash == other.hash && one.qualified == other.qualified
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
