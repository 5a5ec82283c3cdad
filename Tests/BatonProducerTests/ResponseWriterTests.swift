import NIOCore
import Testing

@testable import BatonProducer
@testable import BatonProtocol
@testable import BatonSession
@testable import BatonStore

/// A writer on a clock of its own. What it calls is noted as `operation epoch generation token first: items`.
private struct Rig {
  var now = NIODeadline.uptimeNanoseconds(1_000_000_000)
  var writer: ResponseWriter

  init(_ change: (inout ResponseWriter.Options) -> Void = { _ in }) {
    var options = ResponseWriter.Options()
    change(&options)
    writer = ResponseWriter(response: "r", writer: "w", options: options, now: now)
  }

  /// Opened as the first writer of a new response.
  static func open(_ change: (inout ResponseWriter.Options) -> Void = { _ in }) -> Rig {
    var rig = Rig(change)
    rig.writer.connected(now: rig.now)
    _ = rig.next()
    rig.ok(0)
    return rig
  }

  mutating func wait(_ milliseconds: Int64) { now = now + .milliseconds(milliseconds) }

  mutating func next() -> String? {
    switch writer.next(now: now) {
    case .open(let write): "open \(Self.text(write))"
    case .append(let write): "append \(Self.text(write))"
    case .none: nil
    case let other: "\(String(describing: other))"
    }
  }

  mutating func delta(_ texts: String...) {
    for text in texts { writer.appended(.delta(ByteBuffer(string: text)), now: now) }
  }

  mutating func event(_ name: String) { writer.appended(.event([Entry.Field("event", name)]), now: now) }

  mutating func end() { writer.ended(.end, [], now: now) }

  mutating func ok(_ n: UInt64, _ state: ResponseState = .open, epoch: UInt64 = 1) {
    reply(
      .written(.init(epoch: epoch, n: n, state: state, generation: 7, id: EntryID(1, 0), inbox: EntryID(3, 0))))
  }

  mutating func reply(_ reply: WriteReply) { writer.replied(reply, now: now) }

  private static func text(_ write: ResponseWrite) -> String {
    let items = write.items.map { item in
      switch item {
      case .start: "start"
      case .deltas(let deltas, _): deltas.map { String(buffer: $0) }.joined(separator: "+")
      case .event(let fields): "<\(String(buffer: fields[0].value))>"
      case .gap(let n): "gap \(n)"
      case .end(let state, _): "\(state)."
      }
    }
    let head = "\(write.epoch) \(write.generation.map { "\($0)" } ?? "-") \(write.token) \(write.first):"
    return ([head] + items).joined(separator: " ")
  }
}

@Suite struct ResponseWriterTests {
  @Test func opensOnceThereIsAConnection() {
    var rig = Rig()
    #expect(rig.next() == nil)
    rig.writer.connected(now: rig.now)
    #expect(rig.next() == "open 0 - w.0 1: start")
    #expect(rig.next() == nil)
    rig.ok(0)
    #expect(rig.writer.phase == .open)
    #expect(rig.writer.inbox == EntryID(3, 0))
  }

  @Test func theFirstDeltaGoesAtOnceAndOthersWithinAWindow() {
    var rig = Rig.open()
    rig.delta("a")
    #expect(rig.next() == "append 1 7 w.0 1: a")
    rig.ok(1)
    rig.delta("b")
    rig.wait(10)
    rig.delta("c")
    #expect(rig.next() == nil)
    #expect(rig.writer.wakeAt == rig.now + .milliseconds(10))
    rig.wait(10)
    #expect(rig.next() == "append 1 7 w.0 2: b+c")
  }

  @Test func otherEventsAndTheEndGoAtOnceWithWhatIsBeforeThem() {
    var rig = Rig.open()
    rig.delta("a")
    _ = rig.next()
    rig.ok(1)
    rig.delta("b", "c")
    rig.event("tool")
    #expect(rig.next() == "append 1 7 w.0 2: b+c <tool>")
    rig.ok(4)
    rig.delta("d")
    rig.end()
    #expect(rig.next() == "append 1 7 w.0 5: d end.")
    rig.ok(5, .end)
    #expect(rig.writer.phase == .ended)
  }

