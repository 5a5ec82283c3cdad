import Testing

@testable import BatonProtocol
@testable import BatonSession

/// Entries as they come, and a device that is too slow for them.
@Suite struct CursorLiveTests {
  /// Attached behind 1...3 and live.
  private func live(_ rollup: AttachRequest.Rollup = .auto) -> CursorStand {
    var stand = CursorStand(.after(.zero), rollup: rollup, holding: 1...3)
    #expect(stand.settled().last == "live 3")
    return stand
  }

  @Test func tellsEntriesOneByOneWhenLive() {
    var stand = live()
    stand.write(4...4)
    stand.write(5...6)
    #expect(stand.steps() == ["tell 4", "tell 5 6"])
    #expect(stand.steps() == [])
  }

  @Test func neverJoinsWithRollupOff() {
    var stand = CursorStand(.after(.zero), rollup: .off, holding: 1...3)
    #expect(stand.settled() == ["attached 0 [1 3]", "tell 1 2 3", "live 3"])
    stand.write(4...5)
    #expect(stand.steps() == ["tell 4 5"])
  }

  @Test func joinsOverAWindowOfTime() {
    var stand = live(.window(100))
    stand.write(4...4)
    #expect(stand.steps() == [])
    stand.write(5...6)
    #expect(stand.steps() == [])
    stand.cursor.isDue = true
    #expect(stand.steps() == ["join 4 5 6"])
    // A window that passed without entries is over, too.
    stand.cursor.isDue = true
    #expect(stand.steps() == [])
    stand.write(7...7)
    #expect(stand.steps() == [])
    stand.cursor.isDue = true
    #expect(stand.steps() == ["join 7"])
  }

  /// A device that waits for its rollup window takes early what would be gone by then, and is not behind.
  @Test func takesEarlyWhatTheWindowLetsGo() {
    var stand = live(.window(1000))
    stand.write(4...5)
    stand.log.willShrink(toBytes: 1000)
    #expect(stand.steps() == [])
    stand.write(6...7)
    stand.log.willShrink(toBytes: 250)
    #expect(stand.steps() == ["join 4 5 6 7"])
    stand.log.shrink(toBytes: 250)
    stand.write(8...8)
    stand.log.willShrink(toBytes: 250)
    #expect(stand.steps() == [])
    stand.log.shrink(toBytes: 250)
    stand.cursor.isDue = true
    #expect(stand.steps() == ["join 8"])
  }

  /// What came and went unseen while the device was slow is not taken for what came first.
  @Test func missesNotWhatCameBeforeTheStreamWasEmptiedOnceMore() {
    var stand = CursorStand(.after(.zero))
    #expect(stand.settled() == ["attached 0 []", "live 0"])
    stand.write(1...3)
    stand.trim(to: 0)
    stand.log.apply(.rebased(Place(emptyUpTo: EntryID(3, 0))))
    stand.write(4...5)
    stand.log.shrink(toBytes: 0)
    #expect(stand.steps() == ["behind", "read after 0"])
    #expect(stand.answered() == ["read after 0 look"])
    #expect(stand.answered() == ["reset trimmed from 0 to 0 [4 5]", "read after 0"])
  }

  @Test func joinsAtOnceWhileBehindWhateverTheWindow() {
    var stand = CursorStand(.after(.zero), rollup: .window(1000), holding: 1...3)
    stand.write(4...6)
    #expect(stand.settled() == ["attached 0 [1 6]", "join 1 2 3 4", "join 5 6", "live 6"])
  }

  @Test func fallsBehindAndIsCaughtUp() {
    var stand = live()
    stand.write(4...6)
    stand.log.shrink(toBytes: 0)
    stand.write(7...8)
    #expect(stand.steps() == ["behind", "read after 3"])
    #expect(stand.answered() == ["join 4 5 6 7", "join 8", "live 8"])
  }

  @Test func saysBehindOnce() {
    var stand = live()
    stand.write(4...9)
    stand.log.shrink(toBytes: 0)
    #expect(stand.steps() == ["behind", "read after 3"])
    #expect(stand.answered() == ["join 4 5 6 7", "read after 7"])
    stand.write(10...14)
    stand.log.shrink(toBytes: 0)
    #expect(stand.settled() == ["join 8 9 10 11", "join 12 13 14", "live 14"])
  }

  @Test func fallsBehindFromTheStart() {
    var stand = CursorStand(.after(.zero))
    #expect(stand.settled() == ["attached 0 []", "live 0"])
    stand.write(1...3)
    stand.log.shrink(toBytes: 0)
    #expect(stand.steps() == ["behind", "read after 0"])
    #expect(stand.answered() == ["join 1 2 3", "live 3"])
  }

