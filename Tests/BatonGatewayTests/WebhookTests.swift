import BatonProtocol
import BatonStore
import Foundation
import NIOCore
import Testing

@testable import BatonGateway

@Suite struct WebhookSignatureTests {
  // From the libraries of github.com/standard-webhooks/standard-webhooks.
  @Test func itIsThatOfStandardWebhooks() throws {
    let secret = try #require(WebhookSecret("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"))
    let body = ByteBuffer(string: #"{"test": 2432232314}"#)
    let signed = { WebhookSecret.header($0, id: "msg_p5jXN8AQM9LWM0D4loKWxJek", timestamp: 1_614_265_330, body: body) }
    #expect(signed([secret]) == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=")
    #expect(signed([secret, secret]).split(separator: " ").count == 2)
  }

  @Test func aSecretHas24To64Bytes() {
    func made(_ bytes: Int) -> WebhookSecret? { WebhookSecret("whsec_" + Data(count: bytes).base64EncodedString()) }
    #expect(made(24) != nil && made(64) != nil)
    #expect(made(23) == nil && made(65) == nil)
    #expect(WebhookSecret("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw") == nil && WebhookSecret("whsec_!") == nil)
  }

  @Test func anIDIsTheEntrys() {
    #expect(WebhookID.of("chat-42 5-1") == WebhookID.of("chat-42 5-1"))
    #expect(WebhookID.of("chat-42 5-1") != WebhookID.of("chat-42 5-2"))
    #expect(WebhookID.target("http://a/") != WebhookID.target("http://a/x"))
  }

  @Test func retryAfterIsSecondsOrADate() {
    let now = Date(timeIntervalSince1970: 1_445_412_480)
    #expect(WebhookClient.time("120", now: now) == .seconds(120))
    #expect(WebhookClient.time("Wed, 21 Oct 2015 07:29:00 GMT", now: now) == .seconds(60))
    #expect(WebhookClient.time("999999", now: now) == .seconds(3600))
    for other in ["", "-1", "soon", "nan", "Wed, 21 Oct 2015 07:27:00 GMT"] {
      #expect(WebhookClient.time(other, now: now) == nil, "\(other)")
    }
  }
}

@Suite struct WebhookQueueTests {
  private let start = ContinuousClock.now

  private func record(_ number: Int, told: Set<String> = []) throws -> WebhookRecord {
    var record = try #require(WebhookRecord(field: "s \(number)-0", value: "end r\(number) 1"))
    record.told = told
    return record
  }

  private func queue(_ targets: String..., limit: Int = 10_000) -> WebhookQueue {
    WebhookQueue(targets: targets, limit: limit, random: { 1 })
  }

  @Test func eachTargetIsToldOnce() throws {
    var (queue, record) = (queue("a", "b"), try record(1))
    #expect(queue.add(record, now: start) == .nothing && queue.add(record, now: start) == .nothing)
    let attempts = queue.attempts(now: start)
    #expect(attempts.map(\.target) == [0, 1] && queue.attempts(now: start).isEmpty)
    let first = queue.finished(attempts[0], .delivered, now: start)
    record.told = ["a"]
    #expect(first == .keep(record))
    record.told = ["a", "b"]
    #expect(queue.finished(attempts[1], .delivered, now: start) == .remove(record))
    queue.isRemoved(record, now: start)
    // A reply that was on its way, or somebody who has read the end late.
    #expect(queue.add(record, now: start) == .remove(record) && queue.attempts(now: start).isEmpty && queue.count == 0)
  }

  @Test func whoWasToldBeforeATakeOverIsNotToldAgain() throws {
    var queue = queue("a", "b")
    #expect(queue.add(try record(1, told: ["a"]), now: start) == .nothing)
    #expect(queue.attempts(now: start).map(\.target) == [1])
    #expect(queue.add(try record(2, told: ["a", "b"]), now: start) == .remove(try record(2, told: ["a", "b"])))
  }

  @Test func pausesGrowAndEnd() throws {
    var (queue, now, pauses) = (queue("a"), start, [Duration]())
    _ = queue.add(try record(1), now: now)
    for _ in 0..<12 {
      let attempt = try #require(queue.attempts(now: now).first)
      #expect(queue.finished(attempt, .failed(retryAfter: nil), now: now) == .nothing)
      let failed = now
      while queue.attempts(now: now).isEmpty, now - failed < .seconds(1000) {
        now += .seconds(1)
        var copy = queue
        if !copy.attempts(now: now).isEmpty { break }
      }
      pauses.append(now - failed)
    }
    #expect(Array(pauses.prefix(4)) == [.seconds(1), .seconds(2), .seconds(4), .seconds(8)])
    #expect(pauses.last == WebhookQueue.longestWait)
  }