  @Test func oneCallIsOnItsWayAtATime() {
    var rig = Rig.open()
    rig.delta("a")
    _ = rig.next()
    rig.event("tool")
    rig.wait(1000)
    #expect(rig.next() == nil)
    rig.ok(1)
    #expect(rig.next() == "append 1 7 w.0 2: <tool>")
  }

  @Test func aLostReplyIsAskedForAgain() {
    var rig = Rig.open()
    rig.delta("a")
    _ = rig.next()
    rig.writer.disconnected("gone")
    rig.delta("b")
    rig.wait(50)
    #expect(rig.next() == nil)
    rig.writer.connected(now: rig.now)
    #expect(rig.next() == "append 1 7 w.0 1: a+b")
    rig.ok(2)
    #expect(rig.next() == nil)
  }

  @Test func aLostReplyToTheOpeningIsAskedForWithTheSameToken() {
    var rig = Rig()
    rig.writer.connected(now: rig.now)
    #expect(rig.next() == "open 0 - w.0 1: start")
    rig.writer.disconnected("gone")
    rig.wait(20_000)
    rig.writer.connected(now: rig.now)
    #expect(rig.next() == "open 0 - w.0 1: start")
  }

  @Test func aNewConnectionIsAskedWhatItHas() {
    var rig = Rig.open()
    rig.delta("a", "b", "c")
    _ = rig.next()
    rig.ok(3)
    rig.writer.disconnected("failover")
    rig.writer.connected(now: rig.now)
    #expect(rig.next() == "append 1 7 w.0 4:")
    rig.reply(.rewind(1))
    #expect(rig.next() == "append 1 7 w.0 2: b+c")
    rig.ok(3)
    #expect(rig.next() == nil)
  }

  @Test func whatIsLostIsOpenedAgainWithItsEpochAndGeneration() {
    var rig = Rig.open()
    rig.delta("a", "b")
    _ = rig.next()
    rig.ok(2)
    rig.delta("c")
    rig.wait(20)
    #expect(rig.next() == "append 1 7 w.0 3: c")
    rig.reply(.lost)
    #expect(rig.next() == "open 1 7 w.0 1: start a+b+c")
    rig.ok(3)
    rig.end()
    #expect(rig.next() == "append 1 7 w.0 4: end.")
  }

  @Test func aTakeOverGoesOnWithTheNumbers() {
    var rig = Rig()
    rig.writer.connected(now: rig.now)
    _ = rig.next()
    rig.ok(41, epoch: 3)
    rig.delta("x")
    rig.wait(20)
    #expect(rig.next() == "append 3 7 w.0 42: x")
    rig.reply(.lost)
    #expect(rig.next() == "open 3 7 w.0 1: start gap 41 x")
  }

  @Test(arguments: [
    (WriteReply.fenced(2), ProducerError.fenced), (.deleted, .deleted), (.ended(n: 1, .error), .ended(.error)),
  ])
  func refusalsAreFinal(_ reply: WriteReply, _ error: ProducerError) {
    var rig = Rig.open()
    rig.delta("a")
    _ = rig.next()
    rig.reply(reply)
    #expect(rig.writer.phase == .failed(error))
    rig.delta("b")
    rig.wait(60_000)
    #expect(rig.next() == nil)
    #expect(rig.writer.wakeAt == nil)
    #expect(rig.writer.items.bytes == 0)
  }

  @Test func anAnswerThatDoesNotFitIsAFault() {
    var rig = Rig.open()
    rig.delta("a")
    _ = rig.next()
    rig.reply(.rewind(0))
    guard case .failed(.refused) = rig.writer.phase else {
      Issue.record("\(rig.writer.phase)")
      return
    }
  }

  @Test func theLeaseIsRenewedEvery5Seconds() {
    var rig = Rig.open()
    #expect(rig.writer.wakeAt == rig.now + .seconds(5))
    rig.wait(5000)
    #expect(rig.next() == "append 1 7 w.1 1:")
    rig.ok(0)
    rig.wait(4000)
    rig.delta("a")
    #expect(rig.next() == "append 1 7 w.1 1: a")
    rig.ok(1)
    rig.wait(1000)
    #expect(rig.next() == "append 1 7 w.2 2:")
  }

