import NIOHTTP1
import TestSupport
import Testing

@testable import BatonWebSocket

@Suite struct ServerHandshakeTests {
  private func request(
    _ change: (inout HTTPHeaders) -> Void = { _ in }, method: HTTPMethod = .GET, version: HTTPVersion = .http1_1
  ) -> HTTPRequestHead {
    var headers: HTTPHeaders = [
      "Host": "server.example.com", "Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13",
      "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
    ]
    change(&headers)
    return HTTPRequestHead(version: version, method: method, uri: "/chat", headers: headers)
  }

  private func status(_ head: HTTPRequestHead, supported: [String] = []) -> HTTPResponseStatus {
    switch ServerHandshake.validate(head, supported: supported) {
    case .success: .switchingProtocols
    case .failure(let refusal): refusal.status
    }
  }

  /// RFC 6455 section 1.3.
  @Test func answersTheExampleOfTheSpecification() throws {
    let accepted = try ServerHandshake.validate(
      request { $0.add(name: "Sec-WebSocket-Protocol", value: "chat, superchat") }, supported: ["chat"]
    ).get()
    #expect(
      accepted.headers == [
        "Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Accept": "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=",
        "Sec-WebSocket-Protocol": "chat",
      ])
  }

  @Test func readsListsInAnyCaseAndOverSeveralFields() {
    #expect(
      status(
        request {
          $0.replaceOrAdd(name: "Upgrade", value: "h2c, WebSocket")
          $0.replaceOrAdd(name: "Connection", value: "keep-alive")
          $0.add(name: "connection", value: "foo ,\tUPGRADE")
        }) == .switchingProtocols)
  }

  @Test(
    arguments: [
      ("Upgrade", nil, 426), ("Upgrade", "websockets", 426), ("Connection", nil, 400),
      ("Connection", "keep-alive", 400),
      ("Host", nil, 400), ("Sec-WebSocket-Version", nil, 426), ("Sec-WebSocket-Version", "8", 426),
      ("Sec-WebSocket-Version", "13, 8", 426), ("Sec-WebSocket-Key", nil, 400), ("Sec-WebSocket-Key", "", 400),
      ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25j", 400), ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ", 400),
      ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=!", 400), ("Content-Length", "5", 400),
      ("Transfer-Encoding", "chunked", 400), ("Content-Length", "0", 101),
    ] as [(String, String?, Int)])
  func judgesEachHeader(name: String, value: String?, expected: Int) {
    let head = request { headers in
      headers.remove(name: name)
      if let value { headers.add(name: name, value: value) }
    }
    #expect(status(head).code == UInt(expected))
  }

  @Test func refusesOtherMethodsAndVersions() {
    #expect(status(request(method: .POST)) == .methodNotAllowed)
    #expect(status(request(version: .http1_0)) == .badRequest)
    #expect(status(request { $0.add(name: "Sec-WebSocket-Key", value: "dGhlIHNhbXBsZSBub25jZQ==") }) == .badRequest)
  }

  @Test func namesTheVersionItSpeaks() throws {
    let answer = ServerHandshake.validate(request { $0.remove(name: "Sec-WebSocket-Version") })
    guard case .failure(let refusal) = answer else {
      Issue.record("accepted")
      return
    }
    #expect(refusal.headers["Sec-WebSocket-Version"] == ["13"])
    #expect(refusal.headers["Connection"] == ["close, Upgrade"])
  }

  @Test func choosesASubprotocolOrRefuses() throws {
    let offers = request {
      $0.add(name: "Sec-WebSocket-Protocol", value: "bearer.a-b_c.d")
      $0.add(name: "Sec-WebSocket-Protocol", value: "baton.v1")
    }
    let accepted = try ServerHandshake.validate(offers, supported: ["baton.v1"]).get()
    #expect(accepted.subprotocol == "baton.v1")
    #expect(accepted.offered == ["bearer.a-b_c.d", "baton.v1"])
    #expect(status(offers, supported: ["other"]) == .badRequest)
    #expect(try ServerHandshake.validate(request(), supported: ["baton.v1"]).get().subprotocol == nil)
    #expect(status(request { $0.add(name: "Sec-WebSocket-Protocol", value: "a, a") }, supported: ["a"]) == .badRequest)
    #expect(status(request { $0.add(name: "Sec-WebSocket-Protocol", value: "a b") }, supported: ["a b"]) == .badRequest)
  }
}

@Suite struct ClientHandshakeTests {
  private var client: ClientHandshake {
    var random = Dice(seed: 1)
    return ClientHandshake(
      host: "h:1", target: "/v1/sessions/s?offset=0", subprotocols: ["baton.v1"],
      headers: ["Authorization": "Bearer t"],
      random: &random)
  }

  private func answer(
    _ change: (inout HTTPHeaders) -> Void = { _ in }, status: HTTPResponseStatus = .switchingProtocols
  ) throws -> HTTPResponseHead {
    var headers = try ServerHandshake.validate(client.request, supported: ["baton.v1"]).get().headers
    change(&headers)
    return HTTPResponseHead(version: .http1_1, status: status, headers: headers)
  }

  @Test func ourServerAcceptsIt() throws {
    #expect(try client.check(answer()) == "baton.v1")
    #expect(client.request.headers["Authorization"] == ["Bearer t"])
    #expect(client.request.uri == "/v1/sessions/s?offset=0")
  }

  @Test func refusalsCarryTheStatus() throws {
    let refused = try answer(status: .forbidden)
    #expect(throws: ClientHandshake.Failure.refused(.forbidden)) { try client.check(refused) }
  }

  @Test(
    arguments: [
      ("Upgrade", nil), ("Connection", "close"), ("Sec-WebSocket-Accept", nil),
      ("Sec-WebSocket-Accept", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), ("Sec-WebSocket-Extensions", "permessage-deflate"),
      ("Sec-WebSocket-Protocol", "other"),
    ] as [(String, String?)])
  func refusesAnAnswerThatDoesNotFit(name: String, value: String?) throws {
    let wrong = try answer { headers in
      headers.remove(name: name)
      if let value { headers.add(name: name, value: value) }
    }
    #expect(throws: ClientHandshake.Failure.self) { try client.check(wrong) }
  }
}
