import NIOCore
import Testing

@testable import BatonProtocol
@testable import BatonSession

/// Pages of history: who is read when, and what refusals, cuts and lost connections cost whom.
@Suite struct PageReadsTests {
  private struct Stand {
    var reads = PageReads()
    var sent: [PageRequest] = []
    var answered: [String] = []
    var now: Int64 = 0

    mutating func take(_ actions: [PageReads.Action]) {
      for action in actions {
        switch action {
        case .send(let request): sent.append(request)
        case .answer(let ids, let outcome):
          let what =
            switch outcome {
            case .page: "page"
            case .wrongType: "wrong type"
            case .unavailable: "unavailable"
            case .refused: "refused"
            }
          answered += ids.map { "\($0) \(what)" }
        }
      }
    }

    mutating func ask(_ session: SessionName, after: UInt64 = 0, by id: UInt64, limit: Int = 512, waits: Bool = true) {
      let request = PageRequest(session: session, span: .after(EntryID(after, 0)), limit: limit, look: false)
      take(reads.asked(request, by: id, waits: waits, at: now))
      next()
    }

    mutating func next(fits: Bool = true) { take(reads.next(at: now) { _ in fits }) }

    mutating func connect() {
      reads.connected(at: now)
      next()
    }

    mutating func arrive(entries: Int = 1, bytes: Int = 100) {
      let page = Page(info: nil, entries: [], more: false)
      take(reads.arrived(sent.removeFirst(), .page(page), entries: entries, bytes: bytes))
      next()
    }
  }

  @Test func readsOnceForAllWhoAskForTheSameWhileItWaits() {
    var stand = Stand()
    stand.ask("s", by: 1)
    stand.ask("s", by: 2)
    stand.connect()
    #expect(stand.sent.count == 1)
    // Asked while it is under way: this read could be older than what was promised.
    stand.ask("s", by: 3)
    #expect(stand.sent.count == 1)
    stand.arrive()
    #expect(stand.answered == ["1 page", "2 page"] && stand.sent.count == 1)
    stand.arrive()
    #expect(stand.answered.last == "3 page" && stand.reads.isIdle)
  }

  @Test func sessionsTakeTurns() {
    var stand = Stand()
    stand.connect()
    for id in 1...20 { stand.ask("busy", after: UInt64(id), by: UInt64(id)) }
    stand.ask("other", by: 99)
    #expect(stand.sent.map(\.session) == ["busy", "other"])
    stand.arrive()
    #expect(stand.sent.map(\.session) == ["other", "busy"])
  }

  @Test func theCountFollowsTheSizes() {
    var stand = Stand()
    stand.connect()
    stand.ask("s", by: 1)
    #expect(stand.sent.first?.limit == 16, "nothing is known yet")
    stand.arrive(entries: 16, bytes: 16 * 200)
    stand.ask("s", after: 1, by: 2)
    #expect(stand.sent.first?.limit == 64, "no more than four times as many")
    stand.arrive(entries: 64, bytes: 64 * 200_000)
    stand.ask("s", after: 2, by: 3)
    #expect(stand.sent.first?.limit == 1, "entries of 200 KB come one by one")
  }

  @Test func aCutMakesTheNextReadSmallerAndNobodyIsTold() throws {
    var stand = Stand()
    stand.connect()
    stand.ask("s", by: 1)
    stand.reads.cut(stand.sent.removeFirst())
    stand.next()
    #expect(stand.sent.first?.limit == 4 && stand.answered.isEmpty)
    stand.arrive()
    #expect(stand.answered == ["1 page"])
  }

  @Test func whatNeverFitsBacksOff() {
    var stand = Stand()
    stand.connect()
    stand.ask("s", by: 1)
    var reads = 0
    while stand.now < 10_000 {
      if !stand.sent.isEmpty {
        reads += 1
        stand.reads.cut(stand.sent.removeFirst())
      }
      stand.now += 20
      stand.next()
    }
    #expect(reads < 20, "\(reads) reads in 10 s")
  }

  @Test func aRefusalIsThatSessionsPatienceAlone() {
    var stand = Stand()
    stand.connect()
    stand.ask("s", by: 1)
    stand.ask("s", by: 2, waits: false)
    stand.ask("q", by: 3)
    stand.take(stand.reads.refused(stand.sent.removeFirst(), "NOPERM"))
    stand.next()
    // Who waits to be let in is told, who is in waits.
    #expect(stand.answered == ["2 refused"] && stand.sent.map(\.session) == ["q"])
    stand.arrive()
    stand.now += 100
    stand.next()
    #expect(stand.sent.map(\.session) == ["s"])
    stand.arrive()
    #expect(stand.answered == ["2 refused", "3 page", "1 page"])
  }

  @Test func whatCostTheConnectionIsFoundAndWaitsAlone() {
    var stand = Stand()
    stand.connect()
    for (id, name) in [(1, "a"), (2, "b"), (3, "s")] as [(UInt64, SessionName)] { stand.ask(name, by: id) }
    #expect(stand.sent.count == 3)
    stand.sent.removeAll()
    stand.reads.disconnected(at: stand.now)
    stand.connect()
    // One by one now. It was "s".
    while let read = stand.sent.first {
      #expect(stand.sent.count == 1)
      if read.session == "s" {
        stand.sent.removeAll()
        stand.reads.disconnected(at: stand.now)
        stand.connect()
      } else {
        stand.arrive()
      }
    }
    #expect(stand.answered.sorted() == ["1 page", "2 page"], "neighbours have their pages")
    stand.now += 100
    stand.next()
    #expect(stand.sent.map(\.session) == ["s"])
    stand.arrive()
    #expect(stand.answered.last == "3 page")
  }

