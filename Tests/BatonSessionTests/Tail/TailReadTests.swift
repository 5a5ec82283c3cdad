import Testing

@testable import BatonProtocol
@testable import BatonSession

/// What is read, when, and that every seam is proven.
@Suite struct TailReadTests {
  /// `5-0` is read from its predecessor, so that it comes back first.
  private static let before = "18446744073709551615"

  @Test func looksFirstAndThenReadsWhatChanged() {
    var stand = TailStand()
    for id in 1...3 { stand.add(UInt64(id)) }
    #expect(stand.did { $0.follow("s") } == [])
    #expect(stand.did { $0.connected(source: .tracking) } == ["read s>0x1 look"])
    #expect(stand.answered() == ["s opened 3"])
    #expect(stand.did { $0.reads() } == [])
    stand.add(4)
    #expect(stand.noticed() == ["read s>2-\(TailReadTests.before)x65"])
    #expect(stand.answered() == ["s + 4"])
    #expect(stand.tail.entriesRead == 1 && stand.tail.end(of: "s").map { show($0.offset) } == "4")
  }

  @Test func waitsForAStreamThatIsNotThere() {
    var stand = TailStand.following("s")
    #expect(stand.noticed() == ["read s>0x65 look"])
    #expect(stand.answered() == [])
    stand.add(1)
    stand.add(2)
    #expect(stand.noticed() == ["read s>0x65 look"])
    #expect(stand.answered() == ["s + 1 2"])
  }

  @Test func readsNothingOfAQuietSession() {
    var stand = TailStand.following("s", "q", holding: 3)
    #expect(stand.did { $0.tick(now: 250) } == [])
    #expect(stand.did { $0.tick(now: 500) } == [])
    stand.add(4)
    #expect(stand.noticed("s").count == 1 && stand.sent.map(\.session) == ["s"])
  }

  @Test func isDirtyUntilTheSendingNotUntilTheAnswer() {
    var stand = TailStand.following("s", holding: 3)
    stand.add(4)
    _ = stand.noticed()
    let reply = stand.reply()
    // After Redis answered, before the answer is here: another entry and its notice.
    stand.add(5)
    #expect(stand.noticed() == [])
    #expect(stand.answered(reply) == ["s + 4", "read s>3-\(TailReadTests.before)x1001"])
    #expect(stand.answered() == ["s + 5"])
  }

  @Test func sendsOneRoundAtATimeWithAllThatIsDirty() {
    var stand = TailStand.following("a", "b", "c", holding: 1)
    for name: SessionName in ["a", "b", "c"] { stand.add(2, to: name) }
    #expect(stand.noticed("a").count == 1)
    #expect(stand.noticed("c") == [] && stand.noticed("b") == [] && stand.noticed("c") == [])
    let b = TailReadTests.before
    #expect(stand.answered() == ["a + 2", "read c>0-\(b)x17, b>0-\(b)x17"])
    #expect(stand.answered() == ["c + 2"])
    #expect(stand.answered() == ["b + 2"])
  }

  @Test func boundsARound() {
    var stand = TailStand { $0.roundSessions = 2 }
    for name: SessionName in ["a", "b", "c"] { _ = stand.did { $0.follow(name) } }
    #expect(stand.did { $0.connected(source: .tracking) } == ["read a>0x1 look, b>0x1 look"])
    #expect(stand.answered() == ["a opened 0"])
    #expect(stand.answered() == ["b opened 0", "read c>0x1 look"])
  }

  @Test func readsOnWhereAReplyWasCut() {
    var stand = TailStand.following("s", holding: 1)
    for id in 2...80 { stand.add(UInt64(id)) }
    _ = stand.noticed()
    // 65 with the overlap: 2...65.
    let lines = stand.answered()
    #expect(lines.first?.hasSuffix("64 65") == true)
    #expect(lines.dropFirst() == ["read s>64-\(TailReadTests.before)x1001"])
    #expect(stand.answered().first?.hasPrefix("s + 66 67") == true)
    #expect(stand.noticed().count == 1)
  }

