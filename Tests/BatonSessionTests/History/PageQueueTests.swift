import Testing

@testable import BatonProtocol
@testable import BatonSession

@Suite struct PageQueueTests {
  private func request(_ id: UInt64) -> PageRequest {
    PageRequest(session: "s", span: .after(EntryID(id, 0)), limit: 7, look: false)
  }

  @Test func sendsOnceForAllWhoAskTheSame() {
    var queue = PageQueue<String>()
    for who in ["a", "b"] { queue.ask(request(1), who) }
    queue.ask(request(2), "c")
    #expect(queue.next() == request(1))
    #expect(queue.next() == request(2))
    #expect(queue.next() == nil)
    #expect(queue.answered(request(1)) == ["a", "b"])
    #expect(queue.answered(request(2)) == ["c"])
    #expect(queue.answered(request(2)) == [])
  }

  @Test func answersNobodyByAReadThatWasSentBeforeTheyAsked() {
    var queue = PageQueue<String>()
    queue.ask(request(1), "a")
    #expect(queue.next() == request(1))
    queue.ask(request(1), "b")
    #expect(queue.next() == nil)
    #expect(queue.answered(request(1)) == ["a"])
    #expect(queue.next() == request(1))
    #expect(queue.answered(request(1)) == ["b"])
  }

  @Test func sendsNoMoreThanABoundedNumberAtOnce() {
    var queue = PageQueue<Int>(maxInFlight: 2)
    for id in 1...3 { queue.ask(request(UInt64(id)), id) }
    #expect([queue.next(), queue.next(), queue.next()] == [request(1), request(2), nil])
    #expect(queue.answered(request(2)) == [2])
    #expect(queue.next() == request(3))
  }

  @Test func tellsRequestsApart() {
    let one = request(1)
    var look = one
    look.look = true
    var back = one
    back.span = .before(EntryID(1, 0))
    var queue = PageQueue<Int>()
    for (index, each) in [one, look, back].enumerated() { queue.ask(each, index) }
    #expect([queue.next(), queue.next(), queue.next()] == [one, look, back])
  }

  @Test func countsTheEntryThatIsAskedAfter() {
    #expect(request(1).count == 8)
    #expect(request(0).count == 7)
    #expect(PageRequest(session: "s", span: .before(nil), limit: 0, look: true).count == 1)
    #expect(PageRequest(session: "s", span: .before(EntryID(3, 0)), limit: 0, look: true).count == 1)
  }
}