  @Test func retryAfterIsHeeded() throws {
    var queue = queue("a", "b")
    _ = queue.add(try record(1), now: start)
    let attempts = queue.attempts(now: start)
    _ = queue.finished(attempts[0], .failed(retryAfter: .seconds(100)), now: start)
    _ = queue.add(try record(2), now: start)
    // The other record waits as well: the target has said so. The other target doesn't.
    #expect(queue.attempts(now: start + .seconds(99)).map(\.target) == [1])
    #expect(queue.attempts(now: start + .seconds(100)).map(\.target) == [0])
  }

  @Test func aTargetThatFailsIsAskedOneByOne() throws {
    var (queue, now) = (queue("a"), start)
    for number in 1...40 { _ = queue.add(try record(number), now: now) }
    let first = queue.attempts(now: now)
    #expect(first.count == WebhookQueue.concurrency)
    for attempt in first { _ = queue.finished(attempt, .failed(retryAfter: nil), now: now) }
    now += WebhookQueue.longestWait
    let one = queue.attempts(now: now)
    #expect(one.count == 1)
    _ = queue.finished(one[0], .delivered, now: now)
    #expect(queue.attempts(now: now).count == WebhookQueue.concurrency)
  }

  @Test func aDeadTargetTakesNoRoomFromTheOther() throws {
    var queue = queue("dead", "b", limit: 10)
    var delivered: [WebhookRecord] = []
    for number in 1...100 {
      _ = queue.add(try record(number), now: start)
      for attempt in queue.attempts(now: start) {
        let outcome: WebhookQueue.Outcome = attempt.target == 0 ? .failed(retryAfter: .seconds(600)) : .delivered
        if case .keep(let record) = queue.finished(attempt, outcome, now: start) { delivered.append(record) }
      }
    }
    #expect(delivered.count == 100 && delivered.allSatisfy { $0.told == ["b"] })
    #expect(queue.count == 10)
    // Those that stayed in Redis are taken up when there is room.
    #expect(queue.expire(before: 1000).count == 10)
    for number in 1...10 { queue.isRemoved(try record(number), now: start) }
    // Not at once, as the mark of who has it may be on its way.
    #expect(queue.add(try record(100), now: start) == .nothing && queue.attempts(now: start).isEmpty)
    let later = start + .seconds(700)
    _ = queue.attempts(now: later)
    _ = queue.add(delivered[50], now: later)
    #expect(queue.attempts(now: later).map(\.target) == [0])
  }

  @Test func oneThatWantsNoMoreIsLeftOut() throws {
    var queue = queue("a", "b")
    for number in 1...3 { _ = queue.add(try record(number), now: start) }
    let attempts = queue.attempts(now: start)
    for attempt in attempts where attempt.target == 1 { _ = queue.finished(attempt, .delivered, now: start) }
    let toA = attempts.filter { $0.target == 0 }
    #expect(queue.finished(toA[0], .gone, now: start) == .nothing)
    let (dropped, removed) = queue.abandoned(by: 0)
    #expect(dropped == 3 && Set(removed.map(\.field)) == ["s 1-0", "s 2-0", "s 3-0"])
    _ = queue.add(try record(4), now: start)
    #expect(queue.attempts(now: start).map(\.target) == [1])
  }

  @Test func whatIsOldIsGivenUp() throws {
    var queue = queue("a", "b")
    _ = queue.add(try record(5, told: ["a"]), now: start)
    _ = queue.add(try record(50), now: start)
    #expect(queue.expire(before: 50) == [.init(record: try record(5, told: ["a"]), targets: [1])])
    #expect(queue.expire(before: 50).isEmpty)
    #expect(queue.giveUp(try record(6))?.targets == [0, 1])
    #expect(queue.giveUp(try record(6)) == nil)
    #expect(queue.attempts(now: start).map(\.record.field) == ["s 50-0", "s 50-0"])
  }

  @Test func whatIsNeedlessIsRemovedForAll() throws {
    var queue = queue("a", "b")
    _ = queue.add(try record(1), wait: .seconds(1), now: start)
    #expect(queue.attempts(now: start).isEmpty)
    let attempts = queue.attempts(now: start + .seconds(1))
    #expect(queue.finished(attempts[0], .needless, now: start) == .remove(try record(1)))
    #expect(queue.finished(attempts[1], .needless, now: start) == .nothing)
  }

  @Test func anotherNodeSendsFromHereOn() throws {
    var queue = queue("a")
    _ = queue.add(try record(1), now: start)
    let attempts = queue.attempts(now: start)
    queue.clear()
    #expect(queue.finished(attempts[0], .delivered, now: start) == .nothing)
    #expect(queue.count == 0 && queue.inFlight == 0)
  }
}
