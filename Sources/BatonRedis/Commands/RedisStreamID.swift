import NIOCore

/// A stream entry's id, `<ms>-<seq>`.
package struct RedisStreamID: Hashable, Comparable, Sendable, CustomStringConvertible {
  package var milliseconds: UInt64
  package var sequence: UInt64

  package static let zero = RedisStreamID(0, 0)
  package static let max = RedisStreamID(.max, .max)

  package init(_ milliseconds: UInt64, _ sequence: UInt64) {
    (self.milliseconds, self.sequence) = (milliseconds, sequence)
  }

  /// Nil unless both halves are decimal numbers of 64 bits.
  package init?(_ bytes: some Sequence<UInt8>) {
    var halves: (UInt64, UInt64) = (0, 0)
    var digits = 0
    var isSecond = false
    for byte in bytes {
      if byte == UInt8(ascii: "-"), !isSecond, digits > 0 {
        (halves.0, halves.1, digits, isSecond) = (halves.1, 0, 0, true)
        continue
      }
      guard (UInt8(ascii: "0")...UInt8(ascii: "9")).contains(byte) else { return nil }
      let (shifted, overflow) = halves.1.multipliedReportingOverflow(by: 10)
      let (sum, carry) = shifted.addingReportingOverflow(UInt64(byte - UInt8(ascii: "0")))
      if overflow || carry { return nil }
      halves.1 = sum
      digits += 1
    }
    guard isSecond, digits > 0 else { return nil }
    self.init(halves.0, halves.1)
  }

  package static func < (one: Self, other: Self) -> Bool {
    (one.milliseconds, one.sequence) < (other.milliseconds, other.sequence)
  }

  package var description: String { "\(milliseconds)-\(sequence)" }
}
