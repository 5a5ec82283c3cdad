import Testing

@testable import BatonProtocol
@testable import BatonSession

/// Tickets, the sweep, polling, and a store that is out of reach.
@Suite struct TailTimeTests {
  private let last = "2-18446744073709551615"

  @Test func confirmsByAReadThatWasSentAfterTheAsking() {
    var stand = TailStand.following("s", holding: 3)
    #expect(stand.did { $0.touch("s", ticket: 1) } == ["read s>\(last)x65"])
    // Asked while that read is under way: the next one confirms it.
    #expect(stand.did { $0.touch("s", ticket: 2) } == [])
    #expect(stand.answered() == ["s confirmed 1", "read s>\(last)x65"])
    #expect(stand.answered() == ["s confirmed 2"])
    #expect(stand.noticed().count == 1)
    #expect(stand.answered() == [])
  }

  @Test func confirmsNotBeforeAllWasTold() {
    var stand = TailStand.following("s", holding: 3)
    for id in 4...70 { stand.add(UInt64(id)) }
    _ = stand.did { $0.touch("s", ticket: 1) }
    #expect(stand.answered().count == 2)
    let rest = stand.answered()
    #expect(rest.count == 2 && rest.last == "s confirmed 1")
  }

  @Test func answersNobodyWhoDoesNotFollow() {
    var stand = TailStand.following("s")
    #expect(stand.did { $0.touch("q", ticket: 1) } == [] && stand.noticed("q") == [])
    #expect(stand.tail.end(of: "q") == nil && stand.tail.end(of: "s") == .zero)
  }

  @Test func dropsTheAnswerForASessionThatIsNoLongerFollowed() {
    var stand = TailStand.following("s", "q", holding: 3)
    stand.add(4)
    _ = stand.noticed()
    stand.tail.unfollow("s")
    _ = stand.noticed("q")
    #expect(stand.answered() == ["read q>\(last)x65"])
    #expect(stand.tail.sessions == 1)
  }

  @Test func beginsAfreshForWhoComesBackWhileItsReadIsUnderWay() {
    var stand = TailStand.following("s", holding: 3)
    stand.add(4)
    _ = stand.noticed()
    stand.tail.unfollow("s")
    #expect(stand.did { $0.follow("s") } == [])
    #expect(stand.tail.end(of: "s") == nil)
    // The old read's answer has no look: it opens nothing.
    #expect(stand.answered() == ["read s>0x1 look"])
    #expect(stand.answered() == ["s opened 4"])
  }

