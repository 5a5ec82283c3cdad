import BatonGateway
import BatonProtocol
import BatonSession
import NIOCore
import NIOHTTP1
import Testing

@Suite struct RequestTests {
  private func parse(
    _ query: String, wire: DeviceRequest.Wire = .webSocket, lastEventID: String? = nil
  ) throws(Problem) -> DeviceRequest {
    try DeviceRequest(
      session: SessionName(checking: "s"), query: Query(query[...]), wire: wire, lastEventID: lastEventID,
      identity: nil, randomDevice: "random")
  }

  @Test("where a device starts")
  func starts() throws {
    #expect(try parse("").attach.start == .after(.zero))
    #expect(try parse("offset=0").attach.start == .after(.zero))
    #expect(try parse("offset=0-0").attach.start == .after(.zero))
    #expect(try parse("offset=%24").attach.start == .end)
    #expect(try parse("offset=live").attach.start == .end)
    #expect(try parse("offset=5-1.9F3A11C0").attach.start == .after(Offset(id: EntryID(5, 1), check: 0x9f3a_11c0)))
    #expect(try parse("last=10000").attach.start == .newest(10_000))
    #expect(try parse("response=r1").attach.start == .response("r1"))
    #expect(try parse("response=r1").attach.untilEnd)
    #expect(try parse("unknown=1&unknown=2").attach.device == "random")
    #expect(try parse("device=d%2D1").attach.device == "d-1")
  }

  @Test("the header Last-Event-ID wins over the query")
  func lastEventID() throws {
    let request = try parse("offset=1-0&format=text", wire: .events, lastEventID: "7-2")
    #expect(request.attach.start == .after(Offset(id: EntryID(7, 2))))
    #expect(request.wire == .text)
  }

  @Test("rollups")
  func rollups() throws {
    #expect(try parse("rollup=auto").attach.rollup == .auto)
    #expect(try parse("rollup=off").attach.rollup == .off)
    #expect(try parse("rollup=1").attach.rollup == .window(20))
    #expect(try parse("rollup=21").attach.rollup == .window(50))
    #expect(try parse("rollup=1000").attach.rollup == .window(1000))
    for wrong in ["0", "1001", "-1", "1.5", "", "99999999999999999999"] {
      #expect(throws: Problem.self) { try parse("rollup=\(wrong)") }
    }
  }

  @Test("an event stream is what asks for one by name")
  func wires() {
    func wire(_ headers: HTTPHeaders) -> DeviceRequest.Wire? {
      DeviceRequest.wire(of: HTTPRequestHead(version: .http1_1, method: .GET, uri: "/", headers: headers))
    }
    #expect(wire(["Accept": "text/event-stream"]) == .events)
    #expect(wire(["Accept": "text/html, Text/Event-Stream;q=0.5"]) == .events)
    #expect(wire(["Accept": "text/event-stream;q=0"]) == nil)
    #expect(wire(["Accept": "*/*"]) == nil)
    #expect(wire(["Upgrade": "WebSocket", "Accept": "text/event-stream"]) == .webSocket)
    #expect(wire([:]) == nil)
  }

  @Test("targets")
  func targets() {
    #expect(Target("/v1/sessions/a%3Ab?x=1").resource == .session("a:b"))
    #expect(Target("/v1/sessions/a?x=1").query == "x=1")
    #expect(Target("/v1/sessions/a/responses/r").resource == .response("r", session: "a"))
    for other in ["/", "/v1/sessions", "/v1/sessions/a/", "/v1/sessions/a/b", "//v1/sessions/a", "*", ""] {
      #expect(Target(other).resource == .other, "\(other)")
    }
    #expect(Target("/v1/sessions/").resource == .session(""))
    #expect(Target("http://host:1/v1/sessions/a?x=1").resource == .session("a"))
    #expect(Target("http://host:1/v1/sessions/a?x=1").query == "x=1")
    #expect(Target("/v1/%73essions/a").resource == .session("a"))
    #expect(Target("/v1/sessions/%ff").resource == .malformed)
    #expect(Target("/v1/sessions/%").resource == .malformed)
    #expect(Target("/v1/sessions/a/responses/%ff").resource == .malformed)
  }

