import BatonProtocol
import Testing

@testable import BatonCheck

/// The least history that shows each kind of finding.
@Suite struct FindingTests {
  private let five = (1...5).map { delta($0) }

  private func frames(_ change: (inout [DeviceFrame]) -> Void) -> [DeviceFrame] {
    var frames = five.map { frame($0) } + [frame(end(6))]
    change(&frames)
    return [attached()] + frames
  }

  private func judged(finished: Bool = false, _ change: (inout [DeviceFrame]) -> Void) -> [String] {
    var story = Story.whole()
    story.device(frames(change), finished: finished)
    return story.judged()
  }

  // MARK: lost

  @Test func lostInTheStream() {
    var story = Story.whole()
    story.stream?.remove(at: 3)
    story.stream?.removeLast()
    #expect(story.judged() == ["lost stream 4", "lost stream"])
  }

  @Test func lostAtTheEndOfTheStream() {
    var story = Story.whole()
    story.stream?.removeSubrange(3...)
    #expect(story.judged() == ["lost stream 4", "lost stream 5", "lost stream"])
  }

  @Test func lostInTheBeginningAlthoughTheStartIsThere() {
    var story = Story.whole()
    story.stream?[0] = StreamEntry(id: EntryID(1, 0), pairs: fields(["event": "start", "response": "r"]))
    story.deletions = [(.trimmed(before: EntryID(1, 0)), 1)]
    #expect(story.judged() == ["lost stream 1"])
  }

  @Test func passedOverBeforeADevice() {
    #expect(judged { $0.remove(at: 2) } == ["lost d 3-0 3"])
    #expect(judged { $0.removeFirst() } == ["lost d 1-0 1"])
  }

  @Test func passedOverBeforeLive() {
    var story = Story.whole()
    story.device([attached(), frame(five[0]), .live(five[2].offset)])
    #expect(story.judged() == ["lost d 2-0 2", "lost d 3-0 3"])
  }

  @Test func notShownAlthoughAllHadCome() {
    #expect(judged(finished: true) { $0.removeLast() } == ["lost d 6-0"])
    #expect(judged { $0.removeLast() } == [])
  }

  @Test func notShownToTheEndWhereThatIsAsked() {
    var story = Story.whole()
    story.options.toEnd = true
    story.device(frames { $0.removeLast(2) })
    story.device([], asked: .init(device: "e"))
    #expect(story.judged() == ["lost d 5-0 5", "lost d 6-0"] + (1...5).map { "lost e \($0)-0 \($0)" } + ["lost e 6-0"])
    // Who begins anew may come to it then.
    story.device(frames { _ in })
    story.device(frames { _ in }, asked: .init(device: "e"))
    #expect(story.judged() == [])
  }

  @Test func lostBeforeADropOfAll() {
    var story = Story.whole()
    story.device(
      [attached(), frame(five[0]), frame(five[2]), .reset(reason: "trimmed", from: .zero, offset: .zero)]
        + five.map { frame($0) })
    #expect(story.judged() == ["lost d 2-0 2"])
  }

  @Test func lostWhereNoStreamWasRecorded() {
    var story = Story.whole()
    story.stream = nil
    story.device(frames { $0.remove(at: 2) })
    #expect(story.judged() == ["lost d 3"])
  }

  @Test func lostBehindAnOffset() {
    var story = Story.whole()
    story.device([attached(five[1].offset), frame(five[3])], asked: .init(device: "d", start: .after(five[1].offset)))
    #expect(story.judged() == ["lost d 3-0 3"])
  }

  /// What nobody may get by with: numbers that would be counted for ever.
  @Test func acknowledgementsBeyondAllMeasure() {
    var story = Story.whole()
    story.producers[0].events.append((.acknowledged(through: 1 << 52, end: nil, id: nil), 0))
    #expect(story.judged().count == 100_000)
  }

  // MARK: doubled and reordered

  @Test func shownTwice() {
    #expect(judged { $0.insert($0[2], at: 3) } == ["doubled d 3-0 3"])
    #expect(judged { $0.insert($0[0], at: 4) } == ["doubled d 1-0 1"])
  }

  @Test func shownAgainInAJoinedFrame() {
    #expect(judged { $0[2] = frame(five[1], five[2]) } == ["doubled d 3-0 3"])
  }