  @Test func adaptsItsCountToTheSizesSeen() {
    var stand = TailStand.following("s", holding: 1)
    stand.add(2, ["data": "a"])
    stand.add(3, ["data": String(repeating: "a", count: 360)])
    _ = stand.noticed()
    _ = stand.answered()
    // Two new entries of 5 + 364 bytes and 96 each: 256 KiB hold 934 of that size.
    #expect(stand.noticed() == ["read s>2-\(TailReadTests.before)x935"])
    _ = stand.answered()
    var small = TailStand.following("s", holding: 1)
    func big(_ id: UInt64, _ bytes: Int) -> Entry {
      entry(id, [field("data", String(repeating: "x", count: bytes))])
    }
    _ = small.noticed()
    #expect(small.brought([entry(1, "1"), big(2, 60_000)]) == ["s + 2"])
    #expect(small.noticed() == ["read s>1-\(TailReadTests.before)x5"])
    #expect(small.brought([big(2, 60_000), big(3, 250_000)]) == ["s + 3"])
    #expect(small.noticed() == ["read s>2-\(TailReadTests.before)x2"])
  }

  @Test func sharesReadsAndReadsByItselfWhatWasRefusedOrHasMore() {
    var stand = TailStand.following("a", "b", holding: 1)
    let last = "1-0"
    func isShared() -> [Bool] { stand.sent.map(\.isShared) }
    let zero = TailReadTests.before
    for name: SessionName in ["a", "b"] { stand.tail.noticed(name) }
    #expect(stand.did { $0.reads() } == ["read a>0-\(zero)x17, b>0-\(zero)x17"] && isShared() == [true, true])
    // Refused together: each by itself, with its own count, until it has come to its end.
    #expect(stand.answered(.apart) == [] && stand.answered(.apart) == ["read a>0-\(zero)x65, b>0-\(zero)x65"])
    #expect(isShared() == [false, false])
    for id in 2...40 { stand.add(UInt64(id), to: "a") }
    _ = stand.answered()
    _ = stand.answered()
    for name: SessionName in ["a", "b"] { stand.tail.noticed(name) }
    _ = stand.did { $0.reads() }
    #expect(isShared() == [true, true], "after \(last)")
    for id in 41...80 { stand.add(UInt64(id), to: "a") }
    // More than the shared read brings: the rest is asked for by a read of its own, beside those that share one.
    _ = stand.did { $0.follow("c") }
    _ = stand.answered()
    for name: SessionName in ["b", "c"] { stand.tail.noticed(name) }
    _ = stand.answered()
    #expect(stand.sent.map(\.session) == ["c", "a", "b"] && isShared() == [false, false, false])
    #expect(stand.sent.dropFirst().first.map { $0.count > 17 } == true, "as many as it can be, and alone")
  }

  // MARK: seams

  @Test func looksWhereTheOverlapIsMissing() {
    var stand = TailStand.following("s", holding: 3)
    stand.add(4)
    stand.redis.trim("s", to: 1)
    let b = TailReadTests.before
    #expect(stand.noticed() == ["read s>2-\(b)x65"])
    #expect(stand.answered() == ["read s>2-\(b)x65 look"])
    // Added 3 then, 4 now, one retained: nothing was missed.
    #expect(stand.answered() == ["s + 4"])
  }

  @Test func resetsWhereEntriesCameAndWent() {
    var stand = TailStand.following("s", holding: 3)
    stand.add(4)
    stand.add(5)
    stand.redis.trim("s", to: 1)
    _ = stand.noticed()
    _ = stand.answered()
    #expect(stand.answered() == ["s reset trimmed 3 base 5"])
    stand.add(6)
    #expect(stand.noticed() == ["read s>4-\(TailReadTests.before)x65"])
    #expect(stand.answered() == ["s + 6"])
  }

  @Test func takesTheNextNumberForNoProof() {
    var stand = TailStand()
    stand.redis.countsAdded = false
    stand.add(1, ["data": "x", "response": "r", "n": "1"])
    _ = stand.did { $0.follow("s") }
    _ = stand.did { $0.connected(source: .tracking) }
    _ = stand.answered()
    stand.add(2, ["data": "x", "response": "r", "n": "2"])
    stand.redis.trim("s", to: 1)
    _ = stand.noticed()
    _ = stand.answered()
    #expect(stand.answered() == ["s reset trimmed 1 base 2"])
  }

  @Test func resetsOnAnotherCheck() {
    var stand = TailStand.following("s", holding: 3)
    stand.redis.keys["s"] = nil
    for id in 1...4 { stand.add(UInt64(id), ["data": "new"]) }
    _ = stand.noticed()
    _ = stand.answered()
    #expect(stand.answered() == ["s reset diverged 3 base 4"])
  }

