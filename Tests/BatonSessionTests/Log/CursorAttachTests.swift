import Testing

@testable import BatonProtocol
@testable import BatonSession

/// From the attach to `live`.
@Suite struct CursorAttachTests {
  private func at(_ id: UInt64, _ data: String? = nil) -> AttachRequest.Start {
    .after(entry(id, data ?? "\(id)").offset)
  }

  @Test func waitsForAStreamThatIsNotThere() {
    var stand = CursorStand(.after(.zero))
    #expect(stand.steps() == ["read after 0 look"])
    #expect(stand.answered() == ["attached 0 []", "live 0"])
    #expect(stand.steps() == [])
    stand.write(1...2)
    #expect(stand.steps() == ["tell 1 2"])
  }

  @Test func pagesFromTheStart() {
    var stand = CursorStand(.after(.zero), holding: 1...9)
    #expect(stand.steps() == ["read after 0 look"])
    #expect(stand.answered() == ["attached 0 [1 9]", "join 1 2 3 4", "read after 4"])
    #expect(stand.answered() == ["join 5 6 7 8", "read after 8"])
    #expect(stand.answered() == ["join 9", "live 9"])
  }

  @Test func goesOnFromTheWindow() {
    var stand = CursorStand(at(5), holding: 1...2)
    stand.write(3...6)
    stand.write(7...9)
    // One entry is read: whether Redis still holds the offset's.
    #expect(stand.steps() == ["read after 5 limit 0 look"])
    #expect(stand.answered() == ["attached 5 [1 9]", "join 6", "join 7 8 9", "live 9"])
  }

  @Test func readsNothingForWhoeverHasEverything() {
    var stand = CursorStand(at(9), holding: 1...9)
    #expect(stand.steps() == ["read after 9 limit 0 look"])
    #expect(stand.answered() == ["attached 9 [1 9]", "live 9"])
  }

  @Test func pagesFromAnOffsetOfHistory() {
    var stand = CursorStand(at(3), holding: 1...9)
    #expect(stand.steps() == ["read after 3 look"])
    #expect(stand.answered() == ["attached 3 [1 9]", "join 4 5 6 7", "read after 7"])
    #expect(stand.answered() == ["join 8 9", "live 9"])
  }

  @Test func leavesHistoryForTheWindowAsSoonAsTheyMeet() {
    var stand = CursorStand(.after(.zero), holding: 1...3)
    stand.write(4...9)
    #expect(stand.steps() == ["read after 0 look"])
    #expect(stand.answered() == ["attached 0 [1 9]", "join 1 2 3 4", "join 5 6 7 8 9", "live 9"])
  }

  @Test func takesTheNewest() {
    var stand = CursorStand(.newest(5), holding: 1...9)
    #expect(stand.steps() == ["read before end look"])
    #expect(stand.answered() == ["read before 6 look"])
    #expect(stand.answered() == ["attached 4 [1 9]", "read after 4"])
    #expect(stand.answered() == ["join 5 6 7 8", "read after 8"])
    #expect(stand.answered() == ["join 9", "live 9"])
  }

  @Test(
    arguments: [
      (AttachRequest.Start.end, 9, "attached 9 [1 9]", "live 9"),
      (.newest(1), 9, "attached 8 [1 9]", "join 9"),
      (.newest(9), 9, "attached 0 [1 9]", "join 1 2 3 4"),
      (.newest(100), 2, "attached 0 [1 2]", "join 1 2"),
      (.response("r"), 2, "attached 0 [1 2]", "join 1 2"),
      (.end, 0, "attached 0 []", "live 0"),
      (.newest(3), 0, "attached 0 []", "live 0"),
      (.response("r"), 0, "attached 0 []", "live 0"),
    ] as [(AttachRequest.Start, UInt64, String, String)])
  func startsWhereItIsTold(_ start: AttachRequest.Start, _ count: UInt64, _ attached: String, _ then: String) {
    var stand = CursorStand(start, holding: count > 0 ? 1...count : nil)
    #expect(Array(stand.settled().prefix(2)) == [attached, then])
  }

  // MARK: the table of PROTOCOL 4

  @Test func continuesWhereTheIdAloneIsGiven() {
    var stand = CursorStand(.after(Offset(id: EntryID(3, 0))), holding: 1...4)
    #expect(stand.settled() == ["attached 3 [1 4]", "join 4", "live 4"])
    #expect(stand.cursor.place.offset.check != nil)
  }

  @Test func saysWhetherItGoesOnWhereTheDeviceWas() {
    func recovered(_ start: AttachRequest.Start, _ change: (inout CursorStand) -> Void = { _ in }) -> Bool? {
      var stand = CursorStand(start, holding: 1...4)
      change(&stand)
      stand.open()
      _ = stand.settled()
      return stand.recovered
    }
    for start in [AttachRequest.Start.after(.zero), .end, .newest(2), .response("r")] {
      #expect(recovered(start) == false, "\(start)")
    }
    #expect(recovered(at(3)) == true)
    #expect(recovered(.after(Offset(id: EntryID(3, 0)))) == true)
    #expect(recovered(at(4)) == true)
    #expect(recovered(at(4)) { $0.delete(4) } == true)
    #expect(recovered(at(4)) { $0.trim(to: 0) } == true)
    #expect(recovered(at(3)) { $0.trim(to: 0) } == false)
    #expect(recovered(at(2)) { $0.trim(to: 1) } == false)
    #expect(recovered(at(2)) { $0.delete(2) } == false)
    #expect(recovered(at(3, "other")) == false)
    #expect(recovered(at(7)) == false)
    #expect(recovered(at(3)) { $0.deleteAll() } == false)
  }