  @Test func appendedAgainAndShownTwice() {
    var story = Story.whole()
    let again = delta(5, at: 15)
    story.stream = Array(five[..<4]) + [again, end(16)]
    story.device(.all(five) + [frame(again), frame(end(16))])
    #expect(story.judged() == ["doubled d 15-0 5", "undisclosed d 15-0 5"])
  }

  @Test func twiceInTheStream() {
    var story = Story.whole()
    story.stream = five + [delta(5, at: 6), end(7), end(8)]
    story.device(.all(story.stream ?? []))
    #expect(story.judged() == ["doubled stream 6-0 5", "doubled stream 8-0"])
  }

  @Test func shownInAnotherOrder() {
    #expect(judged { $0.swapAt(1, 2) } == ["reordered d 2-0 2"])
    #expect(judged { $0.swapAt(4, 5) } == ["reordered d 5-0 5"])
  }

  @Test func inAnotherOrderInTheStream() {
    var story = Story.whole()
    story.stream = [delta(1), delta(3, at: 2), delta(2, at: 3), delta(4), delta(5), end(6)]
    #expect(story.judged() == ["reordered stream 3-0 2"])
  }

  // MARK: foreign

  @Test func anotherText() {
    #expect(judged { $0[2] = five[2].changed { $0.data = Digest("x") } } == ["foreign d 3-0 3"])
    #expect(judged { $0[2] = five[2].changed { $0.fields = 1 } } == ["foreign d 3-0 3"])
    #expect(judged { $0[2] = five[2].changed { $0.response = "q" } } == ["foreign d 3-0 3"])
    #expect(judged { $0[5] = end(6).changed { $0.event = "cancelled" } } == ["foreign d 6-0"])
  }

  @Test func anotherTextInAJoinedFrame() {
    var other = delta(3)
    other.shown.data = Digest("x")
    #expect(judged { $0.replaceSubrange(1...2, with: [frame(five[1], other)]) } == ["foreign d 3-0 3"])
  }

  @Test func aWrongCheck() {
    #expect(judged { $0[2] = five[2].changed { $0.offset.check = 7 } } == ["foreign d 3-0 3"])
  }

  @Test func anEntryThatNobodyMeant() {
    #expect(judged { $0.insert(frame(delta(9, at: 9)), at: 6) } == ["foreign d 9-0 9"])
    #expect(judged { $0.insert(frame(delta(1, at: 9, response: "q")), at: 6) } == ["foreign d 9-0 1"])
  }

  @Test func whatNobodyMeantInTheStream() {
    var story = Story.whole()
    story.stream = five + [delta(6, "x"), end(7), delta(1, at: 8, response: "q")]
    #expect(story.judged() == ["foreign stream 6-0 6", "foreign stream 8-0 1"])
    story.options.hasUnrecordedProducers = true
    #expect(story.judged() == [])
  }

  @Test func aDeltaWithoutANumber() {
    var story = Story.whole()
    story.stream = five + [StreamEntry(id: EntryID(6, 0), pairs: fields(["response": "r", "data": "x"])), end(7)]
    #expect(story.judged() == ["foreign stream 6-0"])
  }

  @Test func anEndThatNobodyMeant() {
    var story = Story.whole()
    story.stream = five + [StreamEntry(id: EntryID(6, 0), pairs: fields(["event": "error", "response": "r"]))]
    #expect(story.judged() == ["foreign stream 6-0", "lost stream"])
  }

  @Test func anotherSession() {
    var story = Story.whole()
    story.device([attached(session: "other")])
    #expect(story.judged() == ["foreign d 0-0"])
  }

  @Test func whatNoStreamHasAndNobodyRecorded() {
    var story = Story()
    story.stream = [delta(1)]
    story.device([attached(), frame(delta(1)), frame(delta(2))])
    #expect(story.judged() == ["foreign d 2-0 2"])
  }

  @Test func aSkippedOfAnotherSize() {
    #expect(judged { $0[2] = .skipped(five[2].offset, bytes: 1 << 20) } == ["foreign d 3-0"])
  }

  // MARK: undisclosed

