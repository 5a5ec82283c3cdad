import Testing

@testable import BatonProtocol
@testable import BatonSession

/// Continuity that breaks under an attached device.
@Suite struct CursorResetTests {
  private func live(_ start: AttachRequest.Start, rollup: AttachRequest.Rollup = .auto) -> CursorStand {
    var stand = CursorStand(start, rollup: rollup, holding: 1...3)
    #expect(stand.settled().last == "live 3")
    return stand
  }

  @Test func dropsEverythingAndWaits() {
    var stand = live(.after(.zero))
    stand.deleteAll()
    stand.reset(.deleted)
    #expect(stand.settled() == ["reset deleted from 0 to 0 []", "live 0"])
    stand.write(1...1)
    #expect(stand.steps() == ["tell 1"])
  }

  @Test func tellsTheNewHistoryFromItsStart() {
    var stand = live(.after(.zero))
    stand.deleteAll()
    for id in 2...4 { stand.add(UInt64(id), ["data": "new"]) }
    stand.reset(.diverged)
    #expect(stand.settled() == ["reset diverged from 0 to 0 [2 4]", "join 2 3 4", "live 4"])
  }

  @Test func tellsTheResetBeforeWhatCameAfterIt() {
    var stand = live(.after(.zero), rollup: .window(100))
    stand.deleteAll()
    stand.reset(.deleted)
    stand.write(1...1)
    #expect(stand.settled() == ["reset deleted from 0 to 0 []", "join 1", "live 1"])
  }

  /// The place of a stream that holds nothing is promised, like any other.
  @Test func missesNothingBehindAResetToAnEmptiedStream() {
    var stand = live(.after(.zero))
    stand.add(4)
    stand.trim(to: 0)
    stand.reset(.trimmed)
    #expect(stand.steps() == ["reset trimmed from 0 to 4 []", "read after 4"])
    for id in 5...7 { stand.add(UInt64(id)) }
    stand.trim(to: 1)
    #expect(stand.answered() == ["read after 4 look"])
    #expect(stand.answered() == ["reset trimmed from 0 to 0 [7 7]", "read after 0"])
  }

  @Test func goesBackToTheNewest() {
    var stand = live(.newest(2))
    stand.deleteAll()
    for id in 4...8 { stand.add(UInt64(id)) }
    stand.reset(.diverged)
    #expect(stand.steps() == ["read before end look"])
    #expect(stand.answered() == ["reset diverged from 0 to 6 [4 8]", "read after 6"])
    #expect(stand.answered() == ["join 7 8", "live 8"])
  }

  /// Attached with `$` behind 3, has had 4, 5 and 6; then a failover takes `lost` and other entries take their places.
  private func failedOver(losing lost: ClosedRange<UInt64>) -> CursorStand {
    var stand = live(.end)
    stand.write(4...6)
    #expect(stand.steps() == ["tell 4 5 6"])
    guard var stream = stand.redis.stream("s") else { return stand }
    stream.entries.removeAll { lost.contains($0.id.milliseconds) }
    stream.lastGenerated = stream.entries.last?.id ?? .zero
    stand.redis.keys["s"] = .stream(stream)
    for id in lost { stand.add(id, ["data": "new"]) }
    stand.reset(.diverged)
    return stand
  }

  @Test func goesBackToTheNewestEntryThatStillHolds() {
    var stand = failedOver(losing: 6...6)
    #expect(stand.steps() == ["read before 6 look"])
    #expect(stand.answered() == ["reset diverged from 5 to 5 [1 6]", "read after 5"])
    #expect(stand.answered() == ["join 6", "live 6"])
  }

