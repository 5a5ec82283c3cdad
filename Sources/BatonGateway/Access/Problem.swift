import BatonProtocol
import BatonSession
import NIOCore
import NIOHTTP1

/// Why a request is refused, and what to mend (RFC 9457).
package struct Problem: Error, Sendable, Equatable {
  package enum Member: Sendable, Equatable {
    case text(String)
    case number(UInt64)
    case null
  }

  package var status: HTTPResponseStatus
  /// The last part of the problem's `type`, such as `bad-offset`.
  package var name: String
  package var detail: String
  package var headers: [Header] = []
  package var members: [(name: String, value: Member)] = []
  /// What was exceeded, if anything.
  package var limit: Limit?
  /// Who was refused, where that is known; for the audit log alone.
  var identity: Identity?
  /// What it was about, where the request's target does not say all of it; for logs alone.
  var session: SessionName?

  package struct Header: Sendable, Equatable {
    package var name: String
    package var value: String
  }

  package init(_ status: HTTPResponseStatus, _ name: String, _ detail: String) {
    self.status = status
    self.name = name
    self.detail = detail
  }

  package static func == (a: Problem, b: Problem) -> Bool {
    a.status == b.status && a.name == b.name && a.detail == b.detail && a.headers == b.headers
      && a.members.elementsEqual(b.members, by: ==)
  }

  package func with(header name: String, _ value: String) -> Problem {
    var problem = self
    problem.headers.append(Header(name: name, value: value))
    return problem
  }

  package func with(member name: String, _ value: String?) -> Problem {
    var problem = self
    problem.members.append((name, value.map(Member.text) ?? .null))
    return problem
  }

  package func with(number name: String, _ value: UInt64) -> Problem {
    var problem = self
    problem.members.append((name, .number(value)))
    return problem
  }

  func about(_ session: SessionName) -> Problem {
    var problem = self
    problem.session = session
    return problem
  }

  func refusing(_ identity: Identity?) -> Problem {
    var problem = self
    problem.identity = identity
    return problem
  }

  package var type: String { "urn:baton:problem:\(name)" }

  package static let contentType = "application/problem+json"

  package var body: ByteBuffer {
    var json = JSONWriter(into: ByteBuffer())
    json.object { json in
      json.member("type", type)
      json.member("title", status.reasonPhrase)
      json.member("status", status.code)
      json.member("detail", detail)
      for (name, value) in members {
        switch value {
        case .text(let text): json.member(name, text)
        case .number(let number): json.member(name, number)
        case .null: json.member(name, String?.none)
        }
      }
    }
    return json.buffer
  }
}

extension Problem {
  package static func badRequest(_ name: String, _ detail: String) -> Problem { Problem(.badRequest, name, detail) }

  package static let noSuchPath = Problem(
    .notFound, "no-such-path", "Nothing is here. Sessions are at /v1/sessions/NAME, the demo page is at /demo.")

  package static let badEncoding = Problem.badRequest(
    "bad-encoding", "The request target holds a broken percent-encoding, or not UTF-8.")

  package static let badResponse = Problem.badRequest(
    "bad-response", "A response's name is 1 to 128 characters of A-Z a-z 0-9 . _ ~ : @ -")

  /// RFC 9112 section 3.2.
  package static let badHost = Problem.badRequest(
    "bad-host", "An HTTP/1.1 request has one header Host, with the name that the gateway is reached by.")

  private static func unanswered(_ status: HTTPResponseStatus, _ name: String, _ detail: String) -> Problem {
    Problem(status, name, detail)
  }

  /// Told in the audit log; the connection is closed without an answer.
  static let tooManyConnections = unanswered(
    .tooManyRequests, "too-many-connections",
    "an address has as many connections as --max-connections-per-address allows")

  /// Told in the audit log; the device is answered by an error frame.
  static func frameRefused(_ code: String) -> Problem {
    unanswered(code == "forbidden" ? .forbidden : .tooManyRequests, code, "a device's frame was refused")
  }

  /// Counted and logged; TLS has its own answer.
  static let badCertificate = unanswered(
    .forbidden, "bad-certificate",
    "a TLS handshake failed: the client has no certificate of --tls-client-ca that is valid now, or none was wanted of us"
  )

  /// Counted and logged; the connection is closed without an answer.
  static func badProxyHeader(_ problem: ProxyHeader.Problem) -> Problem {
    unanswered(
      .badRequest, "bad-proxy-header",
      "a proxy of --trusted-proxies sent no PROXY protocol header that can be read (\(problem)): its connection was closed"
    )
  }

  /// RFC 9112 section 6.1.
  package static let unknownTransferCoding = Problem(
    .notImplemented, "unknown-transfer-coding", "The only transfer coding of a request that is known is chunked.")

  package static let unexpectedBody = Problem.badRequest(
    "unexpected-body", "A request that attaches is a GET without a body.")

  package static let unknownExpectation = Problem(
    .expectationFailed, "unknown-expectation", "The only expectation that can be met is 100-continue.")

  /// The client's half of a handshake is here, the hop-by-hop half is not (RFC 9110 section 7.6.1).
  package static let lostUpgrade = Problem(
    .upgradeRequired, "upgrade-lost",
    "The request has Sec-WebSocket-Key but no header Upgrade: a proxy on the way has removed it. It must pass Upgrade and "
      + "Connection on, over HTTP/1.1; for nginx see Deploy/nginx. Event streams pass without."
  ).with(header: "Upgrade", "websocket").with(header: "Connection", "close, Upgrade")

  package static func methodNotAllowed(_ allow: String) -> Problem {
    Problem(.methodNotAllowed, "method-not-allowed", "Use one of \(allow) here.").with(header: "Allow", allow)
  }

  /// The store is out of reach.
  package static let storeUnavailable = Problem(
    .serviceUnavailable, "store-unavailable", "The gateway can't reach Redis; try again shortly."
  ).with(header: "Retry-After", "2")

  package static func draining(retryAfter seconds: Int64) -> Problem {
    Problem(.serviceUnavailable, "draining", "This node is going away; attach to another one, or try again shortly.")
      .with(header: "Retry-After", String(max(1, seconds)))
  }

  package static let tooManyDevices = Problem(
    .serviceUnavailable, "too-many-devices", "This node holds as many devices as --max-devices allows; try another one."
  ).with(header: "Retry-After", "5").exceeding(.devices)

  /// Of a request that needs the verdict of PROTOCOL 4, where a device would be reset.
  package static func gone(_ reset: Reset) -> Problem {
    Problem(
      .gone, "continuity-broken",
      "The stream does not continue from that offset (\(reset.reason.rawValue)); start again without after and before."
    ).with(member: "reason", reset.reason.rawValue)
      .with(member: "first", reset.first?.description)
      .with(member: "last", reset.last?.description)
  }

  package static func wrongType(_ session: SessionName) -> Problem {
    Problem(
      .conflict, "wrong-type",
      "The Redis key of session \(session) holds something else than a stream; delete it or choose another session.")
  }
}
