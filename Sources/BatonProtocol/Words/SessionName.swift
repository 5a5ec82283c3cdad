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
  package static func name(_ bytes: UnsafeRawBufferPointer, upTo limit: Int) -> Bool {
    !bytes.isEmpty && bytes.count <= limit && holds(bytes, names)
  }

  package static func name(_ bytes: some Collection<UInt8>, upTo limit: Int) -> Bool {
    contiguous(bytes) { name($0, upTo: limit) }
  }

  /// An event's name: 1 to 64 characters of `A-Z a-z 0-9 . _ : -`.
  package static func event(_ bytes: UnsafeRawBufferPointer) -> Bool {
    !bytes.isEmpty && bytes.count <= 64 && holds(bytes, events)
  }

  package static func event(_ bytes: some Collection<UInt8>) -> Bool { contiguous(bytes) { event($0) } }

  /// A part's name, `kind:name`: 1 to 128 characters of ``name(_:upTo:)``, the kind of `a-z 0-9 -`.
  package static func part(_ bytes: UnsafeRawBufferPointer) -> Bool {
    guard name(bytes, upTo: 128), let colon = bytes.firstIndex(of: UInt8(ascii: ":")), colon > 0,
      colon + 1 < bytes.count
    else { return false }
    return holds(UnsafeRawBufferPointer(rebasing: bytes[..<colon]), kinds)
  }

  package static func part(_ bytes: some Collection<UInt8>) -> Bool { contiguous(bytes) { part($0) } }

  /// An `n` or `joined`: 1 to 2⁵³−1 in decimal, without leading zeros.
  package static func number(_ bytes: UnsafeRawBufferPointer) -> UInt64? {
    // 2⁵³ has 16 digits.
    guard !bytes.isEmpty, bytes.count <= 16, bytes[0] != UInt8(ascii: "0") else { return nil }
    var value: UInt64 = 0
    for byte in bytes {
      let digit = byte &- UInt8(ascii: "0")
      guard digit < 10 else { return nil }
      value = value &* 10 &+ UInt64(digit)
    }
    return value < 1 << 53 ? value : nil
  }

  package static func number(_ bytes: some Collection<UInt8>) -> UInt64? { contiguous(bytes) { number($0) } }

  private static func contiguous<R>(_ bytes: some Collection<UInt8>, _ body: (UnsafeRawBufferPointer) -> R) -> R {
    bytes.withContiguousStorageIfAvailable { body(UnsafeRawBufferPointer($0)) }
      ?? ContiguousArray(bytes).withUnsafeBytes(body)
  }

  /// Characters of ASCII, a bit each.
  private typealias Characters = (low: UInt64, high: UInt64)

  // 0-9 are the bits 48 to 57; above them, less 64, A-Z 1 to 26 and a-z 33 to 58.
  private static let kinds: Characters = (0x03FF_2000_0000_0000, 0x07FF_FFFE_0000_0000)
  private static let events: Characters = (0x07FF_6000_0000_0000, 0x07FF_FFFE_87FF_FFFE)
  private static let names: Characters = (events.low, events.high | 1 | 1 << 62)

  private static func holds(_ bytes: UnsafeRawBufferPointer, _ characters: Characters) -> Bool {
    for byte in bytes {
      let half = byte < 64 ? characters.low : characters.high
      guard byte < 128, half >> UInt64(byte & 63) & 1 == 1 else { return false }
    }
    return true
  }
}