  @Test func readsAllAfterANoticeOfEverything() {
    var stand = TailStand.following("s", "q", holding: 3)
    #expect(
      stand.did {
        $0.noticedAll()
        return $0.reads()
      } == ["read s>\(last)x65, q>\(last)x65"])
  }

  // MARK: the sweep

  /// Ticks until the sweep has come round to every session once.
  private func sweep(_ stand: inout TailStand, from now: Int64 = 0) -> [String] {
    var lines: [String] = []
    for step in 1...82 { lines += stand.did { $0.tick(now: now + Int64(step) * 250) } }
    return lines
  }

  @Test func readsEverySessionOnceInASweep() {
    var stand = TailStand.following("s", holding: 3)
    #expect(sweep(&stand) == ["read s>\(last)x65"])
    #expect(stand.answered() == [])
    #expect(sweep(&stand, from: 20_500).count == 1)
  }

  @Test func asksTheNoticesAboutWhatOnlyTheSweepFound() {
    var stand = TailStand.following("s", holding: 3)
    for found in 1...3 {
      stand.add(UInt64(3 + found))
      _ = sweep(&stand, from: Int64(found) * 100_000)
      #expect(stand.answered() == ["s + \(3 + found)", "probe \(found)"])
      #expect(stand.did { $0.noticesAnswered(UInt64(found)) } == (found < 3 ? [] : ["source poll"]))
    }
    #expect(stand.tail.source == .poll)
  }

  @Test func trustsANoticeThatCameBeforeTheAnswer() {
    var stand = TailStand.following("s", holding: 3)
    for found in 1...5 {
      stand.add(UInt64(3 + found))
      _ = sweep(&stand, from: Int64(found) * 100_000)
      #expect(stand.answered().last == "probe \(found)")
      _ = stand.noticed()
      #expect(stand.did { $0.noticesAnswered(UInt64(found)) } == [])
      _ = stand.answered()
    }
    #expect(stand.tail.source == .tracking)
  }

  @Test func asksNothingWhereANoticeHadCome() {
    var stand = TailStand.following("s", holding: 3)
    stand.add(4)
    _ = stand.noticed()
    _ = sweep(&stand)
    // Dirty before the sweep came round, or read by then.
    #expect(!stand.answered().contains { $0.hasPrefix("probe") })
  }

  @Test func pollsActiveSessionsOftenAndQuietOnesSeldom() {
    var stand = TailStand.following("s")
    stand.add(1)
    _ = stand.did { $0.connected(source: .poll) }
    #expect(stand.answered() == ["s + 1"])
    var reads: [Int64] = []
    for now in stride(from: Int64(20), through: 3000, by: 20) {
      if stand.did({ $0.tick(now: now) }).isEmpty { continue }
      reads.append(now)
      _ = stand.answered()
    }
    let pauses = zip(reads.dropFirst(), reads).map { $0 - $1 }
    #expect(pauses.first == 20 && pauses.last == 500 && pauses == pauses.sorted(), "\(pauses)")
    stand.add(2)
    var told: Int64 = 0
    for now in stride(from: Int64(3020), through: 3700, by: 20) where told == 0 {
      if !stand.did({ $0.tick(now: now) }).isEmpty, stand.answered() == ["s + 2"] { told = now }
    }
    #expect(stand.did { $0.tick(now: told + 20) }.count == 1, "active again")
  }

  // MARK: out of reach

  @Test func saysStalledAfterTwoSecondsAndConfirmsWhenAllIsWell() {
    var stand = TailStand.following("s", "q", holding: 3)
    stand.disconnected(at: 1000)
    #expect(stand.did { $0.tick(now: 2999) } == [])
    stand.tail.disconnected(at: 2000)
    #expect(stand.did { $0.tick(now: 3000) } == ["s stalled", "q stalled"])
    #expect(stand.did { $0.tick(now: 4000) } == [])
    stand.add(4)
    #expect(stand.did { $0.connected(source: .tracking) } == ["read s>\(last)x65, q>\(last)x65"])
    #expect(stand.answered() == ["s + 4", "s confirmed 0"])
    #expect(stand.answered() == ["q confirmed 0"])
    #expect(stand.noticed().count == 1 && stand.answered() == [])
  }

  @Test func readsNothingWhileDisconnected() {
    var stand = TailStand.following("s", holding: 3)
    stand.disconnected(at: 1000)
    #expect(stand.noticed() == [])
    #expect(stand.did { $0.touch("s", ticket: 1) } == [])
    #expect(stand.did { $0.connected(source: .tracking) }.count == 1)
    #expect(stand.answered() == ["s confirmed 1"])
  }

  @Test func saysStalledWhereTheStoreHangs() {
    var stand = TailStand.following("s", holding: 3)
    stand.add(4)
    _ = stand.noticed()
    #expect(stand.did { $0.hanging(since: 1000, now: 2999) } == [])
    #expect(stand.did { $0.hanging(since: 1000, now: 3000) } == ["s stalled"])
    #expect(stand.did { $0.hanging(since: 1000, now: 3500) } == [])
    #expect(stand.did { $0.answered() } == [])
    // The read of before is answered, and one more: all is well only after that.
    #expect(stand.answered() == ["s + 4", "s confirmed 0", "read s>3-18446744073709551615x1001"])
  }

  @Test func tellsNothingToWhomWasNotStalled() {
    var stand = TailStand.following("s", holding: 3)
    #expect(stand.did { $0.answered() } == [])
    stand.disconnected(at: 1000)
    #expect(stand.did { $0.connected(source: .tracking) }.count == 1)
    #expect(stand.answered() == [])
  }
}
