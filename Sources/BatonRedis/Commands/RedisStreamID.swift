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
  package init?(_ bytes: UnsafeRawBufferPointer) {
    var at = 0
    guard let milliseconds = Self.half(bytes, &at), at < bytes.count, bytes[at] == UInt8(ascii: "-") else { return nil }
    at += 1
    guard let sequence = Self.half(bytes, &at), at == bytes.count else { return nil }
    self.init(milliseconds, sequence)
  }

  package init?(_ bytes: some Collection<UInt8>) {
    let id =
      bytes.withContiguousStorageIfAvailable { Self(UnsafeRawBufferPointer($0)) }
      ?? ContiguousArray(bytes).withUnsafeBytes { Self($0) }
    guard let id else { return nil }
    self = id
  }

  /// The number at `at`, which is moved behind it.
  private static func half(_ bytes: UnsafeRawBufferPointer, _ at: inout Int) -> UInt64? {
    let start = at
    var value: UInt64 = 0
    while at < bytes.count {
      let digit = UInt64(bytes[at] &- UInt8(ascii: "0"))
      guard digit < 10 else { break }
      // 19 digits fit whatever they are.
      if at - start < 19 {
        value = value &* 10 &+ digit
      } else {
        let (shifted, overflow) = value.multipliedReportingOverflow(by: 10)
        let (sum, carry) = shifted.addingReportingOverflow(digit)
        if overflow || carry { return nil }
        value = sum
      }
      at += 1
    }
    return at > start ? value : nil
  }

  package static func < (one: Self, other: Self) -> Bool {
    (one.milliseconds, one.sequence) < (other.milliseconds, other.sequence)
  }

  package var description: String { "\(milliseconds)-\(sequence)" }
}
