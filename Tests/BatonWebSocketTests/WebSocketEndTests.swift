import NIOCore
import NIOWebSocket
import Testing

@testable import BatonWebSocket

@Suite struct WebSocketEndTests {
  private let now = NIODeadline.uptimeNanoseconds(1_000)
  private var deadline: NIODeadline { now + .seconds(5) }
  private var end = WebSocketEnd(role: .server)

  private mutating func arrives(_ opcode: WebSocketOpcode, _ payload: String = "", isWritable: Bool = true)
    -> WebSocketEnd.Action
  {
    let frame = WebSocketFrame(fin: true, opcode: opcode, maskKey: [0, 0, 0, 0], data: ByteBuffer(string: payload))
    return end.frameArrived(frame, isWritable: isWritable, now: now)
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

  @Test mutating func afterAViolationNothingIsAnError() {
    let violation = WebSocketViolation(.tooBig, "message too big")
    #expect(
      end.errorCaught(WebSocketViolation(.tooBig, "message too big"), now: now)
        == .close(
          .send(.tooBig, reason: "message too big", then: .endOutput, deadline: deadline),
          because: .violation(violation)))
    // What the decoder says of every byte that follows must not end the connection under the close frame.
    struct MoreData: Error {}
    #expect(end.errorCaught(MoreData(), now: now) == .nothing)
    #expect(arrives(.text, "a") == .nothing)
    #expect(end.pingDue() == .nothing)
    #expect(end.deadlinePassed() == .close(.closeTransport, because: .ourselves))
  }

  @Test mutating func framesAndPingsHaveARate() {
    for (limits, opcode, violation) in [
      (WebSocketLimits(frames: Rate(2)), WebSocketOpcode.pong, WebSocketViolation.tooManyFrames),
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

  @Test mutating func anErrorOfTheTransportIsNotOurs() {
    struct Broken: Error {}
    #expect(end.errorCaught(Broken(), now: now) == nil)
  }

  @Test mutating func thePeersCloseIsToldAndEchoed() {
    #expect(
      arrives(.connectionClose, "\u{03}\u{E8}")
        == .close(
          .send(.protocolError, reason: "close code not allowed", then: .endOutput, deadline: deadline),
          because: .violation(WebSocketViolation(.protocolError, "close code not allowed"))))
    var other = WebSocketEnd(role: .server)
    let frame = WebSocketFrame(
      fin: true, opcode: .connectionClose, maskKey: [0, 0, 0, 0], data: ByteBuffer(bytes: [3, 0xE8]))
    #expect(
      other.frameArrived(frame, isWritable: true, now: now)
        == .close(
          .send(.normal, reason: "", then: .closeTransport, deadline: deadline), because: .peer(.normal, reason: "")))
  }
}
