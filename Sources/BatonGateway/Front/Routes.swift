import BatonProtocol
import BatonSession
import BatonStore
import HTTPTypes
import HummingbirdCore
import Logging
import NIOCore
import NIOHTTP1

/// All requests but attaches: history, append, delete, health, metrics, the browser client (PROTOCOL 3, 7, 8, 11).
package struct Routes: Sendable {
  package let store: any SessionStore
  package let origins: OriginRule
  package let authenticator: Authenticator?
  package let state: NodeState
  package let metrics: GatewayMetrics
  package let limits: HTTPLimits
  package let logger: Logger
  private let troubles: TroubleLog
  private let web = WebFiles()

  package init(
    store: any SessionStore, origins: OriginRule, authenticator: Authenticator?, state: NodeState,
    metrics: GatewayMetrics, limits: HTTPLimits, logger: Logger
  ) {
    self.store = store
    self.origins = origins
    self.authenticator = authenticator
    self.state = state
    self.metrics = metrics
    self.limits = limits
    self.logger = logger
    troubles = TroubleLog(logger)
  }

  @Sendable package func respond(
    to request: Request, _ writer: consuming ResponseWriter, _ channel: any Channel
  ) async throws {
    var response = await answer(request)
    if request.method == .head { response.body = ResponseBody() }
    try await writer.write(response: response.head, body: response.body)
  }

  private func answer(_ request: Request) async -> Response {
    let problem: Problem
    do {
      return try await route(request)
    } catch let refusal as Problem {
      problem = refusal
    } catch let error where error is HTTPParserError || error is ChannelError || error is IOError {
      // The client's, and so its line may be had for nothing.
      troubles.occurred(
        "request", .info, "a request ended early or was malformed",
        metadata: ["error": "\(error)", "path": "\(request.uri.path)"])
      problem = Problem.badRequest("bad-request", "The request can't be read to its end: \(error).")
    } catch {
      logger.error("a request failed", metadata: ["error": "\(error)", "path": "\(request.uri.path)"])
      problem = Problem(.internalServerError, "internal", "The gateway failed; this is logged. Try again.")
    }
    metrics.refused(status: problem.status.code)
    var response = Response(problem)
    if origins.allows(request.headers[values: .origin]) { response.allow(request.headers[.origin]) }
    return response
  }

  private func route(_ request: Request) async throws -> Response {
    let target = Target(request.head.path ?? "/")
    switch target.resource {
    case .session(let name): return try await session(name, request, target)
    case .response(let response, let session):
      try method(request, .get)
      try origins.check(request.headers[values: .origin])
      let query = try Query(target.query)
      let session = try await self.session(session, .read, request, query)
      guard Shape.name(response.utf8, upTo: 128) else {
        throw Problem.badRequest("bad-response", "A response's name is 1 to 128 characters of A-Z a-z 0-9 . _ ~ : @ -")
      }
      guard let record = try await store.response(response, in: session) else {
        throw Problem(
          .notFound, "no-such-response", "Nothing is known of this response; it may never have been opened.")
      }
      return .json(record.json(response), to: request)
    case .other: return try page(request)
    }
  }

  // MARK: Sessions

  private func session(_ name: String, _ request: Request, _ target: Target) async throws -> Response {
    try origins.check(request.headers[values: .origin])
    let query = try Query(target.query)
    switch request.method {
    case .get, .head:
      if request.method == .head, request.headers[.upgrade] != nil { throw Problem.methodNotAllowed("GET") }
      let session = try await session(name, .read, request, query)
      guard let page = try await store.history(HistoryRequest(session: session, query: query)) else {
        throw Problem(
          .notFound, "no-such-session",
          "Session \(session) does not exist (yet). Attach over WebSocket or as an event stream to wait for its first entry."
        )
      }
      return .json(page.json(session: session), to: request, holding: page.charges)
    case .post:
      return try await post(name, request, query)
    case .delete:
      let session = try await session(name, .delete, request, query)
      try await store.delete(session)
      var response = Response(status: .noContent)
      response.allow(request.headers[.origin])
      return response
    case .options: return preflight(request)
    default: throw Problem.methodNotAllowed("GET, HEAD, POST, DELETE, OPTIONS")
    }
  }

  private func post(_ name: String, _ request: Request, _ query: Query) async throws -> Response {
    let (session, identity) = try await admitted(name, .publish, request, query)
    let type = request.headers[.contentType]
    let key = request.headers.first { $0.name.canonicalName == "idempotency-key" }?.value
    let ids: [EntryID]
    if MediaType.isContent(.ndjson, type) {
      guard key == nil else {
        throw Problem.badRequest(
          "unsupported-header", "With NDJSON each line's n makes a retry safe; leave Idempotency-Key out.")
      }
      ids = try await upload(request, query, to: session)
    } else if MediaType.isContent(.json, type) {
      if let key, key.isEmpty || key.utf8.count > 255 {
        throw Problem.badRequest("bad-idempotency-key", "Idempotency-Key is 1 to 255 characters.")
      }
      let entry = try NewEntry(json: try await body(request))
      let scope = key.map { "post \(identity?.subject ?? "") \($0)" } ?? ""
      ids = [try await store.append(entry, to: session, scope: scope)]
    } else {
      throw Problem(
        .unsupportedMediaType, "unsupported-media-type",
        "Post one JSON object with Content-Type: application/json, or a response line by line as application/x-ndjson.")
    }
    var json = JSONWriter(into: ByteBuffer())
    json.object { json in
      json.name("ids")
      json.array { json in for id in ids { json.value(id.description) } }
    }
    return .json(json.buffer, status: .created, to: request)
  }

  /// Appends each line as it arrives.
  private func upload(_ request: Request, _ query: Query, to session: SessionName) async throws -> [EntryID] {
    guard let epoch = Shape.number(try query.one("epoch")?.utf8 ?? "".utf8) else {
      throw Problem.badRequest(
        "bad-epoch",
        "NDJSON needs ?epoch=E: which writer of the response this is, 1 for the first, one more for each takeover.")
    }
    var upload = ResponseUpload(epoch: epoch)
    var splitter = LineSplitter(limit: limits.maxBodyBytes)
    var number = 0
    for try await chunk in request.body {
      for bytes in try splitter.take(chunk) {
        number += 1
        let line = try ResponseUpload.Line(bytes, number: number)
        try upload.took(line, try await store.append(upload.call(line), to: session))
      }
    }
    return upload.ids
  }

  private func session(
    _ name: String, _ scope: Identity.Scope, _ request: Request, _ query: Query
  ) async throws -> SessionName {
    try await admitted(name, scope, request, query).session
  }

  private func admitted(
    _ name: String, _ scope: Identity.Scope, _ request: Request, _ query: Query
  ) async throws -> (session: SessionName, identity: Identity?) {
    let session = try SessionName(checking: name)
    var known: Identity?
    if let authenticator {
      let token = try Authenticator.token(authorization: request.headers[.authorization], query: query)
      let identity = try await authenticator.identify(token)
      guard identity.may(scope, session) else { throw Problem.notAllowed(scope, session) }
      known = identity
    }
    return (session, known)
  }

  private func body(_ request: Request) async throws -> ByteBuffer {
    let tooLarge = Problem(
      HTTPResponseStatus.payloadTooLarge, "body-too-large",
      "The body may have \(limits.maxBodyBytes) bytes; large content belongs beside the stream, with a link in the entry."
    )
    if let length = request.headers[.contentLength].flatMap({ Int($0) }), length > limits.maxBodyBytes {
      throw tooLarge
    }
    do {
      return try await request.body.collect(upTo: limits.maxBodyBytes)
    } catch is NIOTooManyBytesError {
      throw tooLarge
    }
  }

  /// What a page of an accepted origin may do (Fetch Standard section 3.2.2).
  private func preflight(_ request: Request) -> Response {
    var response = Response(status: .noContent)
    response.headers[.allow] = "GET, HEAD, POST, DELETE, OPTIONS"
    response.headers[.accessControlAllowMethods] = "GET, HEAD, POST, DELETE"
    response.headers[.accessControlAllowHeaders] = "Authorization, Content-Type, Idempotency-Key, Last-Event-ID"
    response.headers[.accessControlMaxAge] = "600"
    response.allow(request.headers[.origin])
    return response
  }

  // MARK: The rest

  private func page(_ request: Request) throws -> Response {
    let path = request.uri.path
    switch path {
    case "/healthz":
      try method(request, .get)
      return .text("ok\nbaton \(batonVersion)\n")
    case "/readyz":
      try method(request, .get)
      if let reason = state.unreadiness(at: .now()) { return .text(reason + "\n", status: .serviceUnavailable) }
      return .text("ready\n")
    case "/metrics":
      try method(request, .get)
      return .text(metrics.text, type: MetricsRegistry.contentType)
    default:
      return try web.response(to: request)
    }
  }

  /// HEAD is allowed wherever GET is.
  private func method(_ request: Request, _ method: HTTPRequest.Method) throws {
    guard request.method == method || request.method == .head else { throw Problem.methodNotAllowed("GET, HEAD") }
  }
}

extension ResponseRecord {
  fileprivate func json(_ response: String) -> ByteBuffer {
    var json = JSONWriter(into: ByteBuffer())
    json.object { json in
      json.member("response", response)
      json.member("n", n)
      json.member("state", state.rawValue)
      json.member("epoch", epoch)
    }
    return json.buffer
  }
}
