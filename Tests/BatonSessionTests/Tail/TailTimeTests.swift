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
    // The notices are asked, too: none has come.
    #expect(stand.answered().count == 3)
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
      } == ["read s>\(last)x17, q>\(last)x17"])
  }

  // MARK: nobody is in a hurry

  @Test func readsLaterAndAllThatHasComeWhereNobodyIsInAHurry() {
    var stand = TailStand.following("s", holding: 3)
    #expect(stand.did { $0.pace("s", milliseconds: 80) } == [])
    _ = stand.did { $0.tick(now: 1000) }
    stand.add(4)
    #expect(stand.noticed() == [])
    _ = stand.did { $0.tick(now: 1060) }
    stand.add(5)
    #expect(stand.noticed() == [], "the first notice counts")
    #expect(stand.did { $0.tick(now: 1079) } == [])
    #expect(stand.did { $0.tick(now: 1080) } == ["read s>\(last)x65"])
    // Announced during the read: as long again.
    let reply = stand.reply()
    stand.add(6)
    #expect(stand.noticed() == [] && stand.answered(reply) == ["s + 4 5"])
    #expect(stand.did { $0.tick(now: 1159) } == [])
    #expect(stand.did { $0.tick(now: 1160) }.count == 1 && stand.answered() == ["s + 6"])
    #expect(stand.did { $0.tick(now: 1300) } == [], "nothing was announced")
  }

  @Test func readsAtOnceWhereSomebodyIsInAHurryAgain() {
    var stand = TailStand.following("s", holding: 3)
    _ = stand.did { $0.pace("s", milliseconds: 230) }
    stand.add(4)
    #expect(stand.noticed() == [])
    #expect(stand.did { $0.touch("s", ticket: 1) } == ["read s>\(last)x65"], "who asks is answered")
    _ = stand.answered()
    stand.add(5)
    #expect(stand.noticed() == [])
    #expect(stand.did { $0.pace("s", milliseconds: 0) }.count == 1 && stand.answered() == ["s + 5"])
    stand.add(6)
    #expect(stand.noticed().count == 1)
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
      #expect(stand.tail.source == .tracking)
      _ = stand.did { $0.noticesAnswered(UInt64(found)) }
    }
    #expect(stand.tail.source == .poll && stand.sources.last == .poll)
  }

  @Test func believesNoticesAgainOnceTheyComeAgain() {
    var stand = TailStand.following("s", holding: 3)
    var id: UInt64 = 4
    var now: Int64 = 100_000
    func step(_ stand: inout TailStand, isAnnounced: Bool) {
      stand.add(id)
      id += 1
      if isAnnounced { _ = stand.noticed() }
      while stand.sent.isEmpty {
        now += 250
        _ = stand.did { $0.tick(now: now) }
      }
      let lines = stand.answered()
      if let probe = lines.last, probe.hasPrefix("probe "), let token = UInt64(probe.dropFirst(6)) {
        _ = stand.did { $0.noticesAnswered(token) }
      }
    }
    for _ in 1...3 { step(&stand, isAnnounced: false) }
    #expect(stand.tail.source == .poll)
    for _ in 1...11 { step(&stand, isAnnounced: true) }
    #expect(stand.tail.source == .poll, "a few are no proof")
    step(&stand, isAnnounced: true)
    #expect(stand.tail.source == .tracking)
  }

  /// Under load the sweep marks a session, and its notice comes before the read is sent: it was announced.
  @Test func aNoticeBeforeTheReadIsNoEvidenceAgainstNotices() {
    var stand = TailStand.following("a", "s", holding: 3)
    for found in 1...5 {
      let now = Int64(found) * 100_000
      stand.add(UInt64(3 + found), to: "a")
      _ = stand.noticed("a")
      stand.add(UInt64(3 + found))
      // A round is under way: the sweep marks, and nothing is sent.
      #expect(sweep(&stand, from: now) == [])
      stand.tail.noticed("s")
      while !stand.sent.isEmpty { #expect(!stand.answered().contains { $0.hasPrefix("probe") }) }
    }
    #expect(stand.tail.source == .tracking)
  }

  @Test func pollsAsLongAsNoNoticeWasSeenToCome() {
    var stand = TailStand()
    _ = stand.did { $0.follow("s") }
    _ = stand.did { $0.connected(source: .tracking) }
    _ = stand.answered()
    #expect(stand.sources == [.unproven])
    stand.add(1)
    var lines: [String] = []
    for now in stride(from: Int64(20), through: 2000, by: 20) where lines.isEmpty {
      _ = stand.did { $0.tick(now: now) }
      if !stand.sent.isEmpty { lines = stand.answered() }
    }
    #expect(lines.first == "s + 1", "deaf, though reads succeed")
    _ = stand.noticed("q")
    #expect(stand.sources == [.unproven, .tracking])
  }

  @Test func noticesThatAnnounceNothingMakeNoStorm() {
    var stand = TailStand.following("s", holding: 3)
    var reads = 0
    for now in stride(from: Int64(20), through: 10_000, by: 20) {
      _ = stand.did { $0.tick(now: now) }
      // A table that is too small: each read lets another notice come.
      for _ in 1...5 {
        _ = stand.noticed()
        while !stand.sent.isEmpty {
          reads += 1
          _ = stand.answered()
        }
      }
    }
    #expect(reads < 50, "\(reads) reads in 10 s")
    stand.add(4)
    var lines: [String] = []
    for now in stride(from: Int64(10_020), through: 10_600, by: 20) {
      _ = stand.did { $0.tick(now: now) }
      if !stand.sent.isEmpty { lines += stand.answered() }
    }
    #expect(lines.contains("s + 4"))
  }

  @Test func aVainNoticeDuringTheReadIsNotForgotten() {
    var stand = TailStand.following("s", holding: 3)
    for _ in 1...3 {
      _ = stand.noticed()
      _ = stand.answered()
    }
    stand.tail.noticed("s")
    while stand.sent.isEmpty { _ = stand.did { $0.tick(now: 20) } }
    stand.add(4)
    _ = stand.noticed()
    _ = stand.brought([])
    var lines: [String] = []
    for now in stride(from: Int64(40), through: 2000, by: 20) {
      _ = stand.did { $0.tick(now: now) }
      if !stand.sent.isEmpty { lines += stand.answered() }
    }
    #expect(lines.contains("s + 4"))
  }

  @Test func keepsNothingOfSessionsThatHaveGone() {
    var stand = TailStand()
    _ = stand.did { $0.connected(source: .tracking) }
    for number in 1...1000 {
      guard let name = SessionName("s-\(number)") else { continue }
      _ = stand.did { $0.follow(name) }
      while !stand.sent.isEmpty { _ = stand.answered() }
      stand.tail.unfollow(name)
    }
    #expect(stand.tail.sessions == 0 && stand.tail.scheduled < 200, "\(stand.tail.scheduled)")
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
    #expect(pauses.first == 40 && pauses.last == 500 && pauses == pauses.sorted(), "\(pauses)")
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
    #expect(stand.did { $0.connected(source: .tracking) } == ["read s>\(last)x17, q>\(last)x17"])
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
    stand.tail.asked(at: 1000)
    _ = stand.noticed()
    #expect(stand.did { $0.tick(now: 2999) } == [])
    #expect(stand.did { $0.tick(now: 3000) } == ["s stalled"])
    #expect(stand.did { $0.tick(now: 3500) } == [])
    // The read of before is answered, and one more: all is well only after that.
    #expect(stand.answered() == ["s + 4", "s confirmed 0", "read s>3-18446744073709551615x1001"])
  }

  /// A session whose read was refused has its turn once, and Redis refuses all of them just then: the turn is not lost.
  @Test func aTurnThatIsShutOutComesAgain() {
    var stand = TailStand.following("s", holding: 1)
    _ = stand.noticed()
    #expect(stand.answered(.failed) == [])
    #expect(stand.did { $0.tick(now: 200) } == ["read s>0-18446744073709551615x65"])
    #expect(stand.answered(.shut) == [])
    #expect(stand.did { $0.tick(now: 800) } == ["read s>0-18446744073709551615x65"])
  }

  @Test func aRefusalIsNoSignOfLife() {
    var stand = TailStand.following("s", holding: 3)
    _ = stand.did { $0.tick(now: 1000) }
    _ = stand.noticed()
    #expect(stand.answered(.shut) == [])
    var lines: [String] = []
    for now in stride(from: Int64(1020), through: 5000, by: 20) {
      lines += stand.did { $0.tick(now: now) }
      if !stand.sent.isEmpty { lines += stand.answered(.shut) }
    }
    #expect(lines.filter { $0 == "s stalled" }.count == 1)
    #expect(lines.count < 12, "a storm: \(lines)")
    #expect(stand.tail.troubleSince == 1000)
    for now in stride(from: Int64(5020), through: 6000, by: 20) {
      _ = stand.did { $0.tick(now: now) }
      while !stand.sent.isEmpty { lines += stand.answered() }
    }
    #expect(lines.contains("s confirmed 0") && stand.tail.troubleSince == nil)
  }

  // MARK: one session's trouble

  @Test func aSessionThatIsRefusedStaysDirtyAndIsStalledAlone() {
    var stand = TailStand.following("s", "q", holding: 3)
    stand.add(4)
    _ = stand.did { $0.tick(now: 1000) }
    _ = stand.noticed()
    #expect(stand.answered(.failed) == [])
    var lines: [String] = []
    for now in stride(from: Int64(1020), through: 4000, by: 20) {
      lines += stand.did { $0.tick(now: now) }
      if !stand.sent.isEmpty { lines += stand.answered(.failed) }
    }
    #expect(lines.filter { $0 == "s stalled" }.count == 1 && !lines.contains("q stalled"))
    #expect(lines.count < 12, "a storm: \(lines)")
    // Whoever asks does not hurry it.
    #expect(stand.did { $0.touch("s", ticket: 7) } == [] && stand.noticed() == [])
    var told: [String] = []
    for now in stride(from: Int64(4020), through: 5200, by: 20) where told.isEmpty {
      _ = stand.did { $0.tick(now: now) }
      if !stand.sent.isEmpty { told = stand.answered() }
    }
    #expect(told == ["s + 4", "s confirmed 7"])
  }

  @Test func whatCostTheConnectionIsReadAloneAndWaits() {
    var stand = TailStand.following("a", "b", "s", holding: 3)
    for name in ["a", "b", "s"] as [SessionName] { stand.add(4, to: name) }
    _ = stand.did { $0.tick(now: 1000) }
    stand.tail.noticed("b")
    stand.tail.noticed("s")
    #expect(stand.noticed("a").count == 1 && stand.sent.count == 3)
    stand.disconnected(at: 1000)
    // Nobody knows which it was: each is read alone.
    _ = stand.did { $0.connected(source: .tracking, at: 1100) }
    var alone: [SessionName] = []
    while let read = stand.sent.first {
      #expect(stand.sent.count == 1)
      alone.append(read.session)
      if read.session == "s" { stand.disconnected(at: 1200) } else { _ = stand.answered() }
    }
    #expect(alone.contains("s"))
    // It was this one: the others are read with the next connection, and it comes after a pause, with a smaller count.
    _ = stand.did { $0.connected(source: .tracking, at: 1300) }
    #expect(!stand.sent.contains { $0.session == "s" })
    while !stand.sent.isEmpty { _ = stand.answered() }
    _ = stand.did { $0.tick(now: 60_000) }
    while let read = stand.sent.first {
      if read.session == "s" { #expect(stand.sent.count == 1 && read.count < 65) }
      _ = stand.answered()
    }
    #expect(stand.tail.end(of: "s").map { show($0.offset) } == "4")
  }

  @Test func aCutIsNoVerdictAndTheNextReadIsSmaller() throws {
    var stand = TailStand.following("s", holding: 3)
    stand.add(4)
    _ = stand.noticed()
    let asked = try #require(stand.sent.first)
    #expect(stand.brought([], more: true) == ["read s>\(last)x33"])
    let overlap = stand.redis.read(asked)
    guard case .entries(let known?, _, _, _) = overlap else { return }
    #expect(stand.answered(.entries(overlap: known, [], info: nil, more: true)) == ["read s>\(last)x17"])
    #expect(stand.answered() == ["s + 4"])
  }

  @Test func whatNeverFitsIsTriedSeldom() {
    var stand = TailStand.following("s", holding: 3)
    stand.add(4)
    _ = stand.did { $0.tick(now: 1000) }
    _ = stand.noticed()
    var reads = 0
    for now in stride(from: Int64(1020), through: 11_000, by: 20) {
      while !stand.sent.isEmpty {
        reads += 1
        _ = stand.brought([], more: true)
        if reads > 100 { break }
      }
      _ = stand.did { $0.tick(now: now) }
    }
    #expect(reads < 30, "\(reads) reads in 10 s")
  }

  @Test func tellsNothingToWhomWasNotStalled() {
    var stand = TailStand.following("s", holding: 3)
    #expect(stand.did { $0.succeeded(at: 1000) } == [])
    stand.disconnected(at: 1000)
    #expect(stand.did { $0.connected(source: .tracking) }.count == 1)
    #expect(stand.answered() == [])
  }
}