  @Test("origins, exact in scheme, host and port")
  func origins() {
    let standard = OriginRule(publicOrigin: "https://chat.example:443/")
    for allowed in [
      "http://localhost", "https://localhost:9", "http://127.0.0.1:1", "http://[::1]:80", "https://CHAT.example",
    ] {
      #expect(standard.allows([allowed]), "\(allowed)")
    }
    for refused in [
      "null", "http://chat.example", "https://chat.example:444", "http://localhost.evil", "http://127.0.0.1.evil",
      "http://localhost@evil", "file://localhost", "", "http://[::1].evil", "http://localhost:x",
    ] {
      #expect(!standard.allows([refused]), "\(refused)")
    }
    #expect(standard.allows([]))
    #expect(!standard.allows(["http://localhost", "http://localhost"]))
    let listed = OriginRule(allowed: ["https://app.example"])
    #expect(listed.allows(["https://app.example"]))
    #expect(!listed.allows(["http://localhost"]))
    #expect(!listed.allows(["null"]))
  }

  @Test("origins of any scheme, null by name, and one label by a star")
  func listedOrigins() {
    let listed = OriginRule(allowed: [
      "https://*.example.com", "http://*.test:8080", "capacitor://localhost", "tauri://localhost", "null",
      "chrome-extension://abcdef", "https://[2001:db8::1]:443",
    ])
    for allowed in [
      "https://a.example.com", "https://A.example.com:443", "http://x.test:8080", "capacitor://localhost",
      "tauri://localhost", "null", "chrome-extension://abcdef", "https://[2001:DB8::1]",
    ] {
      #expect(listed.allows([allowed]), "\(allowed)")
    }
    for refused in [
      "https://example.com", "https://a.b.example.com", "https://.example.com", "http://a.example.com",
      "https://a.example.com:444", "https://evil-example.com", "http://x.test", "capacitor://other",
      "https://x/.example.com", "https://x@.example.com", "https://*.example.com", "",
    ] {
      #expect(!listed.allows([refused]), "\(refused)")
    }
    for wrong in [
      "*", "https://*", "https://*.", "https://a.*.com", "https://*a.com", "https://*.*.com", "example.com", "//x",
      "https://",
      "https://a b", "https://a/b", "https://a:x", "https://u@a", "1x://a", "file://", "*://a.com", "https://[::1",
    ] {
      #expect(OriginRule.Pattern(wrong) == nil, "\(wrong)")
    }
  }

  @Test("a response keeps its filter where the browser goes on")
  func filterGoesOn() throws {
    for request in [
      try parse("response=r1", wire: .events, lastEventID: "7-2"),
      try parse("response=r1&lastEventId=7-2", wire: .events, lastEventID: ""),
    ] {
      #expect(request.attach.start == .after(Offset(id: EntryID(7, 2))))
      #expect(request.attach.onlyResponse == "r1")
      #expect(request.attach.untilEnd)
    }
    #expect(try parse("response=r1&lastEventId=7-2").attach.start == .response("r1"))
    #expect(throws: Problem.self) { try parse("response=a%20b", wire: .events, lastEventID: "7-2") }
  }

  @Test("a page of history refuses what is for attaching")
  func history() throws {
    let session = try SessionName(checking: "s")
    #expect(try HistoryRequest(session: session, query: Query("after=1-0&limit=5")).limit == 5)
    for query in ["offset=0", "last=5", "until=end", "response=r", "rollup=off"] {
      #expect(throws: Problem.self, "\(query)") { try HistoryRequest(session: session, query: Query(query[...])) }
    }
  }
  @Test("entries to append")
  func newEntry() throws {
    func names(_ json: String) throws -> [String] {
      try NewEntry(json: ByteBuffer(string: json), limit: 1000).fields.map {
        "\(String(buffer: $0.name))=\(String(buffer: $0.value))"
      }
    }
    #expect(
      try names(#"{"data":"Hel","event":"note","response":"r1","fields":{"b":"2","a":["1","3"]}}"#)
        == ["event=note", "response=r1", "data=Hel", "a=1", "a=3", "b=2"])
    #expect(try names(#"{"data64":"aGk="}"#) == ["data=hi"])
    #expect(try names(#"{"fields":{"x":{"base64":"aGk="},"base64:aGk=":"y"}}"#) == ["hi=y", "x=hi"])
    #expect(try names(#"{"data":""}"#) == ["data="])
    #expect(try names(#"{"data":"half \ud83d"}"#) == ["data=half \u{FFFD}"])
    #expect(try names("{\"data\":\"\(String(repeating: "x", count: 996))\"}").count == 1)
    for wrong in [
      "", "[]", "{}", #"{"data":1}"#, #"{"data":null}"#, #"{"data":"a","data64":"aGk="}"#, #"{"data64":"a"}"#,
      #"{"n":1,"data":"a"}"#, #"{"event":"a b"}"#, #"{"response":""}"#, #"{"fields":{"_x":"1"}}"#,
      #"{"fields":{"data":"1"}}"#, #"{"fields":{"x":1}}"#, "{\"data\":\"\(String(repeating: "x", count: 997))\"}",
      #"{"fields":[]}"#, #"{"other":"1"}"#,
    ] {
      #expect(throws: Problem.self, "\(wrong)") { try names(wrong) }
    }
  }

