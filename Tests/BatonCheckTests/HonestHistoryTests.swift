import BatonProtocol
import Testing

@testable import BatonCheck

/// Histories in which every promise was kept.
@Suite struct HonestHistoryTests {
  private let five = (1...5).map { delta($0) }

  @Test func oneByOne() {
    var story = Story.whole()
    story.device(.all(story.stream ?? []), finished: true)
    story.options.toEnd = true
    #expect(story.judged() == [])
  }

  @Test func joinedByTheGatewayAndByTheProducer() {
    var story = Story.whole(3)
    let joined = StreamEntry(
      id: EntryID(5, 0), pairs: fields(["response": "r", "n": "5", "joined": "2", "data": "t4 t5 "]))
    story.stream = [note(0), delta(1), delta(2), delta(3), joined, end(6)]
    story.stream?[0] = StreamEntry(id: EntryID(0, 1), pairs: fields(["event": "start", "response": "r"]))
    story.producers = []
    story.produced(5)
    let stream = story.stream ?? []
    story.device([attached(), frame(stream[0]), frame(stream[1], stream[2], stream[3], joined), frame(stream[5])])
    story.device([attached(), frame(stream[0]), frame(stream[1]), frame(stream[2]), frame(stream[3], joined)])
    #expect(story.judged() == [])
  }

  @Test func reconnectsAtAnyFrame() {
    var story = Story.whole()
    story.device(
      [
        attached(), frame(five[0], five[1]), attached(five[1].offset), frame(five[2]), .live(five[2].offset),
        attached(five[2].offset), frame(five[3], five[4]), frame(end(6)),
      ], finished: true)
    #expect(story.judged() == [])
  }

  @Test func lastAndEndBeginWhereTheGatewaySays() {
    var story = Story.whole()
    story.device([attached(five[2].offset), frame(five[3]), frame(five[4])], asked: .init(start: .newest(3)))
    story.device([attached(end(6).offset), .live(end(6).offset)], asked: .init(start: .end))
    #expect(story.judged() == [])
  }

  @Test func anEmptyStreamMovesNobody() {
    var story = Story.whole()
    story.device([attached(Offset(id: EntryID(0, 7)), holdsEntries: false)] + five.map { frame($0) })
    #expect(story.judged() == [])
  }

  @Test func oneResponseAmongOthers() {
    var story = Story()
    let other = delta(1, at: 3, "u", response: "q")
    story.stream = [delta(1), delta(2), other, delta(3, at: 4), end(5), end(6, response: "q")]
    story.device(
      [attached(), frame(delta(1)), frame(delta(2)), frame(delta(3, at: 4)), frame(end(5))],
      asked: .init(start: .response("r")), finished: true)
    // It is live at another response's entry, and goes on from there.
    story.device(
      [
        attached(), frame(delta(1)), frame(delta(2)), .live(other.offset), attached(other.offset),
        frame(delta(3, at: 4)), frame(end(5)),
      ], asked: .init(start: .response("r")), finished: true)
    #expect(story.judged() == [])
  }

  @Test func whatIsTooBigIsSkipped() {
    var story = Story.whole()
    story.device([
      attached(), frame(five[0], five[1]), .skipped(five[2].offset, bytes: five[2].bytes), frame(five[3], five[4]),
    ])
    #expect(story.judged() == [])
  }

  /// Redis fails over to a replica that lacks the newest two; the producer appends them again.
  @Test func whatAFailoverLostIsAppendedAgainAndToldByReset() {
    var story = Story.whole()
    let again = [delta(4, at: 14), delta(5, at: 15), end(16)]
    story.stream = Array(five[..<3]) + again
    story.device(
      [
        attached(), frame(five[0]), frame(five[1]), frame(five[2]), frame(five[3], five[4]), .live(five[4].offset),
        .reset(reason: "ahead", from: five[2].offset, offset: five[2].offset), frame(again[0], again[1]),
        frame(again[2]),
      ], finished: true)
    story.device(
      [
        attached(), frame(five[0], five[1], five[2], five[3]), attached(five[2].offset),
        .reset(reason: "diverged", from: .zero, offset: .zero), frame(five[0], five[1], five[2], again[0], again[1]),
        frame(again[2]),
      ], finished: true)
    #expect(story.judged() == [])
  }

  @Test func whoLeftBeforeAFailoverWasToldNothing() {
    var story = Story.whole()
    story.stream = Array(five[..<3]) + [delta(4, at: 14), delta(5, at: 15), end(16)]
    story.device(.all(five))
    #expect(story.judged() == [])
  }

  @Test func whatWasDeletedOnPurposeIsNotMissing() {
    var story = Story.whole()
    story.stream = [five[2], five[4], end(6)]
    story.deletions = [(.trimmed(before: EntryID(3, 0)), 1), (.deleted([EntryID(4, 0)]), 1)]
    story.device([attached(), frame(five[0]), frame(five[1], five[2]), frame(five[3], five[4]), frame(end(6))])
    story.device(
      [attached(five[2].offset), frame(five[4]), frame(end(6))], asked: .init(start: .after(five[2].offset)))
    #expect(story.judged() == [])
  }

