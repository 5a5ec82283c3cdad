import NIOHTTP1

/// The server's side of the opening handshake (RFC 6455 section 4.2).
package enum ServerHandshake {
  package struct Accepted: Equatable, Sendable {
    /// The subprotocol that is echoed, if the client offered any.
    package let subprotocol: String?
    /// All that the client offered, in its order.
    package let offered: [String]
    /// The complete headers of the 101 answer.
    package let headers: HTTPHeaders
  }

  package struct Refusal: Error, Equatable, Sendable {
    package let status: HTTPResponseStatus
    /// What the client has to mend.
    package let detail: String
    /// Headers that the answer must carry, `Connection: close` among them.
    package let headers: HTTPHeaders
  }

  /// Whether the request wants a WebSocket, properly or not.
  package static func isRequested(by head: HTTPRequestHead) -> Bool {
    head.headers.hasMember("Upgrade", "websocket")
  }

  /// - Parameter supported: subprotocols by preference. A client that offers subprotocols and none of these is refused;
  ///   one that offers none is accepted without.
  package static func validate(_ head: HTTPRequestHead, supported: [String] = []) -> Result<Accepted, Refusal> {
    do throws(Refusal) {
      return .success(try check(head, supported: supported))
    } catch {
      return .failure(error)
    }
  }

  private static func check(_ head: HTTPRequestHead, supported: [String]) throws(Refusal) -> Accepted {
    let headers = head.headers
    guard head.version.major == 1, head.version.minor >= 1 else {
      throw refusal(.badRequest, "A WebSocket handshake needs HTTP/1.1.")
    }
    guard head.method == .GET else {
      throw refusal(.methodNotAllowed, "A WebSocket handshake is a GET.", ("Allow", "GET"))
    }
    guard isRequested(by: head) else {
      throw refusal(.upgradeRequired, "The header Upgrade must contain websocket.", ("Upgrade", "websocket"))
    }
    guard headers.hasMember("Connection", "upgrade") else {
      throw refusal(.badRequest, "The header Connection must contain Upgrade; a proxy may have removed it.")
    }
    guard headers["Host"].count == 1 else { throw refusal(.badRequest, "Exactly one header Host is needed.") }
    guard headers["Transfer-Encoding"].isEmpty, headers["Content-Length"].allSatisfy({ $0 == "0" }) else {
      throw refusal(.badRequest, "A WebSocket handshake has no body.")
    }
    guard headers["Sec-WebSocket-Version"] == ["13"] else {
      throw refusal(
        .upgradeRequired, "The header Sec-WebSocket-Version must be 13.", ("Upgrade", "websocket"),
        ("Sec-WebSocket-Version", "13"))
    }
    let keys = headers["Sec-WebSocket-Key"]
    guard keys.count == 1, let key = keys.first, isKey(key) else {
      throw refusal(.badRequest, "The header Sec-WebSocket-Key must be the base64 of 16 bytes, once.")
    }
    let offered = headers.members("Sec-WebSocket-Protocol")
    guard offered.allSatisfy({ Handshake.isToken($0) }), Set(offered).count == offered.count else {
      throw refusal(.badRequest, "The members of Sec-WebSocket-Protocol must be tokens, each once.")
    }
    let subprotocol = supported.first(where: offered.contains)
    guard subprotocol != nil || offered.isEmpty else {
      throw refusal(
        .badRequest, "Offer the subprotocol \(supported.joined(separator: " or ")), or none at all.")
    }
    var answer: HTTPHeaders = [
      "Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Accept": Handshake.accept(forKey: key),
    ]
    if let subprotocol { answer.add(name: "Sec-WebSocket-Protocol", value: subprotocol) }
    return Accepted(subprotocol: subprotocol, offered: offered, headers: answer)
  }

  private static func isKey(_ key: String) -> Bool {
    let bytes = key.utf8
    return bytes.count == 24 && bytes.suffix(2).elementsEqual("==".utf8)
      && bytes.prefix(22).allSatisfy { byte in
        switch byte {
        case UInt8(ascii: "A")...UInt8(ascii: "Z"), UInt8(ascii: "a")...UInt8(ascii: "z"),
          UInt8(ascii: "0")...UInt8(ascii: "9"), UInt8(ascii: "+"), UInt8(ascii: "/"):
          true
        default: false
        }
      }
  }

  private static func refusal(
    _ status: HTTPResponseStatus, _ detail: String, _ headers: (String, String)...
  ) -> Refusal {
    let upgrades = headers.contains { $0.0 == "Upgrade" }
    let connection = ("Connection", upgrades ? "close, Upgrade" : "close")
    return Refusal(status: status, detail: detail, headers: HTTPHeaders(headers + [connection]))
  }
}