  @Test func saysWhenTheCheckDoesNotFit() {
    var stand = CursorStand(at(3, "other"), holding: 1...4)
    #expect(stand.steps() == ["read after 3 look"])
    #expect(stand.answered() == ["read before 3 limit 0 look"])
    #expect(stand.answered() == ["attached 3 [1 4]", "reset diverged from 0 to 0 [1 4]", "read after 0"])
    #expect(stand.settled() == ["join 1 2 3 4", "live 4"])
  }

  @Test func continuesFromTheLastGeneratedId() {
    var stand = CursorStand(at(4), holding: 1...4)
    stand.delete(4)
    stand.open()
    #expect(stand.settled() == ["attached 3 [1 3]", "touch"])
    stand.confirm()
    #expect(stand.steps() == ["live 3"])
    stand.trim(to: 0)
    stand.cursor = Cursor(stand.cursor.request)
    stand.open()
    // The place of what is gone is not forgotten.
    #expect(stand.settled() == ["attached 4 []", "live 4"])
    #expect(stand.cursor.place == Place(emptyUpTo: EntryID(4, 0)))
  }

  @Test(
    arguments: [AttachRequest.Start.after(.zero), .end, .newest(2), .response("r"), .after(Offset(id: EntryID(4, 0)))])
  func standsBehindTheLastGeneratedIdWhereNothingIsRetained(_ start: AttachRequest.Start) {
    var stand = CursorStand(start, holding: 1...4)
    stand.trim(to: 0)
    stand.open()
    #expect(stand.settled() == ["attached 4 []", "live 4"])
    #expect(stand.cursor.place.offset == Offset(id: EntryID(4, 0)))
    stand.write(5...5)
    #expect(stand.steps() == ["tell 5"])
    // And whoever comes back there after more has come and gone is told.
    stand.add(6)
    stand.trim(to: 1)
    stand.open()
    stand.cursor = Cursor(
      AttachRequest(session: "s", start: .after(Offset(id: EntryID(4, 0))), device: "d"))
    #expect(stand.settled() == ["attached 0 [6 6]", "reset trimmed from 0 to 0 [6 6]", "join 6", "live 6"])
  }