  @Test func resetsWhenTheStreamDisappears() {
    var stand = TailStand.following("s", holding: 3)
    stand.redis.keys["s"] = nil
    _ = stand.noticed()
    _ = stand.answered()
    #expect(stand.answered() == ["s reset deleted 3 base 0"])
    // And waits for the next one.
    #expect(stand.noticed() == ["read s>0x65 look"])
    #expect(stand.answered() == [])
    stand.add(1)
    #expect(stand.noticed().count == 1)
    #expect(stand.answered() == ["s + 1"])
  }

  @Test func resetsWhereTheFirstEntriesCameAndWent() {
    var stand = TailStand.following("s")
    stand.add(1)
    stand.add(2)
    stand.redis.trim("s", to: 1)
    _ = stand.noticed()
    #expect(stand.answered() == ["s reset trimmed 0 base 2"])
  }

  @Test func rebasesWhereTheLastWasDeleted() {
    var stand = TailStand.following("s", holding: 3)
    stand.redis.delete("s", at: 2)
    _ = stand.noticed()
    _ = stand.answered()
    #expect(stand.answered() == ["s rebased 2"])
    stand.add(4)
    #expect(stand.noticed() == ["read s>1-\(TailReadTests.before)x65"])
    #expect(stand.answered() == ["s + 4"])
  }

  @Test func resetsWhereWhatWasDeletedComesBack() {
    var stand = TailStand.following("s", holding: 3)
    let backup = stand.redis.keys["s"]
    stand.redis.delete("s", at: 2)
    _ = stand.noticed()
    _ = stand.answered()
    #expect(stand.answered() == ["s rebased 2"])
    stand.redis.keys["s"] = backup
    #expect(stand.noticed() == ["read s>1-\(TailReadTests.before)x65"])
    #expect(stand.answered() == ["read s>1-\(TailReadTests.before)x65 look"])
    #expect(stand.answered() == ["s reset diverged 2 base 3"])
  }

  @Test func countsOnAcrossReads() {
    var stand = TailStand.following("s", holding: 3)
    for id in 4...6 {
      stand.add(UInt64(id))
      _ = stand.noticed()
      #expect(stand.answered() == ["s + \(id)"])
    }
    stand.add(7)
    stand.redis.trim("s", to: 1)
    _ = stand.noticed()
    _ = stand.answered()
    #expect(stand.answered() == ["s + 7"])
  }

  @Test func forgetsWhatItCountedWithTheConnection() {
    var stand = TailStand.following("s", holding: 3)
    stand.disconnected(at: 100)
    // Another master: as many entries, as much added, another history.
    stand.redis.keys["s"] = nil
    for id in 1...4 { stand.add(UInt64(id), ["data": "new"]) }
    stand.redis.trim("s", to: 1)
    _ = stand.did { $0.connected(source: .tracking) }
    _ = stand.answered()
    #expect(stand.answered() == ["s reset trimmed 3 base 4"])
  }

  @Test func tellsAnotherType() {
    var stand = TailStand.following("s", holding: 3)
    stand.redis.keys["s"] = .other
    _ = stand.noticed()
    #expect(stand.answered() == ["s wrong type"])
  }

  @Test func saysWhenTheKeyIsAStreamAgain() {
    var stand = TailStand.following("s")
    stand.redis.keys["s"] = .other
    _ = stand.noticed()
    #expect(stand.answered() == ["s wrong type"])
    stand.redis.keys["s"] = nil
    _ = stand.noticed()
    #expect(stand.answered() == ["s confirmed 0"])
  }

  @Test func readsAgainAtOnceWhereItIsTold() {
    var stand = TailStand.following("s", holding: 3)
    stand.add(4)
    _ = stand.noticed()
    #expect(stand.answered(.again) == ["read s>2-\(TailReadTests.before)x65"])
    #expect(stand.answered() == ["s + 4"])
  }

  @Test func triesAgainAfterAFailedRead() {
    var stand = TailStand.following("s", holding: 3)
    stand.add(4)
    _ = stand.noticed()
    #expect(stand.answered(.failed) == [])
    #expect(stand.noticed() == [] && stand.did { $0.tick(now: 99) } == [])
    #expect(stand.did { $0.tick(now: 100) }.count == 1)
    #expect(stand.answered() == ["s + 4"])
  }
}