  @Test func whoHasGoneIsNotReadFor() {
    var stand = Stand()
    stand.ask("s", by: 1)
    stand.ask("s", by: 2)
    stand.reads.abandoned(1, session: "s")
    stand.connect()
    #expect(stand.sent.count == 1)
    stand.reads.abandoned(2, session: "s")
    stand.arrive()
    #expect(stand.answered.isEmpty && stand.reads.isIdle)
    stand.ask("s", after: 1, by: 3)
    stand.ask("s", after: 2, by: 4)
    stand.reads.abandoned(4, session: "s")
    stand.arrive()
    #expect(stand.answered == ["3 page"] && stand.sent.isEmpty && stand.reads.isIdle)
  }

  @Test func whoDoesNotWaitIsToldInTime() {
    var stand = Stand()
    stand.ask("s", by: 1, waits: false)
    stand.now = 4_999
    stand.next()
    #expect(stand.answered.isEmpty)
    stand.now = 5_000
    stand.next()
    #expect(stand.answered == ["1 unavailable"])
    stand.reads.disconnected(at: 5_000)
    stand.now = 7_000
    stand.ask("s", by: 2, waits: false)
    #expect(stand.answered.last == "2 unavailable", "known to be away")
    stand.ask("s", by: 3)
    stand.connect()
    stand.arrive()
    #expect(stand.answered.last == "3 page")
  }

  @Test func nothingIsSentWhileNothingFits() {
    var stand = Stand()
    stand.reads.connected(at: 0)
    stand.take(
      stand.reads.asked(
        PageRequest(session: "s", span: .after(.zero), limit: 512, look: false), by: 1, waits: true, at: 0))
    stand.next(fits: false)
    #expect(stand.sent.isEmpty)
    stand.next()
    #expect(stand.sent.count == 1)
  }

  @Test func whatIsRefusedAgainAndAgainIsAskedForMoreAndMoreSeldom() {
    var stand = Stand()
    stand.connect()
    stand.ask("s", by: 1)
    var times: [Int64] = []
    for now in stride(from: Int64(0), through: 12_000, by: 20) {
      stand.now = now
      stand.next()
      guard let request = stand.sent.popLast() else { continue }
      times.append(now)
      stand.take(stand.reads.refused(request, "NOPERM"))
    }
    #expect(times == [0, 100, 300, 700, 1500, 3100, 5100, 7100, 9100, 11_100])
    #expect(stand.answered == [], "who waits goes on waiting")
  }

  @Test func whoIsToBeReadAloneHasItsTurnHoweverManyOthersWait() {
    var stand = Stand()
    stand.connect()
    for id in UInt64(1)...8 { stand.ask(SessionName(stringLiteral: "first-\(id)"), by: id) }
    let suspects = Set(stand.sent.map(\.session))
    #expect(suspects.count > 1)
    stand.reads.disconnected(at: 0)
    stand.sent.removeAll()
    // From now on others ask all the time.
    stand.connect()
    var id: UInt64 = 100
    var alone: Set<SessionName> = []
    for _ in 1...200 {
      for _ in 1...3 {
        id += 1
        stand.ask(SessionName(stringLiteral: "other-\(id % 50)"), by: id)
      }
      if stand.sent.count == 1 { alone.insert(stand.sent[0].session) }
      if !stand.sent.isEmpty { stand.arrive() }
    }
    #expect(alone == suspects)
  }

  /// A guess of an entry's size grows with each failure, and does not overflow.
  @Test func whatFailsForEverIsAskedForForEver() {
    var stand = Stand()
    stand.connect()
    stand.ask("s", by: 1)
    for _ in 1...200 {
      stand.now += 61_000
      stand.next()
      guard let request = stand.sent.popLast() else { continue }
      stand.reads.cut(request)
    }
    for _ in 1...200 {
      stand.now += 61_000
      stand.next()
      stand.sent.removeAll()
      stand.reads.disconnected(at: stand.now)
      stand.reads.connected(at: stand.now)
    }
    stand.now += 61_000
    stand.next()
    #expect(stand.sent.map(\.limit) == [1] && stand.answered == [])
  }

  @Test func theBudgetIsGivenBackWithTheLastWhoHoldsIt() {
    let budget = HistoryBudget(limit: 1000)
    #expect(budget.fits(5000), "something always fits into an empty budget")
    var page: Page? = Page(info: nil, entries: [], more: false, charge: budget.charge(600))
    var device: MemoryCharge? = page?.segment.charge
    let encoding = Segment.Encoding(.webSocket, joined: false)
    for _ in 1...2 {
      _ = page?.segment.page?.encoded(encoding, from: 0) { ByteBuffer(repeating: 0, count: 256) }
    }
    #expect(budget.used == 856, "an encoding is shared by all who get the same")
    #expect(!budget.fits(145) && budget.fits(144))
    page = nil
    #expect(budget.used == 856 && device != nil)
    device = nil
    #expect(budget.used == 0)
  }
}
