import Testing

@testable import BatonProtocol
@testable import BatonSession

/// `until=end` and `response=R`.
@Suite struct CursorFinishTests {
  /// Entries 1, 2, … of these: `start r`, `token r`, `end r`, `note` …
  private func stand(
    _ start: AttachRequest.Start, untilEnd: Bool = true, _ entries: [String]
  ) -> CursorStand {
    var stand = CursorStand(start, untilEnd: untilEnd)
    for (index, line) in entries.enumerated() { add(line, UInt64(index + 1), to: &stand, isLive: false) }
    stand.open()
    return stand
  }

  private func add(_ line: String, _ id: UInt64, to stand: inout CursorStand, isLive: Bool = true) {
    let words = line.split(separator: " ").map(String.init)
    let fields: KeyValuePairs<String, String> =
      words.count == 2 ? ["event": words[0], "response": words[1]] : ["event": words[0], "data": "x"]
    if isLive { stand.write(id, fields) } else { stand.add(id, fields) }
  }

  @Test func closesOnceLiveAndNothingIsOpen() {
    var stand = stand(.after(.zero), ["start r", "token r", "end r"])
    #expect(stand.settled() == ["attached 0 [1 3]", "join 1 2 3", "live 3", "finish"])
    #expect(stand.steps() == [])
  }

  @Test func staysOpenUnlessTold() {
    var stand = stand(.after(.zero), untilEnd: false, ["start r", "end r"])
    #expect(stand.settled() == ["attached 0 [1 2]", "join 1 2", "live 2"])
  }

  @Test func waitsForTheFirstEnd() {
    var stand = stand(.after(.zero), ["input", "note"])
    #expect(stand.settled() == ["attached 0 [1 2]", "join 1 2", "live 2"])
    add("start r", 3, to: &stand)
    #expect(stand.steps() == ["tell 3"])
    add("cancelled r", 4, to: &stand)
    #expect(stand.steps() == ["tell 4", "finish"])
  }

  @Test func waitsForAllThatAreOpen() {
    var stand = stand(.after(.zero), ["start r", "start q", "end r"])
    #expect(stand.settled() == ["attached 0 [1 3]", "join 1 2 3", "live 3"])
    add("error q", 4, to: &stand)
    #expect(stand.steps() == ["tell 4", "finish"])
  }

  @Test func knowsWhatWasOpenBeforeItsOffset() {
    var stand = stand(.after(Offset(id: EntryID(4, 0))), ["start q", "start r", "token r", "end r"])
    #expect(stand.steps() == ["read after 4 limit 0 look"])
    // Nothing else keeps it: it reads backwards what lies before its place, and tells nothing of it.
    #expect(stand.answered() == ["attached 4 [1 4]", "live 4", "read before 4"])
    #expect(stand.cursor.isFinishing)
    #expect(stand.answered() == [])
    #expect(!stand.cursor.isFinishing)
    add("end q", 5, to: &stand)
    #expect(stand.steps() == ["tell 5", "finish"])
  }

  @Test func looksBackNoSoonerThanItHasTo() {
    let lines = ["start q", "start r"] + Array(repeating: "token r", count: 8) + ["note", "note"]
    var stand = stand(.after(Offset(id: EntryID(11, 0))), lines)
    #expect(stand.steps() == ["read after 11 look"])
    #expect(stand.answered() == ["attached 11 [1 12]", "join 12", "live 12"])
    add("end r", 13, to: &stand)
    #expect(stand.steps() == ["tell 13", "read before 11"])
    #expect(stand.answered() == ["read before 7"])
    // What comes meanwhile does not wait.
    add("start p", 14, to: &stand)
    #expect(stand.steps() == ["tell 14"])
    #expect(stand.answered() == [])
    add("end p", 15, to: &stand)
    #expect(stand.steps() == ["tell 15", "read before 3"])
    #expect(stand.answered() == [])
    add("end q", 16, to: &stand)
    #expect(stand.steps() == ["tell 16", "finish"])
  }

