import NIOCore
import Testing

@testable import BatonWebSocket

@Suite struct ClosingHandshakeTests {
  private let now = NIODeadline.uptimeNanoseconds(1_000)
  private var deadline: NIODeadline { now + .seconds(5) }

  @Test func weCloseAndThePeerAnswers() {
    var server = ClosingHandshake(role: .server)
    #expect(
      server.close(.normal, reason: "done", now: now)
        == .send(.normal, reason: "done", then: .awaitPeer, deadline: deadline))
    #expect(!server.isOpen)
    #expect(server.isListening)
    #expect(server.close(.goingAway, now: now) == .nothing)
    #expect(server.peerClosed(.normal, now: now) == .closeTransport)
    #expect(server.deadlinePassed() == .nothing)
  }

  @Test func thePeerClosesAndItsCodeIsEchoedOnce() {
    var server = ClosingHandshake(role: .server)
    #expect(
      server.peerClosed(4000, now: now) == .send(4000, reason: "", then: .closeTransport, deadline: deadline))
    #expect(server.peerClosed(4000, now: now) == .nothing)
    #expect(server.close(.normal, now: now) == .nothing)
    #expect(!server.isListening)
  }

  @Test func anEmptyCloseIsEchoedEmpty() {
    var server = ClosingHandshake(role: .server)
    #expect(server.peerClosed(nil, now: now) == .send(nil, reason: "", then: .closeTransport, deadline: deadline))
  }

  @Test func aClientLeavesTheEndOfTCPToTheServer() {
    var client = ClosingHandshake(role: .client)
    #expect(client.peerClosed(1012, now: now) == .send(1012, reason: "", then: .endOutput, deadline: deadline))
    #expect(client.deadlinePassed() == .closeTransport)

    var first = ClosingHandshake(role: .client)
    _ = first.close(.normal, now: now)
    #expect(first.peerClosed(.normal, now: now) == .nothing)
    #expect(first.deadlinePassed() == .closeTransport)
  }

  @Test func aPeerThatNeverAnswersIsCutOff() {
    var server = ClosingHandshake(role: .server, patience: .milliseconds(10))
    #expect(
      server.close(.goingAway, now: now)
        == .send(.goingAway, reason: "", then: .awaitPeer, deadline: now + .milliseconds(10)))
    #expect(server.deadlinePassed() == .closeTransport)
    #expect(server.deadlinePassed() == .nothing)
  }

  @Test func aViolationIsToldAndNothingHeardAfterIt() {
    var server = ClosingHandshake(role: .server)
    let violation = WebSocketViolation(.invalidData, "not UTF-8")
    #expect(
      server.violated(violation, now: now)
        == .send(.invalidData, reason: "not UTF-8", then: .endOutput, deadline: deadline))
    #expect(!server.isListening)
    #expect(server.violated(violation, now: now) == .nothing)
    #expect(server.peerClosed(.normal, now: now) == .nothing)
    #expect(server.deadlinePassed() == .closeTransport)
  }

  @Test func aViolationAfterOurCloseEndsAtOnce() {
    var server = ClosingHandshake(role: .server)
    _ = server.close(.normal, now: now)
    #expect(server.violated(WebSocketViolation(.protocolError, ""), now: now) == .closeTransport)
  }

  @Test func aLostTransportEndsAll() {
    var client = ClosingHandshake(role: .client)
    _ = client.close(.normal, now: now)
    client.transportClosed()
    #expect(client.deadlinePassed() == .nothing)
    #expect(!client.isListening)
  }
}