  @Test func aJoinedFrameMayHoldWhatWasDeletedLater() {
    var story = Story.whole()
    story.stream = [five[0], five[1], five[3], five[4], end(6)]
    story.deletions = [(.deleted([EntryID(3, 0)]), 1)]
    story.device([attached(), frame(five[0], five[1], five[2], five[3]), frame(five[4]), frame(end(6))])
    #expect(story.judged() == [])
  }

  @Test func aDeletedSessionIsToldByReset() {
    var story = Story.whole()
    story.stream = [delta(1, at: 21, response: "q"), end(22, response: "q")]
    story.producers.append(("q", [(.delta(n: 1, Digest("t1 ")), 20), (.end("end", data: nil), 20)]))
    story.deletions = [(.deletedSession, 10)]
    story.device(
      .all(five) + [
        .reset(reason: "deleted", from: .zero, offset: .zero), frame(delta(1, at: 21, response: "q")),
        frame(end(22, response: "q")),
      ])
    #expect(story.judged() == [])
  }

  @Test func aResponseMayBeTakenOver() {
    var story = Story()
    story.produced(3, ends: false)
    // What the fenced producer meant was never acknowledged.
    story.producers.append(("r", [(.delta(n: 4, Digest("never")), 0)]))
    story.produced(5, after: 3, "u")
    story.stream = [delta(1), delta(2), delta(3), delta(4, "u"), delta(5, "u"), end(6)]
    let stream = story.stream ?? []
    story.device([attached(), frame(stream[0]), frame(stream[1], stream[2], stream[3], stream[4]), frame(end(6))])
    #expect(story.judged() == [])
  }

  @Test func aGatewayEndsWhatItsProducerLeft() {
    var story = Story()
    story.produced(2, ends: false)
    let lost = StreamEntry(
      id: EntryID(3, 0), pairs: fields(["event": "error", "response": "r", "data": #"{"reason":"producer_lost"}"#]))
    story.stream = [delta(1), delta(2), lost]
    story.device(.all(story.stream ?? []), finished: true)
    #expect(story.judged() == [])
  }

  /// The end that a gateway wrote was lost with its history; the producer came back and ended by itself.
  @Test func aGatewaysEndMayBeLostWithItsHistory() {
    var story = Story.whole(2)
    let lost = StreamEntry(
      id: EntryID(3, 0), pairs: fields(["event": "error", "response": "r", "data": #"{"reason":"producer_lost"}"#]))
    let again = [delta(2, at: 12), end(13)]
    story.stream = [delta(1)] + again
    story.device(
      [attached(), frame(delta(1)), frame(delta(2)), frame(lost)] + [
        .reset(reason: "ahead", from: delta(1).offset, offset: delta(1).offset), frame(again[0]), frame(again[1]),
      ])
    #expect(story.judged() == [])
  }

  @Test func anEmptyStreamNamesItsLastId() {
    var story = Story.whole()
    let place = Offset(id: EntryID(0, 7))
    story.device(
      [attached(.zero, holdsEntries: false), .live(place), attached(place, holdsEntries: true)]
        + [.reset(reason: "trimmed", from: .zero, offset: .zero)] + five.map { frame($0) })
    story.device(
      [attached(.zero, holdsEntries: false), .live(place), attached(place, holdsEntries: false)]
        + five.map { frame($0) })
    #expect(story.judged() == [])
  }

  /// Before Redis 7 nothing says whether entries are gone.
  @Test func aTrimmedStreamMovesNobodyWhoHasHadIt() {
    var story = Story.whole()
    story.producers = []
    story.stream = Array(five[3...]) + [end(6)]
    story.device(.all(five))
    #expect(story.judged() == (1...3).map { "foreign d \($0)-0 \($0)" } + ["undisclosed d 4-0 4"])
    story.entriesAdded = 6
    #expect(story.judged() == [])
    story.entriesAdded = .max
    #expect(story.judged() == [])
  }

  @Test func aCutRecordingOfTheStreamSaysNothingOfItsEnd() {
    var story = Story.whole()
    story.stream = Array(five[..<3])
    story.isWhole = false
    story.device(.all(five + [end(6)]), finished: true)
    #expect(story.judged() == [])
  }

  @Test func withoutTheStreamProducersSayWhatWasMeant() {
    var story = Story.whole()
    story.stream = nil
    story.device([attached(), frame(five[0], five[1]), frame(five[2]), frame(five[3]), frame(five[4])])
    #expect(story.judged() == [])
  }

  @Test func peoplesInputNeedsNoProducer() {
    var story = Story.whole(2)
    story.stream = [delta(1), delta(2), end(3), note(4)]
    story.device(.all(story.stream ?? []))
    #expect(story.judged() == [])
  }
}