  @Test func asksAgainForWhatTheStoreFailedToTell() {
    var stand = stand(.after(Offset(id: EntryID(1, 0))), ["note", "end r"])
    #expect(stand.steps() == ["read after 1 look"])
    #expect(stand.answered() == ["attached 1 [1 2]", "join 2", "live 2", "read before 1"])
    #expect(stand.answered(.unavailable) == ["touch"])
    add("start q", 3, to: &stand)
    #expect(stand.steps() == ["tell 3"])
    add("end q", 4, to: &stand)
    #expect(stand.steps() == ["tell 4"])
    stand.confirm()
    #expect(stand.steps() == ["read before 1"])
    #expect(stand.answered() == ["finish"])
  }

  @Test func takesNoAnswerOfTheHistoryBeforeAReset() {
    var stand = stand(.newest(1), ["start r", "note", "end q"])
    #expect(stand.settled() == ["attached 2 [1 3]", "join 3", "live 3"])
    stand = self.stand(.newest(1), ["note", "note", "end q"])
    #expect(stand.steps() == ["read before end look"])
    #expect(stand.answered() == ["attached 2 [1 3]", "read after 2"])
    #expect(stand.answered() == ["join 3", "live 3", "read before 2"])
    stand.deleteAll()
    for (id, line) in [(4, "start r"), (5, "note"), (6, "end q")] { add(line, UInt64(id), to: &stand, isLive: false) }
    stand.reset(.diverged)
    #expect(stand.steps() == [])
    #expect(stand.answered(.page(Page(info: nil, entries: [], more: false))) == ["read before end look"])
    #expect(stand.settled() == ["reset diverged from 0 to 5 [4 6]", "join 6", "live 6"])
    add("end r", 7, to: &stand)
    #expect(stand.steps() == ["tell 7", "finish"])
  }

  @Test func closesAtOnceAtTheOffsetOfAnEnd() {
    var stand = stand(.after(Offset(id: EntryID(2, 0))), ["start r", "end r"])
    #expect(stand.settled() == ["attached 2 [1 2]", "live 2", "finish"])
  }

  @Test func waitsAtAnyOtherOffset() {
    var stand = stand(.after(Offset(id: EntryID(3, 0))), ["start r", "end r", "note"])
    #expect(stand.settled() == ["attached 3 [1 3]", "live 3"])
    add("end", 4, to: &stand)
    #expect(stand.steps() == ["tell 4", "read before 3"])
    #expect(stand.answered() == ["finish"])
  }

  @Test func waitsBehindTheEndOfTheStreamToo() {
    var stand = stand(.end, ["start r", "note"])
    #expect(stand.settled() == ["attached 2 [1 2]", "live 2"])
    add("end q", 3, to: &stand)
    #expect(stand.steps() == ["tell 3", "read before 2"])
    #expect(stand.answered() == [])
    add("end r", 4, to: &stand)
    #expect(stand.steps() == ["tell 4", "finish"])
  }

  @Test func beginsAnewAfterAReset() {
    var stand = stand(.after(.zero), ["start r", "start q", "end q"])
    #expect(stand.settled().last == "live 3")
    stand.deleteAll()
    stand.reset(.deleted)
    #expect(stand.settled() == ["reset deleted from 0 to 0 []", "live 0"])
    add("start p", 1, to: &stand)
    add("end p", 2, to: &stand)
    #expect(stand.steps() == ["tell 1", "tell 2", "finish"])
  }

  // MARK: response=R

  @Test func followsOneResponseToItsEnd() {
    var stand = stand(.response("r"), untilEnd: false, ["start q", "start r", "end q"])
    #expect(stand.settled() == ["attached 0 [1 3]", "join 1 2 3", "live 3"])
    add("start p", 4, to: &stand)
    add("end r", 5, to: &stand)
    #expect(stand.steps() == ["tell 4", "tell 5", "finish"])
  }

  @Test func waitsForAResponseThatIsNotThere() {
    var stand = stand(.response("r"), untilEnd: false, ["start q", "end q", "end"])
    #expect(stand.settled() == ["attached 0 [1 3]", "join 1 2 3", "live 3"])
    add("end r", 4, to: &stand)
    #expect(stand.steps() == ["tell 4", "finish"])
  }

  @Test func closesAtOnceForAResponseThatIsDone() {
    var stand = stand(.response("r"), untilEnd: false, ["start r", "end r", "start q"])
    #expect(stand.settled() == ["attached 0 [1 3]", "join 1 2 3", "live 3", "finish"])
  }
}
