import Testing

@testable import BatonProtocol
@testable import BatonSession

@Suite struct LocatorTests {
  /// Feeds pages of `limit` entries out of `redis` until the place is found; every read as a line.
  private func find(_ goal: Locator.Goal, from: UInt64? = nil, in ids: ClosedRange<UInt64>, limit: Int = 3) -> [String]
  {
    var redis = ModelRedis()
    for id in ids { redis.add("s", id: EntryID(id, 0), [("data", "\(id)")]) }
    var locator = Locator(goal, from: from.map { EntryID($0, 0) }, pageLimit: limit)
    var lines: [String] = []
    while lines.count < 20 {
      let request = PageRequest(session: "s", span: locator.span, limit: limit, look: false)
      guard case .page(let page) = redis.page(request) else { return ["no page"] }
      lines.append(show(page.entries))
      if case .found(let place) = locator.take(page) { return lines + ["found \(show(place.offset))"] }
    }
    return lines
  }

  @Test func findsThePlaceBeforeTheNewest() {
    #expect(find(.newest(1), in: 1...9) == ["9 8 7", "found 8"])
    #expect(find(.newest(2), in: 1...9) == ["9 8 7", "found 7"])
    #expect(find(.newest(3), in: 1...9) == ["9 8 7", "7 6 5 4", "found 6"])
    #expect(find(.newest(8), in: 1...9) == ["9 8 7", "7 6 5 4", "4 3 2 1", "found 1"])
    #expect(find(.newest(9), in: 1...9).last == "found 0")
    #expect(find(.newest(50), in: 1...9).last == "found 0")
  }

  @Test func findsTheEntryBefore() {
    #expect(find(.newest(0), from: 5, in: 1...9, limit: 0) == ["5", "found 5"])
    #expect(find(.newest(0), from: 5, in: 7...9, limit: 0) == ["", "found 0"])
  }

  @Test func findsTheNewestThatStillHolds() {
    func candidates(_ ids: [UInt64], _ data: String? = nil) -> [EntryID: Offset] {
      Dictionary(uniqueKeysWithValues: ids.map { (EntryID($0, 0), entry($0, data ?? "\($0)").offset) })
    }
    #expect(find(.anyOf(candidates([2, 4, 8]), floor: EntryID(2, 0)), from: 8, in: 1...5).last == "found 4")
    #expect(find(.anyOf(candidates([2, 4, 8]), floor: EntryID(2, 0)), from: 8, in: 1...3) == ["3 2 1", "found 2"])
    #expect(find(.anyOf(candidates([4, 5], "other"), floor: EntryID(4, 0)), from: 8, in: 1...9).last == "found 0")
    // Nothing below the floor is looked at.
    #expect(
      find(.anyOf(candidates([1, 8]), floor: EntryID(4, 0)), from: 8, in: 1...7) == ["7 6 5 4", "4 3 2 1", "found 0"])
  }

  @Test func beginsAgainWhereTheHistoryMovedUnderIt() {
    var locator = Locator(.newest(9), pageLimit: 3)
    let first = [9, 8, 7].map { entry($0, "\($0)") }
    guard case .read(.before(let id), limit: 3) = locator.take(Page(info: nil, entries: Entries(first), more: true))
    else {
      Issue.record("should read on")
      return
    }
    #expect(id == EntryID(7, 0))
    // 7 comes back with another check.
    let moved = [entry(7, "other"), entry(6, "6")]
    guard case .read(.before(nil), limit: 3) = locator.take(Page(info: nil, entries: Entries(moved), more: true)) else {
      Issue.record("should begin again")
      return
    }
    #expect(locator.span == .before(nil))
  }
}
