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
    // It reads what lies before its place, and tells nothing of it.
    #expect(stand.answered() == ["attached 4 [1 4]", "read after 0"])
    #expect(stand.answered() == ["live 4"])
    add("end q", 5, to: &stand)
    #expect(stand.steps() == ["tell 5", "finish"])
  }

  @Test func surveysPageByPage() {
    let lines = ["start q", "start r"] + Array(repeating: "token r", count: 8) + ["end r", "note"]
    var stand = stand(.after(Offset(id: EntryID(11, 0))), lines)
    #expect(stand.steps() == ["read after 11 look"])
    #expect(stand.answered() == ["attached 11 [1 12]", "read after 0"])
    #expect(stand.answered() == ["read after 4"])
    #expect(stand.answered() == ["read after 8"])
    #expect(stand.answered() == ["read after 11"])
    #expect(stand.answered() == ["join 12", "live 12"])
    add("end q", 13, to: &stand)
    #expect(stand.steps() == ["tell 13", "finish"])
  }

  @Test func closesAtOnceAtTheOffsetOfAnEnd() {
    var stand = stand(.after(Offset(id: EntryID(2, 0))), ["start r", "end r"])
    #expect(stand.settled() == ["attached 2 [1 2]", "live 2", "finish"])
  }

  @Test func waitsAtAnyOtherOffset() {
    var stand = stand(.after(Offset(id: EntryID(3, 0))), ["start r", "end r", "note"])
    #expect(stand.settled() == ["attached 3 [1 3]", "live 3"])
    add("end", 4, to: &stand)
    #expect(stand.steps() == ["tell 4", "finish"])
  }

  @Test func waitsBehindTheEndOfTheStreamToo() {
    var stand = stand(.end, ["start r", "note"])
    #expect(stand.settled() == ["attached 2 [1 2]", "live 2"])
    add("end q", 3, to: &stand)
    #expect(stand.steps() == ["tell 3"])
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
