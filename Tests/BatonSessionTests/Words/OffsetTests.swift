import Testing

@testable import BatonProtocol
@testable import BatonSession

@Suite struct OffsetTests {
  static let max = UInt64.max

  @Test(arguments: [
    ("0", Offset.zero),
    ("0-0", .zero),
    ("0-0.9f3a11c0", .zero),
    ("1-0", Offset(id: EntryID(1, 0))),
    ("0-1", Offset(id: EntryID(0, 1))),
    ("18446744073709551615-18446744073709551615", Offset(id: EntryID(max, max))),
    ("1732000000123-7.9f3a11c0", Offset(id: EntryID(1_732_000_000_123, 7), check: 0x9f3a_11c0)),
    ("1-0.9F3A11C0", Offset(id: EntryID(1, 0), check: 0x9f3a_11c0)),
    ("1-0.00000000", Offset(id: EntryID(1, 0), check: 0)),
  ])
  func reads(_ text: String, _ offset: Offset) {
    #expect(Offset(text) == offset)
  }

  @Test(arguments: [
    "", "-", "1", "00", "1-", "-1", "1--1", "+1-0", "1-+0", "-1-0", "1-0-0", "1.0", "1-0.", "1-0.1234567",
    "1-0.123456789", "1-0.+1234567", "1-0.0x123456", "1-0.9f3a11cg", "1-0.9f3a11c0.", " 1-0", "1-0 ", "$", "live",
    "18446744073709551616-0", "0-18446744073709551616", "99999999999999999999999-0", "1-０", "1-0.ﬀﬀﬀﬀ",
    "1\u{0}-0", "0.9f3a11c0",
  ])
  func refuses(_ text: String) {
    #expect(Offset(text) == nil)
  }

  @Test(arguments: ["0", "1-0", "18446744073709551615-1", "1-0.0000000a", "1-0.ffffffff"])
  func writesWhatItReads(_ text: String) {
    #expect(Offset(text)?.description == text)
  }

  @Test func fitsByItsCheckWhereBothAreKnown() throws {
    let plain = try #require(Offset("5-0"))
    let checked = try #require(Offset("5-0.00000001"))
    let other = try #require(Offset("5-0.00000002"))
    let elsewhere = try #require(Offset("5-1.00000001"))
    #expect(plain.matches(checked) && checked.matches(plain) && checked.matches(checked))
    #expect(!checked.matches(other) && !checked.matches(elsewhere) && !plain.matches(elsewhere))
  }

  @Test func ordersIdsAsRedisDoes() {
    let ordered = [EntryID(0, 0), EntryID(0, 1), EntryID(1, 0), EntryID(1, .max), EntryID(9, 0), EntryID(10, 0)]
    #expect(ordered.shuffled().sorted() == ordered)
  }

  @Test func knowsTheIdBefore() {
    #expect(EntryID(5, 3).predecessor == EntryID(5, 2))
    #expect(EntryID(5, 0).predecessor == EntryID(4, .max))
    #expect(EntryID(0, 1).predecessor == .zero)
    #expect(EntryID.zero.predecessor == nil)
  }
}
