import BatonProtocol
import BatonSession
import BatonStore
import Foundation
import HTTPTypes
import HummingbirdCore
import Logging
import NIOCore
import NIOHTTP1

/// All requests but attaches: history, append, delete, health, metrics, the browser client (PROTOCOL 3, 7, 8, 11).
package struct Routes: Sendable {
  package let store: any SessionOperations
  let front: DeviceFront
  let relays: Relays
  package let origins: OriginRule
  package let operators: OperatorRule
  package let authenticator: Authenticator?
  package let state: NodeState
  package let metrics: GatewayMetrics
  package let refusals: Refusals
  package let limits: HTTPLimits
  let gathering: GatherBudget
  package let logger: Logger
  var audit: AuditLog? { front.audit }
  private let troubles: TroubleLog
  private let web = WebFiles()

  package init(
    store: any SessionOperations, front: DeviceFront, origins: OriginRule, operators: OperatorRule,
    authenticator: Authenticator?, state: NodeState, metrics: GatewayMetrics, refusals: Refusals, limits: HTTPLimits,
    relays: Relays = Relays(), gathering: GatherBudget, logger: Logger
  ) {
    self.store = store
    self.front = front
    self.origins = origins
    self.operators = operators
    self.authenticator = authenticator
    self.state = state
    self.metrics = metrics
    self.refusals = refusals
    self.limits = limits
    self.relays = relays
    self.gathering = gathering
    self.logger = logger
    troubles = TroubleLog(logger)
  }

  @Sendable package func respond(
    to request: Request, _ writer: consuming ResponseWriter, _ channel: any Channel
  ) async throws {
    let isOfSession = Target(request.head.path ?? "/").resource != .other
    let hasPlace = isOfSession && state.beginRequest(atMost: limits.maxRequests)
    defer { if hasPlace { state.endRequest() } }
    let call = Call(request, channel, front, gathering)
    let response =
      isOfSession && !hasPlace ? refused(.tooManyRequests, call) : await answer(call)
    // HEAD has the length of what it leaves out (RFC 9110 section 8.6).
    let body = request.method == .head ? ResponseBody() : response.body
    try await writer.write(response: response.head, body: body)
    withExtendedLifetime(call.gathered) {}
  }

  /// A request, and whether its body was asked for.
  struct Call {
    let request: Request
    let address: PeerAddress?
    let channel: any Channel
    /// Its body, and an answer that is told as a whole.
    let gathered: Gathered

    init(_ request: Request, _ channel: any Channel, _ front: DeviceFront, _ gathering: GatherBudget) {
      self.request = request
      self.channel = channel
      gathered = Gathered(gathering)
      address = front.client(channel) { name in
        HTTPField.Name(name).map { request.headers[values: $0] } ?? []
      }
    }

    /// The body; a client that waits for 100 Continue sends it now.
    var body: RequestBody {
      channel.triggerUserOutboundEvent(Gate.BodyWanted(), promise: nil)
      return request.body
    }

    /// Until there is an entry after `offset`, at the most `time`.
    func entry(
      of session: SessionName, after offset: Offset, _ time: TimeAmount, _ place: DeviceRegistry.Place,
      _ front: DeviceFront
    ) async throws {
      try await front.entry(of: session, after: offset, time, place, channel).get()
    }

    /// Entries of a session, whatever form they are then given.
    func tap(
      _ asked: ResponseTap.Request, in session: SessionName, _ place: DeviceRegistry.Place, _ front: DeviceFront
    ) async throws -> ResponseTap {
      try await front.tap(asked, in: session, place, channel).get()
    }

    /// Until the answer is written: what is handed to the channel waits there for a client that does not read.
    func answerCosts(_ charge: MemoryCharge) {
      channel.triggerUserOutboundEvent(Gate.AnswerCosts(charge: charge), promise: nil)
    }
  }

  private func answer(_ call: Call) async -> Response {
    do {
      return try await route(call)
    } catch {
      return refused(problem(for: error, call.request), call)
    }
  }

  func problem(for error: any Error, _ request: Request) -> Problem {
    switch error {
    case let problem as Problem: return problem
    case is HTTPParserError, is ChannelError, is IOError:
      // The client's, and so its line may be had for nothing.
      troubles.occurred(
        "request", .info, "a request ended early or was malformed",
        metadata: ["error": "\(error)", "path": "\(request.uri.path)"])
      return .badRequest("bad-request", "The request can't be read to its end: \(error).")
    default:
      logger.error("a request failed", metadata: ["error": "\(error)", "path": "\(request.uri.path)"])
      return Problem(.internalServerError, "internal", "The gateway failed; this is logged. Try again.")
    }
  }

  func note(_ problem: Problem, _ call: Call) {
    let request = call.request
    refusals.note(
      problem, uri: request.head.path ?? "/", origin: request.headers[.origin], from: call.address)
  }

  private func refused(_ problem: Problem, _ call: Call) -> Response {
    note(problem, call)
    let request = call.request
    var response = Response(problem)
    if origins.allows(request.headers[values: .origin]) { response.allow(request.headers[.origin]) }
    return response
  }

  private func route(_ call: Call) async throws -> Response {
    let request = call.request
    let target = Target(request.head.path ?? "/")
    switch target.resource {
    case .session(let name): return try await session(name, call, target)
    case .response(let response, let session):
      try origins.check(request.headers[values: .origin])
      if request.method == .options { return preflight(request, allow: "GET, HEAD, OPTIONS") }
      try method(request, .get)
      let query = try Query(target.query)
      let session = try await self.session(session, .read, call, query)
      guard Shape.name(response.utf8, upTo: 128) else { throw Problem.badResponse }
      guard let record = try await store.response(response, in: session) else {
        throw Problem(
          .notFound, "no-such-response", "Nothing is known of this response; it may never have been opened.")
      }
      return .json(record.json(response), to: request).of(session, response)
    case .responses(let session):
      try origins.check(request.headers[values: .origin])
      if request.method == .options { return preflight(request, allow: "GET, HEAD, OPTIONS") }
      try method(request, .get)
      return try await responses(of: session, call, try Query(target.query))
    case .input(let session): return try await submit(.input, nil, session, call, target)
    case .cancel(let response, let session): return try await submit(.cancel, response, session, call, target)
    case .controls(let response, let session):
      try origins.check(request.headers[values: .origin])
      if request.method == .options { return preflight(request, allow: "GET, OPTIONS") }
      guard request.method == .get else { throw Problem.methodNotAllowed("GET") }
      return try await controls(of: response, session, call, try Query(target.query))
    case .malformed: throw Problem.badEncoding
    case .other: return try await page(call)
    }
  }

  // MARK: Sessions

  private func session(_ name: String, _ call: Call, _ target: Target) async throws -> Response {
    let request = call.request
    try origins.check(request.headers[values: .origin])
    let query = try Query(target.query)
    switch request.method {
    case .get, .head:
      if request.method == .head, request.headers[.upgrade] != nil { throw Problem.methodNotAllowed("GET") }
      let (session, identity) = try await admitted(name, .read, call, query)
      let asked = try HistoryRequest(session: session, query: query)
      guard let page = try await history(asked, call, identity) else {
        throw Problem(
          .notFound, "no-such-session",
          "Session \(session) does not exist (yet). Attach over WebSocket or as an event stream to wait for its first entry."
        )
      }
      if asked.wait != nil, let problem = identity?.objection(to: .read, session) { throw problem }
      if let charge = page.charge { call.answerCosts(charge) }
      return .json(page.json(session: session), to: request).of(session)
    case .post:
      return try await post(name, call, query)
    case .delete:
      let (session, identity) = try await admitted(name, .delete, call, query)
      try await store.delete(session)
      audit?.acted("deleted", AuditLog.Facts(address: call.address, session: session, identity))
      var response = Response(status: .noContent)
      response.allow(request.headers[.origin])
      return response
    case .options: return preflight(request, allow: "GET, HEAD, POST, DELETE, OPTIONS")
    default: throw Problem.methodNotAllowed("GET, HEAD, POST, DELETE, OPTIONS")
    }
  }

  private func history(_ asked: HistoryRequest, _ call: Call, _ who: Identity?) async throws -> HistoryPage? {
    let page = try await store.history(asked)
    guard let wait = asked.wait, case .after(let offset) = asked.place, page?.entries.isEmpty ?? true else {
      return page
    }
    if page != nil || offset == .zero {
      let place = try front.place(in: asked.session, for: who)
      try await call.entry(of: asked.session, after: offset, wait, place, front)
      if let page = try await store.history(asked) { return page }
    }
    guard offset == .zero else { throw Problem.gone(Reset(.deleted, requested: offset, first: nil, last: nil)) }
    return HistoryPage(entries: [], first: nil, last: nil, more: false)
  }

  private func post(_ name: String, _ call: Call, _ query: Query) async throws -> Response {
    let request = call.request
    let (session, identity) = try await admitted(name, .publish, call, query)
    let type = request.headers[.contentType]
    let key = request.headers.first { $0.name.canonicalName == "idempotency-key" }?.value
    if let coding = request.headers[.contentEncoding], coding.lowercased() != "identity" {
      throw Problem(
        .unsupportedMediaType, "unsupported-content-encoding", "Send the body without Content-Encoding."
      ).with(header: "Accept-Encoding", "identity")
    }
    if MediaType.isContent(.eventStream, type) {
      return try await upload(call, to: session, by: identity, query)
    }
    let ids: [EntryID]
    var isReplayed = false
    if MediaType.isContent(.ndjson, type) {
      guard key == nil else {
        throw Problem.badRequest(
          "unsupported-header", "With NDJSON each line's n makes a retry safe; leave Idempotency-Key out.")
      }
      guard let epoch = Shape.number(try query.one("epoch")?.utf8 ?? "".utf8) else {
        throw Problem.badRequest(
          "bad-epoch",
          "NDJSON needs ?epoch=E: which writer of the response this is, 1 for the first, one more for each takeover.")
      }
      let lease = try query.one("lease")
      guard lease == nil || lease == "keep" else {
        throw Problem.badRequest("bad-lease", "lease=keep: another upload follows this one within 15 s.")
      }
      let upload = UploadTask(
        epoch: epoch, keepsLeases: lease != nil, to: session, by: identity, store: store, limits: limits,
        state: state, gathered: call.gathered)
      ids = try await upload.run(call.body)
    } else if MediaType.isContent(.json, type) {
      let key = try idempotencyKey(request)
      let entry = try NewEntry(json: try await body(call), limit: limits.maxEntryBytes)
      let scope = key.map { EntryPut.scope("post", subject: identity?.subject ?? "", key: $0) } ?? ""
      let put = try await store.append(entry, to: session, scope: scope)
      (ids, isReplayed) = ([put.id], put.again)
    } else {
      throw Problem(
        .unsupportedMediaType, "unsupported-media-type",
        "Post one JSON object with Content-Type: application/json, a response line by line as application/x-ndjson, or a UI message stream as text/event-stream."
      ).with(header: "Accept-Post", "application/json, application/x-ndjson, text/event-stream")
    }
    var json = JSONWriter(into: ByteBuffer())
    json.object { json in
      json.name("ids")
      json.array { json in for id in ids { json.value(id.description) } }
    }
    var response = Response.json(json.buffer, status: .created, to: request).of(session)
    if isReplayed { response.isReplay() }
    return response
  }

  /// - Throws: `Problem` 400.
  func idempotencyKey(_ request: Request) throws(Problem) -> String? {
    let key = request.headers.first { $0.name.canonicalName == "idempotency-key" }?.value
    if let key, key.isEmpty || key.utf8.count > 255 {
      throw .badRequest("bad-idempotency-key", "Idempotency-Key is 1 to 255 characters.")
    }
    return key
  }

  /// What a person wants, over HTTP (PROTOCOL 5).
  private func submit(
    _ kind: Submission.Kind, _ response: String?, _ session: String, _ call: Call, _ target: Target
  ) async throws -> Response {
    let request = call.request
    try origins.check(request.headers[values: .origin])
    if request.method == .options { return preflight(request, allow: "POST, OPTIONS") }
    guard request.method == .post else { throw Problem.methodNotAllowed("POST, OPTIONS") }
    let query = try Query(target.query)
    let (session, identity) = try await admitted(session, kind == .input ? .input : .cancel, call, query)
    let body = try await body(call)
    if kind == .input || body.readableBytes > 0, !MediaType.isContent(.json, request.headers[.contentType]) {
      throw Problem(
        .unsupportedMediaType, "unsupported-media-type", "Send a JSON object with Content-Type: application/json."
      ).with(header: "Accept-Post", "application/json")
    }
    let submission = try Submission(
      kind, response: response, body: body,
      key: request.headers.first { $0.name.canonicalName == "idempotency-key" }?.value,
      device: try query.one("device"), subject: identity?.subject ?? "", limit: limits.maxEntryBytes)
    let (inboxID, isReplayed) = try await store.submit(submission.put, to: session)
    var json = JSONWriter(into: ByteBuffer())
    json.object { json in
      json.member("key", submission.put.key)
      json.member("inboxId", inboxID.description)
    }
    var answer = Response.json(json.buffer, status: .accepted, to: request).of(session, submission.response)
    if isReplayed { answer.isReplay() }
    return answer
  }

  /// Responses that a list holds at the most.
  private static let maxListed = 1000

  /// Those first that were written last (PROTOCOL 8).
  private func responses(of session: String, _ call: Call, _ query: Query) async throws -> Response {
    let session = try await self.session(session, .read, call, query)
    let state = try query.one("state").map { (text) throws(Problem) in
      guard let state = ResponseState(rawValue: text) else {
        throw .badRequest("bad-state", "state is open, end, error or cancelled.")
      }
      return state
    }
    let list = try await store.responses(in: session)
    let wanted = list.responses.filter { state == nil || $0.record.state == state }
      .sorted { ($1.record.time, $1.record.id ?? .zero) < ($0.record.time, $0.record.id ?? .zero) }
    var json = JSONWriter(into: ByteBuffer())
    json.object { json in
      json.name("responses")
      json.array { json in
        for (name, record) in wanted.prefix(Self.maxListed) {
          json.object { json in
            json.member("response", name)
            json.member("n", record.n)
            json.member("state", record.state.rawValue)
            json.member("epoch", record.epoch)
            json.member("offset", record.id?.description)
          }
        }
      }
      if list.hasMore || wanted.count > Self.maxListed {
        json.name("more")
        json.value(true)
      }
    }
    return .json(json.buffer, to: call.request).of(session)
  }

  /// What people want of a response, for the process that produces it (PROTOCOL 8).
  private func controls(
    of response: String, _ session: String, _ call: Call, _ query: Query
  ) async throws -> Response {
    let request = call.request
    let (session, identity) = try await admitted(session, .publish, call, query)
    guard Shape.name(response.utf8, upTo: 128) else { throw Problem.badResponse }
    if let seconds = state.drainingFor { throw Problem.draining(retryAfter: seconds) }
    let given = try request.headers.first { $0.name.canonicalName == "last-event-id" }?.value ?? query.one("after")
    let after = try given.map { (text) throws(Problem) in try Offset(checking: text, name: "after").id }
    let controls = ControlStream(
      response: response, session: session, after: after, identity: identity, store: store, state: state)
    // Refused now, where a status can say so.
    let first = try await controls.begin()
    var answer = Response(status: .ok, body: ResponseBody { writer in try await controls.run(first, &writer) })
    answer.headers[.contentType] = "text/event-stream"
    answer.headers[.cacheControl] = "no-store, no-transform"
    if let name = HTTPField.Name("X-Accel-Buffering") { answer.headers[name] = "no" }
    answer.allow(request.headers[.origin])
    return answer.of(session, response)
  }

  private func session(
    _ name: String, _ scope: Identity.Scope, _ call: Call, _ query: Query
  ) async throws -> SessionName {
    try await admitted(name, scope, call, query).session
  }

  func admitted(
    _ name: String, _ scope: Identity.Scope, _ call: Call, _ query: Query
  ) async throws -> (session: SessionName, identity: Identity?) {
    try await admitted(try SessionName(checking: name), scope, call, query)
  }

  func admitted(
    _ name: SessionName, _ scope: Identity.Scope, _ call: Call, _ query: Query
  ) async throws -> (session: SessionName, identity: Identity?) {
    guard let identity = try await identity(call, query) else { return (name, nil) }
    let session = identity.own(name)
    guard identity.may(scope, session) else { throw Problem.notAllowed(scope, session).refusing(identity) }
    return (session, identity)
  }

  /// Nil where nobody is asked who he is.
  func identity(_ call: Call, _ query: Query) async throws -> Identity? {
    guard let authenticator else { return nil }
    let headers = call.request.headers
    let credentials = try authenticator.credentials(
      { name in HTTPField.Name(name).map { headers[values: $0] } ?? [] }, query: query)
    return try await authenticator.identify(credentials, from: call.address)
  }

  /// What a page of an accepted origin may do (Fetch Standard section 3.2.2). What it asks to send is allowed: only what is
  /// known is read.
  func preflight(_ request: Request, allow: String) -> Response {
    var response = Response(status: .noContent)
    response.headers[.allow] = allow
    response.headers[.accessControlAllowMethods] = allow
    response.headers[.accessControlAllowHeaders] =
      request.headers[.accessControlRequestHeaders] ?? "Authorization, Content-Type, Idempotency-Key, Last-Event-ID"
    response.headers[.accessControlMaxAge] = "600"
    response.allow(request.headers[.origin])
    response.headers[.vary] = "Origin, Access-Control-Request-Headers"
    return response
  }

  // MARK: The rest

  private func page(_ call: Call) async throws -> Response {
    let request = call.request
    let path = Target.originForm(request.head.path ?? "/").prefix { $0 != "?" }
    if let relay = relays.paths[String(path)] { return try await eventStream(call, String(path), relay) }
    if path == Self.aiSDKPath || path.hasPrefix(Self.aiSDKPath + "/") { return try await aiSDK(call, path) }
    if let relay = relays.openAI, path.hasPrefix("/v1/"), path != "/v1/revocations", path != "/v1/sessions",
      !path.hasPrefix("/v1/sessions/")
    {
      return await openAI(call, path, relay)
    }
    if request.method == .options, path != "/v1/revocations", path != "/v1/sessions" {
      // OPTIONS * asks about the server as a whole (RFC 9110 section 9.3.7).
      guard path == "*" || web.file(path) != nil else { throw Problem.noSuchPath }
      return preflight(request, allow: "GET, HEAD, OPTIONS")
    }
    switch path {
    case "/v1/revocations": return try await revoke(call)
    case "/v1/sessions": return try await deleteSessions(call)
    case "/healthz":
      try method(request, .get)
      return .text("ok\nbaton \(batonVersion)\n")
    case "/readyz":
      try method(request, .get)
      if let reason = state.unreadiness(at: .now()) { return .text(reason + "\n", status: .serviceUnavailable) }
      return .text("ready\n")
    case "/append.lua":
      try method(request, .get)
      return .text(AppendScript.source)
    case "/metrics":
      try method(request, .get)
      try origins.check(request.headers[values: .origin])
      try operators.check(request.headers, from: call.address)
      let text = metrics.text(
        isReady: state.unreadiness(at: .now()) == nil, relays: relays.open, roles: state.roles,
        auditLinesDropped: audit?.dropped ?? 0)
      return .text(text, type: MetricsRegistry.contentType)
    default:
      return try web.response(to: request, path: path)
    }
  }

  /// HEAD is allowed wherever GET is.
  func method(_ request: Request, _ method: HTTPRequest.Method) throws {
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
