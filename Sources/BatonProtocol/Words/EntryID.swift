/// A Redis stream id, `<ms>-<seq>`: two unsigned 64-bit numbers, ordered as Redis orders them.
public struct EntryID: Hashable, Sendable {
  public var milliseconds: UInt64
  public var sequence: UInt64

  /// `0-0`, which no entry can have: the place before the first entry.
  public static let zero = EntryID(0, 0)

  public init(_ milliseconds: UInt64, _ sequence: UInt64) {
    self.milliseconds = milliseconds
    self.sequence = sequence
  }

  /// Reads `<ms>-<seq>` in decimal digits; nil for anything else, incomplete ids included.
  public init?(_ text: some StringProtocol) {
    let utf8 = text.utf8
    guard let dash = utf8.firstIndex(of: UInt8(ascii: "-")),
      let milliseconds = UInt64(decimalDigits: utf8[..<dash]),
      let sequence = UInt64(decimalDigits: utf8[utf8.index(after: dash)...])
    else { return nil }
    self.init(milliseconds, sequence)
  }

  /// The greatest id below this one; nil for `0-0`. `XREAD` from here returns the entry itself first.
  package var predecessor: EntryID? {
    if sequence > 0 { return EntryID(milliseconds, sequence - 1) }
    if milliseconds > 0 { return EntryID(milliseconds - 1, .max) }
    return nil
  }
}

extension EntryID: Comparable {
  public static func < (a: EntryID, b: EntryID) -> Bool {
    (a.milliseconds, a.sequence) < (b.milliseconds, b.sequence)
  }
}

extension EntryID: CustomStringConvertible {
  public var description: String { "\(milliseconds)-\(sequence)" }
}

extension UInt64 {
  /// Nil for no digit at all, for anything but the digits 0 to 9 (so for a sign), and for more than 64 bits.
  package init?(decimalDigits bytes: some Sequence<UInt8>) {
    var value: UInt64 = 0
    var isEmpty = true
    for byte in bytes {
      guard byte >= UInt8(ascii: "0"), byte <= UInt8(ascii: "9") else { return nil }
      let (product, overflow) = value.multipliedReportingOverflow(by: 10)
      let (sum, carry) = product.addingReportingOverflow(UInt64(byte - UInt8(ascii: "0")))
      if overflow || carry { return nil }
      value = sum
      isEmpty = false
    }
    if isEmpty { return nil }
    self = value
  }
}