  @Test func anAttachThatMovesTheDevice() {
    var story = Story.whole()
    story.stream = Array(five[3...]) + [end(6)]
    story.deletions = [(.trimmed(before: EntryID(4, 0)), 1)]
    story.device([attached(), frame(five[0]), attached(five[3].offset), frame(five[4])])
    #expect(story.judged() == ["undisclosed d 5-0 5", "lost d 4-0 4"])
  }

  @Test func anAttachToAnotherEntryOfTheSameId() {
    var story = Story.whole()
    var other = five[1].offset
    other.check = 7
    story.device([attached(), frame(five[0]), frame(five[1]), attached(other), frame(five[2])])
    #expect(story.judged() == ["undisclosed d 3-0 3"])
  }

  @Test func anotherHistoryWithoutAReset() {
    var story = Story.whole()
    let again = [delta(4, at: 14), delta(5, at: 15), end(16)]
    story.stream = Array(five[..<3]) + again
    story.device(
      [attached()] + five.map { frame($0) } + [
        frame(again[2]), .reset(reason: "diverged", from: .zero, offset: .zero),
      ])
    #expect(story.judged() == ["undisclosed d 16-0"])
  }

  @Test func anotherHistoryThatNobodyEverTold() {
    var story = Story.whole()
    story.stream = Array(five[..<4])
    story.producers = []
    story.produced(5, ends: false)
    story.device([attached()] + five.map { frame($0) })
    #expect(story.judged() == ["lost stream 5"])
    story.options.toEnd = true
    #expect(story.judged() == ["lost stream 5", "undisclosed d 5-0 5"])
  }

  @Test func aDeletionWithoutAReset() {
    var story = Story.whole()
    story.stream = [delta(1, at: 21, response: "q"), end(22, response: "q")]
    story.producers.append(("q", [(.delta(n: 1, Digest("t1 ")), 20), (.end("end", data: nil), 20)]))
    story.deletions = [(.deletedSession, 10)]
    story.device(.all(five) + [frame(delta(1, at: 21, response: "q"))])
    #expect(story.judged() == ["undisclosed d 21-0 1"])
  }

  @Test func aJoinedFrameAcrossAHole() {
    var story = Story.whole()
    story.stream = [five[0], note(2), five[2], five[3], five[4], end(6)]
    story.producers = []
    story.produced(5, ends: false)
    story.device([attached(), frame(five[0], five[1], five[2])])
    #expect(story.judged().filter { $0.contains(" d ") } == ["undisclosed d 3-0 3", "lost d 2-0"])
  }

  @Test func aResetThatKeepsHalfAFrame() {
    var story = Story.whole()
    story.device([
      attached(), frame(five[0], five[1], five[2]),
      .reset(reason: "diverged", from: five[1].offset, offset: five[1].offset), frame(five[2]),
    ])
    #expect(story.judged().first == "undisclosed d 2-0")
  }

  @Test func anAttachWithoutAttached() {
    var story = Story.whole()
    story.device([frame(five[0]), frame(five[1])])
    #expect(story.judged() == ["undisclosed d 1-0 1"])
  }

  // MARK: late

  @Test func laterThanWasAllowed() {
    var story = Story.whole(2)
    story.options.late = 100
    story.producers = [
      (
        "r",
        [
          (.delta(n: 1, Digest("t1 ")), 0), (.delta(n: 2, Digest("t2 ")), 0),
          (.acknowledged(through: 1, end: nil, id: nil), 1000), (.acknowledged(through: 2, end: nil, id: nil), 2000),
          (.end("end", data: nil), 2000), (.acknowledged(through: 2, end: "end", id: nil), 3000),
        ]
      )
    ]
    let events: [(RecordingEvent, Int64)] = [
      (.connecting, 0), (.frame(attached()), 0), (.frame(.live(.zero)), 1), (.frame(frame(delta(1))), 1100),
      (.frame(frame(delta(2))), 2101), (.closed, 3500),
    ]
    story.devices = [(.init(device: "d"), events)]
    #expect(story.judged() == ["late d 2-0 2", "late d 3-0"])
    // Who was not live when it was acknowledged may take longer.
    story.devices = [
      (.init(device: "d"), Array(events[..<3]) + [(.frame(.stalled), 900)] + Array(events[3...]))
    ]
    #expect(story.judged() == [])
  }
}