  @Test("a problem is RFC 9457")
  func problem() {
    let reset = Reset(.trimmed, requested: .zero, first: Offset(id: EntryID(1, 0)), last: nil)
    let text = String(buffer: Problem.gone(reset).body)
    #expect(text.hasPrefix(#"{"type":"urn:baton:problem:continuity-broken","title":"Gone","status":410,"detail":""#))
    #expect(text.hasSuffix(#""reason":"trimmed","first":"1-0","last":null}"#))
  }
}

@Suite struct TokenTests {
  private static let secret = Array("0123456789abcdef0123456789abcdef".utf8)
  private static let claims = Authenticator.Claims(
    sub: "ann", exp: 1000, sessions: ["chat-*", "one"], scope: ["read", "x"])

  private static func authenticator() async throws -> Authenticator {
    var keys = TokenKeys()
    try await keys.add(secret: secret)
    return Authenticator(keys: keys)
  }

  @Test("a token with its claims")
  func good() async throws {
    let token = try await Authenticator.sign(Self.claims, secret: Self.secret)
    let identity = try await Self.authenticator().identify(token, now: 999)
    #expect(identity.subject == "ann")
    #expect(identity.may(.read, try SessionName(checking: "chat-42")))
    #expect(identity.may(.read, try SessionName(checking: "one")))
    #expect(!identity.may(.read, try SessionName(checking: "one-more")))
    #expect(!identity.may(.publish, try SessionName(checking: "one")))
  }

  @Test("tokens that are refused")
  func bad() async throws {
    let authenticator = try await Self.authenticator()
    let token = try await Authenticator.sign(Self.claims, secret: Self.secret)
    let other = try await Authenticator.sign(Self.claims, secret: Array("another key that is long enough!!".utf8))
    let none = "eyJhbGciOiJub25lIn0." + token.split(separator: ".")[1] + "."
    for wrong in [nil, "", "a.b.c", other, none, String(token.dropLast(3)) + "AAA", token + "x"] {
      await #expect(throws: Problem.self, "\(wrong ?? "nil")") { try await authenticator.identify(wrong, now: 1) }
    }
    await #expect(throws: Problem.self) { try await authenticator.identify(token, now: 1060) }
  }

  @Test("a token's tenant: nobody names another's sessions, and nobody goes without")
  func tenants() async throws {
    var keys = TokenKeys()
    try await keys.add(secret: Self.secret)
    let authenticator = Authenticator(keys: keys, tenantClaim: "org")
    var claims = Self.claims
    claims.tenant = "a"
    let token = try await Authenticator.sign(claims, secret: Self.secret, tenantClaim: "org")
    let identity = try await authenticator.identify(token, now: 999)
    let session = try SessionName(checking: "one")
    #expect(identity.own(session) == session.of("a"))
    #expect(identity.may(.read, session.of("a")))
    #expect(!identity.may(.read, session.of("b")))
    #expect(!identity.may(.read, session), "a name that was not made its tenant's")
    for claim in ["tenant", "org"] {
      claims.tenant = claim == "org" ? "a/b" : "a"
      let wrong = try await Authenticator.sign(claims, secret: Self.secret, tenantClaim: claim)
      await #expect(throws: Problem.self, "\(claim)") { try await authenticator.identify(wrong, now: 999) }
    }
    let other = try await Self.authenticator().identify(token, now: 999)
    #expect(other.tenant == nil && other.own(session) == session)
  }

  @Test("the first credentials found win")
  func places() throws {
    let query = try Query("token=q")
    #expect(try Authenticator.token(authorization: "Bearer h", offered: ["bearer.p"], query: query) == "h")
    #expect(try Authenticator.token(authorization: nil, offered: ["baton.v1", "bearer.p"], query: query) == "p")
    #expect(try Authenticator.token(authorization: nil, offered: [], query: query) == "q")
    #expect(throws: Problem.self) { try Authenticator.token(authorization: "Basic x", query: query) }
  }
}
