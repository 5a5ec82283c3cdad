import NIOCore
import Testing

@testable import BatonWebSocket

@Suite struct WebSocketEndTests {
  private let now = NIODeadline.uptimeNanoseconds(1_000)
  private var deadline: NIODeadline { now + .seconds(5) }
  private var end = WebSocketEnd(role: .server)

  /// What the frame leads to; nil where it is not listened to.
  private mutating func arrives(_ opcode: Opcode, _ payload: String = "", isWritable: Bool = true)
    -> WebSocketEnd.Action?
  {
    var bytes = ByteBuffer()
    bytes.writeWebSocketFrame(opcode, payload: ByteBuffer(string: payload), mask: 0)
    end.arrived(bytes)
    return end.next(isWritable: isWritable, now: now)
  }

  @Test mutating func messagesAreDeliveredAndPingsAnswered() {
    #expect(arrives(.text, "a") == .deliver(.text(text("a"))))
    #expect(arrives(.ping, "p") == .pong(text("p")))
    #expect(arrives(.pong, "q") == .deliver(.pong(text("q"))))
  }

  @Test mutating func onlyTheLastPingIsAnsweredOnceThereIsRoom() {
    #expect(arrives(.ping, "1", isWritable: false) == .nothing)
    #expect(arrives(.ping, "2", isWritable: false) == .nothing)
    #expect(end.becameWritable() == .pong(text("2")))
    #expect(end.becameWritable() == .nothing)
  }

  @Test mutating func whateverArrivesAnswersAPing() {
    #expect(end.pingDue() == .ping)
    #expect(arrives(.text, "a") == .deliver(.text(text("a"))))
    #expect(end.pingDue() == .ping)
    #expect(end.pingDue() == .unanswered)
  }

  @Test mutating func afterAViolationNothingIsHeard() {
    #expect(arrives(.text, String(repeating: "a", count: 65_537)) == closing(.init(.tooBig, "message too big")))
    #expect(arrives(.text, "a") == nil)
    #expect(end.pingDue() == .nothing)
    #expect(end.deadlinePassed() == .close(.closeTransport, because: .ourselves))
  }

  @Test mutating func aFrameMayComeInPiecesAndSeveralAtOnce() {
    var bytes = ByteBuffer()
    for payload in ["a", "bc", "def"] { bytes.writeWebSocketFrame(.text, payload: text(payload), mask: 0x0102_0304) }
    var events: [WebSocketEnd.Action] = []
    for size in [1, 5, 9, 100] {
      while bytes.readableBytes > 0 {
        end.arrived(bytes.readSlice(length: min(size, bytes.readableBytes)) ?? ByteBuffer())
        while let action = end.next(isWritable: true, now: now) { events.append(action) }
      }
      #expect(events == ["a", "bc", "def"].map { .deliver(.text(text($0))) })
      events = []
      bytes.moveReaderIndex(to: 0)
    }
  }

  @Test mutating func framesAndPingsHaveARate() {
    for (limits, opcode, violation) in [
      (WebSocketLimits(frames: Rate(2)), Opcode.pong, WebSocketViolation.tooManyFrames),
      (WebSocketLimits(frames: Rate(1000), pings: Rate(2)), .ping, .tooManyPings),
    ] {
      end = WebSocketEnd(role: .server, limits: limits)
      for _ in 0..<20 { #expect(arrives(opcode, "a") != closing(violation)) }
      #expect(end.takesBytes)
      #expect(arrives(opcode, "a") == closing(violation))
      // Who floods is not listened to until the end.
      #expect(!end.takesBytes)
    }
  }

  private func closing(_ violation: WebSocketViolation) -> WebSocketEnd.Action {
    .close(
      .send(violation.code, reason: violation.reason, then: .endOutput, deadline: deadline),
      because: .violation(violation))
  }

  @Test func aRateLetsTenSecondsWorthComeAtOnce() {
    let rate = Rate(2)
    var meter = RateMeter()
    let start = NIODeadline.uptimeNanoseconds(1 << 40)
    let atOnce = (0..<21).map { _ in meter.take(rate, now: start) }
    #expect(atOnce == Array(repeating: true, count: 20) + [false])
    #expect(meter.wait(rate, now: start) == .milliseconds(500))
    let later = (0..<2).map { _ in meter.take(rate, now: start + .milliseconds(500)) }
    #expect(later == [true, false])
    #expect(!meter.isIdle(now: start + .seconds(10)))
    #expect(meter.isIdle(now: start + .seconds(11)))
  }

  @Test mutating func thePeersCloseIsToldAndEchoed() {
    #expect(
      arrives(.close, "\u{03}\u{E8}")
        == closing(WebSocketViolation(.protocolError, "close code not allowed")))
    end = WebSocketEnd(role: .server)
    end.arrived(ByteBuffer(bytes: bytes("88 82 00 00 00 00 03 e8")))
    #expect(
      end.next(isWritable: true, now: now)
        == .close(
          .send(.normal, reason: "", then: .closeTransport, deadline: deadline), because: .peer(.normal, reason: "")))
    end.arrived(ByteBuffer(bytes: bytes("81 81 00 00 00 00 61")))
    #expect(end.next(isWritable: true, now: now) == nil)
  }
}
