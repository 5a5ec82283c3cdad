import NIOCore
import Testing

@testable import BatonProtocol
@testable import BatonSession

@Suite struct SessionLogTests {
  private func segment(_ ids: ClosedRange<UInt64>) -> Segment { Segment(ids.map { entry($0, "\($0)") }) }
  private func at(_ id: UInt64) -> Offset { entry(id, "\(id)").offset }

  /// A log that was opened behind 2 and holds 3 4 | 5 6 7.
  private var log: SessionLog {
    var log = SessionLog()
    log.apply(.opened(base: entry(2, "2").place))
    log.apply(.appended(segment(3...4)))
    log.apply(.appended(segment(5...7)))
    return log
  }

  @Test func findsEveryPlaceOfItsWindow() {
    let log = log
    #expect(show(log.base.offset) == "2" && show(log.end.offset) == "7")
    #expect((2...7).map { log.index(after: at($0)) } == [0, 1, 2, 3, 4, 5])
    #expect(log.index(after: at(1)) == nil && log.index(after: at(8)) == nil && log.index(after: .zero) == nil)
    #expect(log.index(after: entry(5, "other").offset) == nil, "another check is another entry")
    #expect(log.index(after: entry(2, "other").offset) == nil)
    #expect(log.index(after: Offset(id: EntryID(5, 0))) == 3)
    #expect(log.index(after: Offset(id: EntryID(5, 1))) == nil)
  }

  @Test func holdsNoPlaceBeforeTheTailLooked() {
    #expect(SessionLog().index(after: .zero) == nil)
    var log = SessionLog()
    log.apply(.opened(base: .zero))
    #expect(log.index(after: .zero) == 0)
  }

  @Test func givesTheSegmentOfAnIndexFromThereToItsEnd() throws {
    let log = log
    for (index, ids) in [(0, "3 4"), (1, "4"), (2, "5 6 7"), (4, "7")] {
      let (segment, range) = try #require(log.segment(at: index))
      #expect(show(segment.entries[range]) == ids)
    }
    #expect(log.segment(at: 5) == nil && log.segment(at: -1) == nil)
  }

  @Test func gathersTheRestOnceForAll() {
    let log = log
    #expect(show(log.gather(from: 1).entries) == "4 5 6 7")
    #expect(log.gather(from: 1) === log.gather(from: 1))
    #expect(show(log.gather(from: 3).entries) == "6 7")
  }

  @Test func letsTheOldestSegmentsGo() {
    var log = log
    let all = log.bytes
    log.shrink(toBytes: all)
    #expect(log.first == 0)
    log.shrink(toBytes: all - 1)
    #expect(log.first == 2 && show(log.base.offset) == "4" && log.bytes == segment(5...7).bytes)
    #expect(log.index(after: at(3)) == nil && log.index(after: at(4)) == 2)
    log.shrink(toBytes: 0)
    #expect(log.first == 5 && log.bytes == 0 && log.index(after: at(7)) == 5 && log.segment(at: 4) == nil)
    log.apply(.appended(segment(8...8)))
    #expect(log.segment(at: 5).map { show($0.0.entries) } == "8")
  }

  @Test func rebasesToAnEarlierEndOfTheSameHistory() {
    var log = log
    log.apply(.rebased(entry(6, "6").place))
    #expect(log.epoch == 0 && log.reset == nil && log.next == 5)
    #expect(log.index(after: at(7)) == nil && log.index(after: at(6)) == 5)
  }

  @Test func beginsAnotherHistoryAtAReset() {
    var log = log
    let reset = Reset(.deleted, requested: at(7), first: nil, last: nil)
    log.apply(.reset(reset, base: .zero))
    #expect(log.epoch == 1 && log.reset == reset && log.bytes == 0)
    // Nobody who stood at the old end stands anywhere in the new window.
    #expect(log.first == 6 && log.next == 6 && log.index(after: at(7)) == nil && log.index(after: .zero) == 6)
    log.apply(.appended(segment(1...2)))
    #expect(log.origin.map { show($0.first) } == "1")
    log.apply(.appended(segment(3...3)))
    #expect(log.origin.map { show($0.first) } == "1")
  }

  @Test func knowsWhatComesFirstFromTheStart() {
    #expect(log.origin == nil)
    var log = SessionLog()
    log.apply(.opened(base: .zero))
    log.apply(.appended(segment(1...2)))
    #expect(log.origin?.first == at(1))
  }

  @Test func remembersWhatTheTailSaid() {
    var log = log
    log.apply(.stalled)
    #expect(log.isStalled)
    log.apply(.wrongType)
    log.apply(.confirmed(ticket: 3))
    #expect(!log.isStalled && !log.isWrongType && log.confirmed == 3)
    log.apply(.confirmed(ticket: 2))
    #expect(log.confirmed == 3)
  }
}
