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

  /// Hundreds of small segments cost little more than their entries, and every place is found as before.
  @Test func putsSmallSegmentsTogether() {
    var log = SessionLog()
    log.apply(.opened(base: .zero))
    var seed: UInt64 = 11
    func roll(_ sides: UInt64) -> UInt64 {
      seed = seed &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
      return (seed >> 33) % sides
    }
    var next: UInt64 = 1
    for _ in 1...600 {
      let last = next + roll(3)
      log.apply(.appended(segment(next...last)))
      next = last + 1
      if roll(40) == 0 { log.shrink(toBytes: log.bytes - Int(roll(3000))) }
      if roll(97) == 0 { log.shrink(toBytes: 0) }
      // The newest is as it came.
      if log.first < log.next { #expect(log.segment(at: Int(last) - 1)?.0.entries.last?.id == EntryID(last, 0)) }
      #expect(log.next == Int(last) && log.first <= log.next)
      var told: [UInt64] = []
      var index = log.first
      var kept = 0
      while let (segment, range) = log.segment(at: index) {
        told += segment.entries[range].map { $0.id.milliseconds }
        kept += segment.bytes
        index += range.count
      }
      #expect(told == (log.first..<log.next).map { UInt64($0) + 1 } && kept == log.bytes)
      let place = UInt64(log.first) + roll(UInt64(log.next - log.first) + 1)
      if place > 0 { #expect(log.index(after: at(place)) == Int(place)) }
      #expect(log.index(behind: EntryID(place, 0)) == Int(place))
    }
    for id in next...next + 299 { log.apply(.appended(segment(id...id))) }
    log.shrink(toBytes: 300 * 80)
    #expect(log.next - log.first > 250, "an entry of a few bytes takes less than 80")
  }

  @Test func leavesLargeSegmentsAsTheyAre() {
    var log = SessionLog()
    log.apply(.opened(base: .zero))
    let text = String(repeating: "x", count: 10_000)
    for id in UInt64(1)...100 { log.apply(.appended(Segment([entry(id, text)]))) }
    #expect(log.segment(at: 50).map { $0.0.entries.count } == 1)
  }
}