  /// A device drops whole frames only: an id inside of one is no place to go back to.
  @Test func goesBackToTheEndOfAFrameThatWasSent() {
    var stand = live(.end, rollup: .window(250))
    let line: (UInt64) -> KeyValuePairs<String, String> = { ["data": "\($0)", "response": "r", "n": "\($0 - 3)"] }
    func write(_ ids: ClosedRange<UInt64>) {
      stand.log.apply(.appended(Segment(ids.map { stand.add($0, line($0)) })))
      stand.cursor.isDue = true
    }
    write(4...5)
    #expect(stand.steps() == ["join 4 5"])
    write(6...10)
    #expect(stand.steps() == ["join 6 7 8 9 10"])
    stand.deleteAll()
    for id in 1...3 { stand.add(UInt64(id)) }
    for id in 4...8 { stand.add(UInt64(id), line(UInt64(id))) }
    stand.reset(.diverged)
    #expect(stand.settled() == ["reset diverged from 5 to 5 [1 8]", "join 6 7 8", "live 8"])
  }

  @Test func goesBackToWhereItBegan() {
    // The entry of its own start was never sent to it, so it is no `from`.
    var stand = failedOver(losing: 4...6)
    #expect(stand.settled() == ["reset diverged from 0 to 3 [1 6]", "join 4 5 6", "live 6"])
  }

  @Test func goesBackToTheStartWhereNothingHolds() {
    var stand = failedOver(losing: 2...6)
    #expect(stand.settled() == ["reset diverged from 0 to 0 [1 6]", "join 1 2 3 4", "join 5 6", "live 6"])
  }

  @Test func resetsAgainWhereTheHistoryGoesOnMoving() {
    var stand = live(.after(.zero))
    stand.deleteAll()
    stand.reset(.deleted)
    stand.write(1...1)
    stand.deleteAll()
    stand.reset(.deleted)
    #expect(stand.settled() == ["reset deleted from 0 to 0 []", "live 0"])
  }

  // MARK: between two pages

  /// Has had 1...4 of 1...9 and asked for the next page.
  private func paging() -> CursorStand {
    var stand = CursorStand(.after(.zero), holding: 1...9)
    _ = stand.steps()
    #expect(stand.answered() == ["attached 0 [1 9]", "join 1 2 3 4", "read after 4"])
    return stand
  }

  @Test func noticesATrimBetweenPages() {
    var stand = paging()
    stand.trim(to: 3)
    #expect(stand.answered() == ["read after 4 look"])
    #expect(stand.answered() == ["reset trimmed from 0 to 0 [7 9]", "read after 0"])
    #expect(stand.answered() == ["join 7 8 9", "live 9"])
  }

  @Test func noticesAnotherHistoryBetweenPages() {
    var stand = paging()
    stand.deleteAll()
    for id in 1...9 { stand.add(UInt64(id), ["data": "new"]) }
    #expect(stand.answered() == ["read after 4 look"])
    #expect(stand.answered() == ["reset diverged from 0 to 0 [1 9]", "read after 0"])
  }

  @Test func noticesThatTheStreamIsGoneBetweenPages() {
    var stand = paging()
    stand.deleteAll()
    #expect(stand.answered() == ["read after 4 look"])
    #expect(stand.answered().first == "reset deleted from 0 to 0 []")
  }

  @Test func takesTheNextNumberForNoProof() {
    var stand = CursorStand(.after(.zero))
    for n in 1...9 { stand.add(UInt64(n), ["data": "x", "response": "r", "n": "\(n)"]) }
    stand.open()
    _ = stand.steps()
    #expect(stand.answered() == ["attached 0 [1 9]", "join 1 2 3 4", "read after 4"])
    stand.trim(to: 5)
    #expect(stand.answered() == ["read after 4 look"])
    #expect(stand.answered() == ["reset trimmed from 0 to 0 [5 9]", "read after 0"])
  }

  @Test func goesOnFromTheLastGeneratedIdBetweenPages() {
    var stand = CursorStand(.after(.zero), holding: 1...9)
    stand.pageLimit = 9
    _ = stand.steps()
    stand.log = SessionLog()
    #expect(stand.answered() == ["attached 0 [1 9]", "join 1 2 3 4 5 6 7 8 9", "read after 9"])
    stand.delete(9)
    stand.open()
    #expect(stand.answered() == ["read after 9 look"])
    // 9 was there at the attach: only the tail can say that it is not missing.
    #expect(stand.answered() == ["touch"])
    stand.confirm()
    #expect(stand.steps() == ["live 8"])
  }
}