  @Test func missesNotWhatWasTrimmedBeforeItCouldTakeIt() {
    var stand = CursorStand(.after(.zero))
    _ = stand.settled()
    stand.write(1...3)
    stand.log.shrink(toBytes: 0)
    stand.trim(to: 2)
    #expect(stand.steps() == ["behind", "read after 0"])
    // 2 comes first, and it was live at the start: 1 was promised.
    #expect(stand.answered() == ["read after 0 look"])
    #expect(stand.answered() == ["reset trimmed from 0 to 0 [2 3]", "read after 0"])
    #expect(stand.answered() == ["join 2 3", "live 3"])
  }

  @Test func saysStalledAndLiveAgain() {
    var stand = live()
    stand.log.apply(.stalled)
    #expect(stand.steps() == ["stalled"])
    #expect(stand.steps() == [])
    stand.write(4...5)
    #expect(stand.steps() == ["join 4 5"])
    stand.confirm()
    #expect(stand.steps() == ["live 5"])
    stand.log.apply(.stalled)
    #expect(stand.steps() == ["stalled"])
  }

  @Test func isNotLiveWhileTheStoreIsOutOfReach() {
    var stand = CursorStand(.after(.zero), holding: 1...3)
    stand.log.apply(.stalled)
    #expect(stand.settled() == ["attached 0 [1 3]", "stalled", "join 1 2 3"])
    stand.confirm()
    #expect(stand.steps() == ["live 3"])
  }

  @Test func isNotLiveWhileItIsHeld() {
    var stand = CursorStand(.after(.zero), holding: 1...3)
    stand.log.apply(.held(true))
    #expect(stand.settled() == ["attached 0 [1 3]", "join 1 2 3"])
    stand.log.apply(.held(false))
    #expect(stand.steps() == ["live 3"])
  }

  @Test func closesWhenTheKeyTakesAnotherType() {
    var stand = live()
    stand.log.apply(.wrongType)
    #expect(stand.steps() == ["wrong type"])
    stand.write(4...4)
    #expect(stand.steps() == [])
  }

  @Test func readsAgainOnceTheStoreIsBack() {
    var stand = CursorStand(.after(.zero), holding: 1...9)
    _ = stand.steps()
    #expect(stand.answered() == ["attached 0 [1 9]", "join 1 2 3 4", "read after 4"])
    #expect(stand.answered(.unavailable) == ["touch"])
    #expect(stand.steps() == [])
    stand.confirm()
    #expect(stand.steps() == ["read after 4"])
    #expect(stand.settled() == ["join 5 6 7 8", "join 9", "live 9"])
  }

  @Test func goesOnFromWhereTheStreamEndsWhenItsLastWasDeleted() {
    var stand = live()
    stand.delete(3)
    stand.log.apply(.rebased(entry(2, "2").place))
    #expect(stand.steps() == [])
    stand.write(4...4)
    #expect(stand.steps() == ["tell 4"])
  }

  // MARK: the newest segment in one call

  /// Whether the log's newest entry is taken, and what is done after it.
  private func newest(_ stand: CursorStand, _ change: (inout CursorStand) -> Void = { _ in }) -> (Bool, [String]) {
    var stand = stand
    stand.write(4...4)
    change(&stand)
    guard let (segment, _) = stand.log.segment(at: stand.log.next - 1) else { return (false, stand.steps()) }
    let isTaken = stand.cursor.takesNewest(segment, at: stand.log.next - segment.entries.count, stand.log.standing)
    return (isTaken, stand.steps())
  }

  @Test func takesTheNewestAtOnceWhereNothingElseIsToBeDone() {
    #expect(newest(live()) == (true, []))
    var stand = live()
    stand.write(4...4)
    guard let (segment, _) = stand.log.segment(at: stand.log.next - 1) else { return #expect(Bool(false)) }
    let isTaken = stand.cursor.takesNewest(segment, at: stand.log.next - 1, stand.log.standing)
    let isTakenAgain = stand.cursor.takesNewest(segment, at: stand.log.next - 1, stand.log.standing)
    #expect(isTaken && !isTakenAgain && show(stand.cursor.place.offset) == "4")
    stand.write(5...5)
    #expect(stand.steps() == ["tell 5"], "and goes on from there")
  }

  @Test func takesNothingWhereThereIsMoreToDo() {
    #expect(newest(live()) { $0.write(5...5) } == (false, ["tell 4", "tell 5"]))
    let stalled = newest(live()) { $0.log.apply(.stalled) }
    #expect(!stalled.0 && stalled.1.first == "stalled")
    #expect(newest(live()) { $0.log.apply(.wrongType) } == (false, ["wrong type"]))
    #expect(newest(live(.window(100))) == (false, []))
    var until = CursorStand(.after(.zero), untilEnd: true, holding: 1...3)
    #expect(until.settled().last == "live 3" && newest(until) == (false, ["tell 4"]))
    // The place stands, the history is another one.
    let afterReset = newest(live()) { stand in
      stand.reset(.diverged)
      stand.write(5...5)
    }
    #expect(!afterReset.0 && afterReset.1.first?.hasPrefix("reset diverged") == true)
  }
}