  @Test func thereIsNoRoomWhileTooMuchIsOnItsWay() {
    var rig = Rig.open { $0.keep = 1000 }
    rig.delta(String(repeating: "a", count: 500), String(repeating: "b", count: 500))
    #expect(!rig.writer.hasRoom)
    _ = rig.next()
    rig.ok(2)
    #expect(rig.writer.hasRoom)
    #expect(rig.writer.items.bytes <= 1000)
  }

  @Test func whatIsNoLongerKeptIsAGap() {
    var rig = Rig.open { $0.keep = 200 }
    rig.delta("a", "b", "c", "d", "e")
    _ = rig.next()
    rig.ok(5)
    rig.writer.disconnected("failover")
    rig.writer.connected(now: rig.now)
    _ = rig.next()
    rig.reply(.rewind(1))
    #expect(rig.next() == "append 1 7 w.0 2: gap 2 c+d+e")
  }

  @Test func aCallIsBoundedAndTheNextFollowsAtOnce() {
    var rig = Rig.open()
    rig.delta("a")
    _ = rig.next()
    rig.ok(1)
    for _ in 0..<20 { rig.delta(String(repeating: "x", count: 20 << 10)) }
    rig.wait(20)
    let (items, through) = rig.writer.items.unknown()
    #expect(through == 13)
    for case .deltas(let deltas, _) in items {
      #expect(deltas.reduce(0) { $0 + $1.readableBytes } <= 64 << 10)
    }
    _ = rig.next()
    rig.ok(through)
    #expect(rig.next()?.hasPrefix("append 1 7 w.0 14: ") == true)
  }

  @Test func theEndIsLookedAfterFor10Seconds() {
    var rig = Rig.open()
    rig.delta("a")
    rig.end()
    #expect(rig.next() == "append 1 7 w.0 1: a end.")
    rig.ok(1, .end)
    for _ in 0..<9 {
      rig.wait(1000)
      #expect(rig.next() == "append 1 7 w.0 2:")
      rig.ok(1, .end)
    }
    rig.wait(1000)
    #expect(rig.next() == nil)
    #expect(rig.writer.phase == .released)
    #expect(rig.writer.wakeAt == nil)
  }

  @Test func anEndThatWasLostIsAppendedAgain() {
    var rig = Rig.open()
    rig.delta("a")
    rig.end()
    _ = rig.next()
    rig.ok(1, .end)
    rig.wait(1000)
    _ = rig.next()
    rig.ok(1, .open)
    #expect(rig.next() == "append 1 7 w.1 2: end.")
    rig.ok(1, .end)
    rig.wait(1000)
    _ = rig.next()
    rig.reply(.rewind(0))
    #expect(rig.next() == "append 1 7 w.2 1: a end.")
  }

  @Test func afterTheEndARefusalIsNobodysConcern() {
    var rig = Rig.open()
    rig.end()
    _ = rig.next()
    rig.ok(0, .end)
    rig.wait(1000)
    _ = rig.next()
    rig.reply(.deleted)
    #expect(rig.writer.phase == .released)
  }

  @Test func aRefusalForTheTimeBeingIsTriedAgainLater() {
    var rig = Rig.open()
    rig.delta("a")
    _ = rig.next()
    rig.writer.refused("OOM", now: rig.now, random: 1)
    #expect(rig.next() == nil)
    #expect(rig.writer.wakeAt == rig.now + .milliseconds(50))
    rig.wait(50)
    #expect(rig.next() == "append 1 7 w.0 1: a")
  }

  @Test func patienceEnds() {
    var rig = Rig.open { $0.patience = .seconds(60) }
    rig.wait(1000)
    rig.delta("a")
    rig.writer.disconnected("gone")
    #expect(rig.writer.wakeAt == rig.now + .seconds(60))
    rig.wait(60_000)
    #expect(rig.next() == nil)
    #expect(rig.writer.phase == .failed(.unavailable("gone")))
  }
}
