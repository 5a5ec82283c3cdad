import BatonProtocol
import Foundation
import NIOCore
import NIOHTTP1
import NIOPosix
import TestSupport
import Testing

@testable import BatonClient

/// The library over real sockets, against a gateway that the test plays.
@Suite(.timeLimit(.minutes(3))) struct AttachmentTests {
  /// The texts of all tokens, until the sequence ends.
  private func texts(_ attachment: SessionAttachment) async throws -> [String] {
    var texts: [String] = []
    for try await event in attachment {
      if case .frame(let frame) = event, case .entry(let entry) = frame.kind { texts.append(entry.text ?? "") }
    }
    return texts
  }

  @Test func goesOnAfterEveryKindOfLoss() async throws {
    let gateway = try await FakeGateway()
    defer { gateway.stop() }
    var options = SessionAttachment.Options()
    options.untilEnd = true
    options.device = "phone"
    let attachment = try SessionAttachment(to: "chat:1", at: [gateway.url], options: options)
    async let read = texts(attachment)

    let first = try await gateway.peer(0)
    #expect(first.request.uri == "/v1/sessions/chat:1?offset=0&until=end&device=phone")
    #expect(first.request.headers["Sec-WebSocket-Protocol"] == ["baton.v1"])
    first.attached()
    first.token(1, "a")
    first.cut()

    let second = try await gateway.peer(1)
    #expect(second.query == "offset=1-0.00000001&until=end&device=phone")
    second.attached(at: "1-0.00000001")
    second.token(2, "b")
    second.send(#"{"type":"draining","retryAfterMs":1}"#)
    second.close(1012)

    let third = try await gateway.peer(2)
    #expect(third.query.hasPrefix("offset=2-0.00000002&"))
    third.attached(at: "2-0.00000002")
    third.send("this is no frame")

    let fourth = try await gateway.peer(3)
    fourth.attached(at: "2-0.00000002")
    fourth.send(#"{"type":"reset","reason":"trimmed","from":"0","offset":"0"}"#)
    fourth.token(5, "A")
    fourth.close(1011)

    let fifth = try await gateway.peer(4)
    #expect(fifth.query.hasPrefix("offset=5-0.00000005&"))
    fifth.attached(at: "5-0.00000005")
    fifth.token(6, "B")
    fifth.close(1000, "done")
    #expect(try await read == ["a", "b", "A", "B"])
  }

  /// The answer to the handshake, an entry and the end of TCP may all be there before the client reads the first byte.
  @Test func whatComesWithTheUpgradeAndTheEndCounts() async throws {
    let gateway = try await FakeGateway()
    defer { gateway.stop() }
    let group = MultiThreadedEventLoopGroup(numberOfThreads: 1)
    let loop = group.next()
    for _ in 1...50 {
      let count = gateway.peers.count
      gateway.greet { peer in
        // The client's thread stands still until all is there.
        let isCut = DispatchSemaphore(value: 0)
        peer.channel.closeFuture.whenComplete { _ in isCut.signal() }
        loop.execute { isCut.wait() }
        peer.attached()
        peer.token(1, "a")
        peer.cut()
      }
      let attachment = try SessionAttachment(to: "s", at: [gateway.url], eventLoopGroup: group)
      async let read = texts(attachment)
      let second = try await gateway.peer(count + 1)
      #expect(second.query == "offset=1-0.00000001")
      second.close(1000)
      #expect(try await read == ["a"])
    }
    try await group.shutdownGracefully()
  }

  @Test func takesTurnsOverSeveralGateways() async throws {
    let one = try await FakeGateway()
    let two = try await FakeGateway()
    defer {
      one.stop()
      two.stop()
    }
    let attachment = try SessionAttachment(to: "s", at: [one.url, two.url])
    async let read = texts(attachment)
    try await one.peer(0).cut()
    let second = try await two.peer(0)
    second.attached()
    second.cut()
    let third = try await one.peer(1)
    third.attached()
    third.close(1000)
    #expect(try await read == [])
    #expect(two.peers.count == 1)
  }

  /// TCP stays open and nothing comes: a ping finds it out.
  @Test func leavesAHalfOpenSocket() async throws {
    let gateway = try await FakeGateway()
    defer { gateway.stop() }
    let attachment = try SessionAttachment(to: "s", at: [gateway.url])
    async let read = texts(attachment)
    let dead = try await gateway.peer(0)
    dead.attached(pingMs: 1000)
    try await eventually("a ping") { dead.frames == [#"{"type":"ping"}"#] }
    let next = try await gateway.peer(1)
    next.close(1000)
    #expect(try await read == [])
    try await eventually("the close of the dead connection") { dead.closedWith == 4000 }
  }

  @Test func retriesWhatMayPass() async throws {
    let gateway = try await FakeGateway()
    defer { gateway.stop() }
    gateway.refuse(
      .init(status: .serviceUnavailable, headers: ["Retry-After": "0"]), .init(status: .tooManyRequests),
      .init(status: .badGateway), .init(status: .notFound, body: "<html>no such backend</html>"))
    let attachment = try SessionAttachment(to: "s", at: [gateway.url])
    async let read = texts(attachment)
    try await gateway.peer(0).close(1000)
    #expect(try await read == [])
  }

  @Test(arguments: [400, 401, 403, 404, 409, 410])
  func aRefusalForGoodIsThrownWithItsReason(status: Int) async throws {
    let gateway = try await FakeGateway()
    defer { gateway.stop() }
    gateway.refuse(
      .init(
        status: .init(statusCode: status), headers: ["Content-Type": "application/problem+json"],
        body: #"{"type":"urn:baton:problem:t","title":"No","detail":"Mend this."}"#))
    let attachment = try SessionAttachment(to: "s", at: [gateway.url])
    await #expect(throws: SessionAttachment.Rejection(reason: .status(status), detail: "Mend this.")) {
      try await texts(attachment)
    }
  }

  @Test(arguments: [1008, 4401, 4403] as [UInt16])
  func aCloseForGoodIsThrown(code: UInt16) async throws {
    let gateway = try await FakeGateway()
    defer { gateway.stop() }
    let attachment = try SessionAttachment(to: "s", at: [gateway.url])
    let read = Task { try await texts(attachment) }
    let peer = try await gateway.peer(0)
    peer.attached()
    peer.close(code, "why")
    await #expect(throws: SessionAttachment.Rejection(reason: .closeCode(Int(code)), detail: "why")) {
      try await read.value
    }
  }

  @Test func aFrameBeyondTheLimitIsARejection() async throws {
    let gateway = try await FakeGateway()
    defer { gateway.stop() }
    var options = SessionAttachment.Options()
    options.maxFrameBytes = 1000
    let attachment = try SessionAttachment(to: "s", at: [gateway.url], options: options)
    let read = Task { try await texts(attachment) }
    let peer = try await gateway.peer(0)
    peer.attached()
    peer.token(1, String(repeating: "x", count: 1000))
    await #expect(throws: SessionAttachment.Rejection(reason: .closeCode(1009), detail: "message too big")) {
      try await read.value
    }
    try await eventually("its close code") {
      peer.closedWith == nil && !peer.channel.isActive || peer.closedWith == 1009
    }
  }

  @Test func asksForANewTokenWhenTheOldIsRefused() async throws {
    let gateway = try await FakeGateway()
    defer { gateway.stop() }
    gateway.refuse(.init(status: .unauthorized, body: #"{"type":"urn:baton:problem:unauthorized"}"#))
    var options = SessionAttachment.Options()
    options.token = "old"
    options.renewToken = { "new" }
    let attachment = try SessionAttachment(to: "s", at: [gateway.url], options: options)
    async let read = texts(attachment)
    let peer = try await gateway.peer(0)
    #expect(peer.request.headers["Authorization"] == ["Bearer new"])
    peer.attached()
    peer.send(#"{"type":"expiring","inMs":1000}"#)
    try await eventually("auth") { peer.frames == [#"{"token":"new","type":"auth"}"#] }
    peer.close(1000)
    _ = try await read
  }

  @Test func inputsAreAnsweredAlsoAfterALoss() async throws {
    let gateway = try await FakeGateway()
    defer { gateway.stop() }
    let attachment = try SessionAttachment(to: "s", at: [gateway.url])
    async let id = attachment.input("hi", key: "k1")
    let first = try await gateway.peer(0)
    first.attached()
    let input = #"{"data":"hi","key":"k1","type":"input"}"#
    try await eventually("the input") { first.frames == [input] }
    first.cut()
    let second = try await gateway.peer(1)
    second.attached()
    try await eventually("the input again") { second.frames == [input] }
    second.send(#"{"type":"accepted","key":"k1","inboxId":"7-0"}"#)
    #expect(try await id == EntryID(7, 0))
    await #expect(throws: SubmissionError(.tooBig)) {
      try await attachment.input(String(repeating: "x", count: 70_000))
    }
    attachment.close()
    try await eventually("the close") { second.closedWith == 1000 }
    await #expect(throws: SubmissionError(.ended)) { try await attachment.cancel(response: "r") }
  }

  /// A reader that takes nothing: the socket is not read beyond the bound, and then nothing is lost.
  @Test func aSlowReaderHoldsTheGatewayBack() async throws {
    let gateway = try await FakeGateway()
    defer { gateway.stop() }
    var options = SessionAttachment.Options()
    options.maxBufferedBytes = 64 << 10
    let attachment = try SessionAttachment(to: "s", at: [gateway.url], options: options)
    let peer = try await gateway.peer(0)
    peer.attached()
    let count = 4000
    let text = String(repeating: "x", count: 8000)
    for n in 1...count { peer.token(n, text) }
    try await eventually("a full queue") { attachment.queue.isFull }
    // Turns in which a client that still read would take far more.
    for _ in 1...1000 { try await attachment.driver?.loop.submit {}.get() }
    #expect(attachment.queue.bytes < 3 << 20)
    try await eventually("a gateway that is held back") { !peer.channel.isWritable }
    var events = attachment.makeAsyncIterator()
    var read = 0
    while read < count, let event = try await events.next() {
      if case .frame(let frame) = event, case .entry = frame.kind { read += 1 }
    }
    #expect(read == count)
    // Not before: a gateway waits 5 s for the answer to its close frame, and a busy machine may need longer to read all this.
    peer.close(1000)
    while try await events.next() != nil {}
    #expect(gateway.peers.count == 1)
  }

  /// More is to come than the queue holds, and the loop that reads it waits for the answer.
  @Test func anInputFromWithinTheLoopIsAnswered() async throws {
    let gateway = try await FakeGateway()
    defer { gateway.stop() }
    var options = SessionAttachment.Options()
    options.maxBufferedBytes = 64 << 10
    let attachment = try SessionAttachment(to: "s", at: [gateway.url], options: options)
    let read = Task {
      var texts: [String] = []
      for try await event in attachment {
        guard case .frame(let frame) = event, case .entry(let entry) = frame.kind else { continue }
        texts.append(entry.text ?? "")
        if texts.count == 1 { #expect(try await attachment.input("yes", key: "k") == EntryID(7, 0)) }
      }
      return texts.count
    }
    let first = try await gateway.peer(0)
    first.attached()
    for n in 1...1000 { first.token(n, String(repeating: "x", count: 8000)) }
    let aside = try await gateway.peer(1)
    #expect(aside.query == "offset=$")
    aside.attached(at: "1000-0.00000000")
    aside.token(1001, "not for now")
    try await eventually("the input") { !aside.frames.isEmpty }
    aside.send(#"{"type":"accepted","key":"k","inboxId":"7-0"}"#)
    let third = try await gateway.peer(2)
    let place = try #require(third.query.split(separator: "=").last.flatMap { Offset($0) })
    third.attached(at: "\(place)")
    let next = Int(place.id.milliseconds) + 1
    for n in next...1002 { third.token(n, "x") }
    third.close(1000)
    #expect(try await read.value == 1002)
  }

  @Test func whatNobodyAnswersIsGivenUp() async throws {
    let gateway = try await FakeGateway()
    defer { gateway.stop() }
    let attachment = try SessionAttachment(to: "s", at: [gateway.url])
    try await gateway.peer(0).attached()
    await #expect(throws: SubmissionError(.timedOut, "no answer in 0.01 seconds")) {
      try await attachment.input("a", key: "k", timeout: .milliseconds(10))
    }
    let waiting = Task { try await attachment.cancel(response: "r", key: "k") }
    try await eventually("the cancel") { gateway.peers.first?.frames.isEmpty == false }
    waiting.cancel()
    await #expect(throws: CancellationError.self) { try await waiting.value }
    // Its key is free again.
    await #expect(throws: SubmissionError.self) {
      try await attachment.input("a", key: "k", timeout: .milliseconds(10))
    }
  }

  @Test func aFakeTellsWhatItIsGiven() async throws {
    let entry = Frame.Entry(id: Offset(id: EntryID(1, 0)), response: "r", n: 1, text: "a")
    let attachment = SessionAttachment(
      playing: [.frame(Frame(.entry(entry)))], rejection: SessionAttachment.Rejection(reason: .status(403)))
    #expect(try await attachment.input("x") == EntryID(1, 0))
    var transcript = SessionTranscript()
    await #expect(throws: SessionAttachment.Rejection(reason: .status(403))) {
      for try await event in attachment { transcript.apply(event) }
    }
    #expect(transcript.responses.map(\.text) == ["a"])
  }

  @Test func aTokenThatNoHeaderCanCarryIsRefused() throws {
    #expect(try SessionAttachment.Options.checked(token: " abc.def\n") == "abc.def")
    for token in ["", "\n", "a b", "a\r\nHost: x", "ä"] {
      #expect(throws: SessionAttachment.Invalid.self) { try SessionAttachment.Options.checked(token: token) }
    }
  }

  @Test func anAttachmentThatNobodyHoldsIsClosed() async throws {
    let gateway = try await FakeGateway()
    defer { gateway.stop() }
    var attachment: SessionAttachment? = try SessionAttachment(to: "s", at: [gateway.url])
    let peer = try await gateway.peer(0)
    peer.attached()
    // A connection that is not open yet is dropped without a close code.
    var events = attachment?.makeAsyncIterator()
    while let event = try await events?.next(), !event.isAttached {}
    events = nil
    attachment = nil
    try await eventually("the close") { peer.closedWith == 1000 }
  }

  @Test func aCancelledReaderStops() async throws {
    let gateway = try await FakeGateway()
    defer { gateway.stop() }
    let attachment = try SessionAttachment(to: "s", at: [gateway.url])
    let reader = Task { try await texts(attachment) }
    try await gateway.peer(0).attached()
    reader.cancel()
    #expect(try await reader.value == [])
  }

  @Test func suspendsAndResumes() async throws {
    let gateway = try await FakeGateway()
    defer { gateway.stop() }
    let attachment = try SessionAttachment(to: "s", at: [gateway.url])
    let first = try await gateway.peer(0)
    first.attached()
    var events = attachment.makeAsyncIterator()
    while let event = try await events.next(), !event.isAttached {}
    async let read = texts(attachment)
    attachment.suspend()
    try await eventually("the close") { first.closedWith == 4000 }
    attachment.resume()
    let second = try await gateway.peer(1)
    second.attached()
    second.close(1000)
    _ = try await read
  }

  @Test(arguments: ["ftp://h", "h:80", "http://", "http://u@h", "http://h?x=1", "http://h:99999", ""])
  func saysWhichURLIsWrong(url: String) {
    #expect(throws: SessionAttachment.Invalid.self) { try SessionAttachment(to: "s", at: [url]) }
  }

  @Test func saysWhatElseIsWrong() {
    #expect(throws: SessionAttachment.Invalid.self) { try SessionAttachment(to: "a/b", at: ["http://h"]) }
    #expect(throws: SessionAttachment.Invalid.self) { try SessionAttachment(to: "s", at: []) }
    var options = SessionAttachment.Options()
    options.start = .newest(0)
    #expect(throws: SessionAttachment.Invalid.self) {
      try SessionAttachment(to: "s", at: ["http://h"], options: options)
    }
  }
}

@Suite struct EndpointTests {
  @Test(arguments: [
    ("http://h", "h", 80, "h", "/v1/sessions/s?a=b"), ("https://h/", "h", 443, "h", "/v1/sessions/s?a=b"),
    ("ws://h:80/x/", "h", 80, "h", "/x/v1/sessions/s?a=b"),
    ("wss://[::1]:9", "::1", 9, "[::1]:9", "/v1/sessions/s?a=b"),
  ])
  func reads(url: String, host: String, port: Int, authority: String, target: String) throws {
    let endpoint = try #require(Endpoint(url))
    #expect(endpoint.host == host)
    #expect(endpoint.port == port)
    #expect(endpoint.authority == authority)
    #expect(endpoint.target(session: "s", query: [.init(name: "a", value: "b")]) == target)
  }

  @Test func encodesWhatAQueryCantHold() throws {
    let endpoint = try #require(Endpoint("http://h"))
    #expect(
      endpoint.target(
        session: "a:b@c~d", query: [.init(name: "offset", value: "$"), .init(name: "device", value: "a&b ä")])
        == "/v1/sessions/a:b@c~d?offset=$&device=a%26b%20%C3%A4")
  }
}

extension SessionAttachment.Event {
  fileprivate var isAttached: Bool {
    if case .frame(let frame) = self, case .attached = frame.kind { true } else { false }
  }
}