  @Test func saysWhenTheOffsetIsAhead() {
    var stand = CursorStand(at(7), holding: 1...4)
    #expect(
      stand.settled() == ["attached 4 [1 4]", "reset ahead from 0 to 0 [1 4]", "join 1 2 3 4", "live 4"])
  }

  @Test func saysWhenTheOffsetWasTrimmed() {
    var stand = CursorStand(at(2), holding: 1...5)
    stand.trim(to: 2)
    #expect(stand.settled() == ["attached 0 [4 5]", "reset trimmed from 0 to 0 [4 5]", "join 4 5", "live 5"])
    stand.cursor = Cursor(stand.cursor.request)
    stand.trim(to: 0)
    stand.open()
    #expect(stand.settled() == ["attached 5 []", "reset trimmed from 0 to 5 []", "live 5"])
  }

  @Test func saysWhenTheOffsetsEntryIsGoneFromTheMiddle() {
    var stand = CursorStand(at(3), holding: 1...4)
    stand.delete(3)
    #expect(stand.settled() == ["attached 2 [1 4]", "reset diverged from 0 to 0 [1 4]", "join 1 2 4", "live 4"])
  }

  @Test func saysWhenTheStreamIsGone() {
    var stand = CursorStand(at(3), holding: 1...4)
    stand.deleteAll()
    stand.open()
    #expect(stand.settled() == ["attached 0 []", "reset deleted from 0 to 0 []", "live 0"])
    stand.write(1...1)
    #expect(stand.steps() == ["tell 1"])
  }

  @Test func closesOnAnotherType() {
    var stand = CursorStand(at(3))
    stand.redis.keys["s"] = .other
    #expect(stand.settled() == ["wrong type"])
    #expect(stand.steps() == [])
  }

  @Test func isRefusedWhileTheStoreIsOutOfReach() {
    var stand = CursorStand(at(3), holding: 1...4)
    _ = stand.steps()
    #expect(stand.answered(.unavailable) == ["unavailable"])
    #expect(stand.steps() == [])
  }

  // MARK: live

  @Test func isLiveNotBeforeItHasWhatTheStreamHeld() {
    var stand = CursorStand(at(3), holding: 1...3)
    stand.add(4)
    stand.add(5)
    _ = stand.steps()
    // Redis held 5 at the attach; the tail has not brought it yet.
    #expect(stand.answered() == ["attached 3 [1 5]", "touch"])
    #expect(stand.steps() == [])
    stand.log.apply(.appended(Segment([entry(4, "4")])))
    #expect(stand.steps() == ["join 4"])
    stand.log.apply(.appended(Segment([entry(5, "5")])))
    #expect(stand.steps() == ["join 5", "live 5"])
  }

  @Test func isLiveOnceTheTailConfirmsThatThereIsNoMore() {
    var stand = CursorStand(at(3), holding: 1...3)
    stand.add(4)
    _ = stand.steps()
    #expect(stand.answered() == ["attached 3 [1 4]", "touch"])
    stand.delete(4)
    stand.confirm()
    #expect(stand.steps() == ["live 3"])
  }

  @Test func asksTheTailWhereHistoryAndWindowDoNotMeet() {
    var stand = CursorStand(.after(.zero), holding: 1...3)
    stand.add(4)
    stand.log = SessionLog()
    // The tail has not looked yet.
    #expect(stand.settled() == ["attached 0 [1 4]", "join 1 2 3 4", "touch"])
    stand.open()
    #expect(stand.steps() == ["live 4"])
  }

  @Test func looksAgainWhereTheConfirmedWindowDoesNotHoldItsPlace() {
    var stand = CursorStand(.after(.zero), holding: 1...3)
    _ = stand.steps()
    stand.log = SessionLog()
    stand.log.apply(.opened(base: entry(2, "other").place))
    #expect(stand.answered() == ["attached 0 [1 3]", "join 1 2 3", "touch"])
    stand.confirm()
    #expect(stand.steps() == ["read after 3 look"])
  }

  @Test func doesNotTakeAnOlderHistoryForTheStart() {
    var stand = CursorStand(at(7))
    stand.write(1...2)
    // The gateway's window holds 1 and 2; Redis was restored to another state, and the tail does not know it yet.
    stand.deleteAll()
    for id in 3...5 { stand.add(UInt64(id)) }
    #expect(stand.steps() == ["read after 7 look"])
    #expect(stand.answered() == ["attached 5 [3 5]", "reset ahead from 0 to 0 [3 5]", "read after 0"])
    #expect(stand.answered() == ["join 3 4 5", "touch"])
  }

  @Test func tellsNothingAgainThatTheWindowStillHolds() {
    var stand = CursorStand(at(3))
    stand.write(1...3)
    stand.trim(to: 0)
    #expect(stand.steps() == ["read after 3 limit 0 look"])
    #expect(stand.answered() == ["attached 3 []", "live 3"])
    stand.write(4...4)
    #expect(stand.steps() == ["tell 4"])
  }

  @Test func missesNothingBehindAnOffsetWhoseEntryIsGone() {
    var stand = CursorStand(at(3), holding: 1...3)
    stand.trim(to: 0)
    _ = stand.steps()
    #expect(stand.answered() == ["attached 3 []", "live 3"])
    for id in 4...6 { stand.add(UInt64(id)) }
    stand.trim(to: 1)
    stand.reset(.trimmed)
    #expect(stand.steps() == ["reset trimmed from 0 to 0 [6 6]", "read after 0"])
    #expect(stand.answered() == ["join 6", "live 6"])
  }

  @Test(arguments: [AttachRequest.Start.end, .after(entry(3, "3").offset)])
  func tellsNothingAgainThatWasDeletedAndTheWindowStillHolds(_ start: AttachRequest.Start) {
    var stand = CursorStand(start)
    stand.write(1...3)
    stand.delete(3)
    #expect(stand.steps().count == 1)
    #expect(stand.answered() == ["attached 2 [1 2]", "touch"])
    stand.write(4...4)
    stand.confirm()
    #expect(stand.steps() == ["join 4", "live 4"])
  }

  @Test func takesTheWindowFromTheStartOnlyWhereTheTailHasReadSince() {
    var stand = CursorStand(.after(.zero))
    stand.write(1...2)
    stand.deleteAll()
    _ = stand.steps()
    #expect(stand.answered() == ["attached 0 []", "touch"])
    #expect(stand.steps() == [])
    stand.reset(.deleted)
    stand.confirm()
    #expect(stand.steps() == ["live 0"])
    // The same, but the entries came after the page: they are told.
    stand = CursorStand(.after(.zero))
    _ = stand.steps()
    let page = PageOutcome.page(Page(info: .absent, entries: [], more: false))
    stand.write(1...2)
    #expect(stand.answered(page) == ["attached 0 []", "touch"])
    stand.confirm()
    #expect(stand.steps() == ["join 1 2", "live 2"])
  }

  @Test func joinsTheWindowOnlyBehindWhatWasDeletedSingly() {
    var stand = CursorStand(at(3), holding: 1...3)
    stand.write(4...9)
    stand.delete(6)
    #expect(stand.steps() == ["read after 3 limit 0 look"])
    #expect(stand.answered() == ["attached 3 [1 9]", "read after 3"])
    #expect(stand.answered() == ["join 4 5 7 8", "join 9", "live 9"])
  }
}
