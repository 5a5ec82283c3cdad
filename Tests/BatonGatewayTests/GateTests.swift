import BatonGateway
import BatonProtocol
import BatonSession
import BatonWebSocket
import NIOCore
import ServiceLifecycle
import TestSupport
import Testing

@Suite(.timeLimit(.minutes(2)))
struct GateTests {
  @Test("a first request that upgrades becomes a device")
  func upgradeFirst() async throws {
    try await TestGateway.run { gateway in
      let client = try await RawClient(port: gateway.port)
      try await client.send("GET /v1/sessions/s?device=d1&last=5 HTTP/1.1\r\n\(upgrade)\r\n")
      try await client.wait(for: "HTTP/1.1 101 ")
      try await client.wait(for: #"{"type":"attached","session":"s","device":"d1""#)
      #expect(client.text.contains("Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo="))
      #expect(gateway.parts.registry.count == 1)
      let asked = gateway.backend.requests.withLockedValue { $0.first?.attach.start }
      #expect(asked == .newest(5))
      try await client.sendText(#"{"type":"ping"}"#)
      try await client.wait(for: #"{"type":"pong"}"#)
      try await client.sendText(#"{"type":"what"}"#)
      try await client.wait(for: #""code":"unsupported""#)
      try await client.close()
      try await eventually("device gone") { gateway.parts.registry.count == 0 }
      try await eventually("driver gone") { gateway.backend.devices.withLockedValue { $0 } == 0 }
    }
  }

  @Test("a connection that carried control requests may become a device")
  func upgradeLater() async throws {
    try await TestGateway.run { gateway in
      let client = try await RawClient(port: gateway.port)
      try await client.send("GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
      try await client.wait(for: "ok\n")
      try await client.send("GET /v1/sessions/s HTTP/1.1\r\nHost: localhost\r\n\r\n")
      try await client.wait(for: #""entries":[]"#)
      try await client.send("GET /v1/sessions/s?device=d2 HTTP/1.1\r\n\(upgrade)\r\n")
      try await client.wait(for: #"{"type":"attached","session":"s","device":"d2""#)
      try await client.sendText(#"{"type":"ping"}"#)
      try await client.wait(for: #"{"type":"pong"}"#)
      try await client.sendText(#"{"type":"close"}"#)
      try await eventually("1000") { client.bytes.contains(closing: .normal) }
      try await client.sendText("", opcode: .close)
      try await client.waitForClose()
      try await eventually("device gone") { gateway.parts.registry.count == 0 }
    }
  }

  @Test("an attach waits for the response before it")
  func pipelined() async throws {
    try await TestGateway.run { gateway in
      let client = try await RawClient(port: gateway.port)
      try await client.send(
        "GET /v1/sessions/slow HTTP/1.1\r\nHost: localhost\r\n\r\nGET /v1/sessions/s HTTP/1.1\r\n\(upgrade)\r\n")
      try await client.wait(for: #""type":"attached""#)
      let history = try #require(client.text.range(of: #""entries":[]"#))
      let attached = try #require(client.text.range(of: "101 Switching"))
      #expect(history.lowerBound < attached.lowerBound)
    }
  }

  @Test("frames that come with the handshake are not lost")
  func early() async throws {
    try await TestGateway.run { gateway in
      let client = try await RawClient(port: gateway.port)
      var bytes = ByteBuffer(string: "GET /v1/sessions/s HTTP/1.1\r\n\(upgrade)\r\n")
      bytes.writeWebSocketFrame(.text, payload: ByteBuffer(string: #"{"type":"ping"}"#), mask: 7)
      try await client.send(bytes)
      try await client.wait(for: #"{"type":"pong"}"#)
    }
  }

  @Test("an event stream, first and later on a connection", arguments: [false, true])
  func events(later: Bool) async throws {
    try await TestGateway.run { gateway in
      let client = try await RawClient(port: gateway.port)
      if later {
        try await client.send("GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        try await client.wait(for: "ok\n")
      }
      try await client.send(
        "GET /v1/sessions/s HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\nLast-Event-ID: 5-0\r\n\r\n")
      try await client.wait(for: "Content-Type: text/event-stream\r\n")
      #expect(client.text.contains("Transfer-Encoding: chunked\r\n"))
      #expect(client.text.contains("Cache-Control: no-store, no-transform\r\n"))
      try await client.wait(for: "\r\nid: 0\nretry: ")
      try await client.wait(for: "\ndata: {\"type\":\"attached\"")
      #expect(!client.text.contains("\r\n0\r\n"))
      let asked = gateway.backend.requests.withLockedValue { $0.first?.attach.start }
      #expect(asked == .after(Offset(id: EntryID(5, 0))))
      try await client.close()
      try await eventually("device gone") { gateway.parts.registry.count == 0 }
    }
  }

  @Test("an event stream to a client of HTTP/1.0 ends with the connection")
  func oldEvents() async throws {
    try await TestGateway.run { gateway in
      let client = try await RawClient(port: gateway.port)
      try await client.send("GET /v1/sessions/s HTTP/1.0\r\nAccept: text/event-stream\r\n\r\n")
      try await client.wait(for: "\r\n\r\nid: 0\nretry: ")
      #expect(!client.text.contains("Transfer-Encoding"))
    }
  }

  @Test("a finished event stream is 204")
  func finished() async throws {
    try await TestGateway.run { gateway in
      let client = try await RawClient(port: gateway.port)
      try await client.send(
        "GET /v1/sessions/finished HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n")
      try await client.wait(for: "HTTP/1.1 204 ")
      try await client.waitForClose()
      #expect(gateway.parts.registry.count == 0)
    }
  }

  @Test(
    "refusals before the upgrade tell what to mend",
    arguments: [
      ("/v1/sessions/a%2Fb", "400", "bad-session"), ("/v1/sessions/s?offset=x", "400", "bad-offset"),
      ("/v1/sessions/s?offset=1-1&offset=1-1", "400", "repeated-parameter"),
      ("/v1/sessions/s?offset=1-1&last=3", "400", "conflicting-parameters"),
      ("/v1/sessions/s?last=10001", "400", "bad-last"), ("/v1/sessions/s?rollup=0", "400", "bad-rollup"),
      ("/v1/sessions/s?until=start", "400", "bad-until"), ("/v1/sessions/s?device=%20", "400", "bad-device"),
      ("/v1/sessions/s?offset=%zz", "400", "bad-encoding"), ("/v1/sessions/wrong-type", "409", "wrong-type"),
    ])
  func refusals(target: String, status: String, name: String) async throws {
    try await TestGateway.run { gateway in
      let client = try await RawClient(port: gateway.port)
      try await client.send("GET \(target) HTTP/1.1\r\n\(upgrade)\r\n")
      try await client.wait(for: "\"type\":\"urn:baton:problem:\(name)\"")
      #expect(client.text.hasPrefix("HTTP/1.1 \(status) "))
      #expect(client.text.contains("application/problem+json"))
      try await client.waitForClose()
      #expect(gateway.parts.registry.count == 0)
    }
  }

  @Test("subprotocols and origins")
  func handshake() async throws {
    try await TestGateway.run { gateway in
      for (header, expected) in [
        ("Sec-WebSocket-Protocol: chat", "400"), ("Sec-WebSocket-Protocol: chat, baton.v1", "101"),
        ("Origin: https://evil.example", "403"), ("Origin: null", "403"), ("Origin: http://localhost:5173", "101"),
        ("Origin: http://localhost.evil.example", "403"), ("Origin: http://[::1]:80", "101"),
      ] {
        let client = try await RawClient(port: gateway.port)
        try await client.send("GET /v1/sessions/s HTTP/1.1\r\n\(upgrade)\(header)\r\n\r\n")
        try await client.wait(for: "\r\n\r\n")
        #expect(client.text.hasPrefix("HTTP/1.1 \(expected) "), "\(header)")
        if header.hasSuffix("baton.v1") { #expect(client.text.contains("Sec-WebSocket-Protocol: baton.v1\r\n")) }
        try await client.close()
      }
    }
  }

  @Test("a page, which can't read a refused handshake, is told by a frame and a close")
  func refusedPages() async throws {
    try await TestGateway.run { gateway in
      for (target, header, code) in [
        ("s", "Origin: https://evil.example", 4403), ("s?offset=x", "Origin: http://localhost", 4400),
      ] as [(String, String, CloseCode)] {
        let client = try await RawClient(port: gateway.port)
        try await client.send(
          "GET /v1/sessions/\(target) HTTP/1.1\r\n\(upgrade)\(header)\r\nUser-Agent: Mozilla/5.0\r\n\r\n")
        try await client.wait(for: "HTTP/1.1 101 ")
        try await client.wait(for: #"{"type":"error","code":""#)
        try await eventually("\(code)") { client.bytes.contains(closing: code) }
        try await client.wait(for: "urn:baton:problem:")
        try await client.sendText("", opcode: .close)
        try await client.waitForClose()
        #expect(gateway.parts.registry.count == 0)
      }
    }
  }

  @Test("no more devices than allowed, and one may come when one goes")
  func limit() async throws {
    try await TestGateway.run(["--max-devices", "1"]) { gateway in
      let first = try await RawClient(port: gateway.port)
      try await first.send("GET /v1/sessions/s HTTP/1.1\r\n\(upgrade)\r\n")
      try await first.wait(for: "attached")
      let second = try await RawClient(port: gateway.port)
      try await second.send("GET /v1/sessions/s HTTP/1.1\r\n\(upgrade)\r\n")
      try await second.wait(for: "too-many-devices")
      #expect(second.text.contains("Retry-After: "))
      try await first.close()
      try await eventually("device gone") { gateway.parts.registry.count == 0 }
      let third = try await RawClient(port: gateway.port)
      try await third.send("GET /v1/sessions/s HTTP/1.1\r\n\(upgrade)\r\n")
      try await third.wait(for: "attached")
    }
  }

  @Test("what a device must not send closes with its code")
  func violations() async throws {
    try await TestGateway.run { gateway in
      for (payload, opcode, code) in [
        ("[]", Opcode.text, CloseCode.policyViolation), ("x", .binary, .policyViolation),
        (String(repeating: "a", count: 70_000), .text, .tooBig),
        (String(repeating: "a", count: 8_000_000), .text, .tooBig),
      ] {
        let client = try await RawClient(port: gateway.port)
        try await client.send("GET /v1/sessions/s HTTP/1.1\r\n\(upgrade)\r\n")
        try await client.wait(for: "attached")
        // The gateway's side may end before all is sent.
        try? await client.sendText(payload, opcode: opcode)
        try await eventually("close \(code)") { client.bytes.contains(closing: code) }
        try await client.close()
      }
    }
  }

  @Test("a device that answers no ping is closed with 4408")
  func pings() async throws {
    try await TestGateway.run(["--ping-interval", "100ms"]) { gateway in
      let client = try await RawClient(port: gateway.port)
      try await client.send("GET /v1/sessions/s HTTP/1.1\r\n\(upgrade)\r\n")
      try await eventually("4408") { client.bytes.contains(closing: .unresponsive) }
      try await eventually("gone") { gateway.parts.registry.count == 0 }
    }
  }

  @Test("a connection that sends no request is closed")
  func slowHeader() async throws {
    try await TestGateway.run(["--header-timeout", "100ms"]) { gateway in
      let client = try await RawClient(port: gateway.port)
      // On a busy machine the time can be over before this is sent.
      try? await client.send("GET /heal")
      try await client.waitForClose()
      #expect(client.text.isEmpty)
    }
  }

  @Test("headers that are too large are refused")
  func largeHeader() async throws {
    try await TestGateway.run { gateway in
      let client = try await RawClient(port: gateway.port)
      try await client.send(
        "GET /healthz HTTP/1.1\r\nHost: localhost\r\nX: \(String(repeating: "x", count: 20_000))\r\n\r\n")
      try await client.wait(for: "HTTP/1.1 431 ")
      try await client.waitForClose()
    }
  }

  @Test("an upgrade to something else is ignored, and the connection ends")
  func otherUpgrade() async throws {
    try await TestGateway.run { gateway in
      let client = try await RawClient(port: gateway.port)
      try await client.send("GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n")
      try await client.wait(for: "ok\n")
      try await client.waitForClose()
    }
  }

  @Test("draining: 503 at once, devices are told and closed, the gateway ends")
  func drain() async throws {
    try await TestGateway.run(["--drain-delay", "5s", "--drain-time", "100ms"]) { gateway in
      let device = try await RawClient(port: gateway.port)
      try await device.send("GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
      try await device.wait(for: "ok")
      try await device.send("GET /v1/sessions/s HTTP/1.1\r\n\(upgrade)\r\n")
      try await device.wait(for: "attached")
      gateway.drain()
      try await eventually("draining") { gateway.parts.state.drainingFor != nil }
      let late = try await RawClient(port: gateway.port)
      try await late.send("GET /readyz HTTP/1.1\r\nHost: localhost\r\n\r\n")
      try await late.wait(for: "503 ")
      try await late.wait(for: "Connection: close\r\n")
      try await late.waitForClose()
      let later = try await RawClient(port: gateway.port)
      try await later.send("GET /v1/sessions/s HTTP/1.1\r\n\(upgrade)\r\n")
      try await later.wait(for: "urn:baton:problem:draining")
      let stream = try await RawClient(port: gateway.port)
      try await stream.send("GET /v1/sessions/s HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n")
      try await stream.wait(for: #"data: {"type":"draining","retryAfterMs":"#)
      #expect(stream.text.hasPrefix("HTTP/1.1 200 ") && stream.text.contains("\r\nretry: "))
      try await stream.waitForClose()
      #expect(!stream.text.contains("\r\n0\r\n"))
      try await device.wait(for: #"{"type":"draining","retryAfterMs":"#)
      try await eventually("1001") { device.bytes.contains(closing: .goingAway) }
      try await device.sendText("", opcode: .close)
      try await gateway.finished()
      #expect(gateway.parts.registry.count == 0)
    }
  }
}
