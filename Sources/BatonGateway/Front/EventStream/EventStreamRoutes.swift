import BatonProtocol
import BatonRelay
import BatonSession
import BatonStore
import HTTPTypes
import HummingbirdCore
import NIOCore

extension Routes {
  /// Whether a path is the gateway's own, so that no backend can have it.
  static func isOwn(_ path: String) -> Bool {
    path == "/v1" || path.hasPrefix("/v1/") || ["/healthz", "/readyz", "/append.lua", "/metrics"].contains(path)
      || WebFiles().file(path[...]) != nil
  }

  /// What is asked of a backend that answers by an event stream of any kind (the article Relay).
  func eventStream(_ call: Call, _ path: String, _ relay: Relay) async throws -> Response {
    let request = call.request
    try origins.check(request.headers[values: .origin])
    let allow = "GET, POST, OPTIONS"
    if request.method == .options { return preflight(request, allow: allow) }
    let query = try Query(Target(request.head.path ?? "/").query)
    if let seconds = state.drainingFor { throw Problem.draining(retryAfter: seconds) }
    switch request.method {
    case .post where !state.roles.contains(.relay): throw Problem.relaysNothing
    case .post: return try await ask(call, query, path, relay)
    case .get: return try await resume(call, query)
    default: throw Problem.methodNotAllowed(allow)
    }
  }

  private func ask(_ call: Call, _ query: Query, _ path: String, _ relay: Relay) async throws -> Response {
    let request = call.request
    let named = try header("baton-session", of: request).map { (text) throws(Problem) in
      try SessionName(checking: text)
    }
    let who =
      if let named {
        try await admitted(named, .publish, call, query).identity
      } else {
        try await identity(call, query, .publish)
      }
    let body = try await body(call)
    let subject = who?.subject ?? ""
    let key = try idempotencyKey(request).map { RelayQuestion.print("\(path) \($0)".utf8) }
    let response = RelayQuestion.name("run", key, subject: subject, session: named)
    guard let name = named ?? SessionName(response) else { throw Problem.badResponse }
    let session = who?.own(name) ?? name
    if let who, !who.may(.publish, session) { throw Problem.notAllowed(.publish, session).refusing(who) }
    let question = RelayQuestion(
      session: session, response: response, key: key, subject: subject, who: who,
      note: [Entry.Field("_wire", EventStreamCodec.event)], body: RelayQuestion.print(body.readableBytesView))
    var started = Relay.Request(
      session: session.qualified, response: response, path: "", body: body, codec: EventStreamCodec())
    started.contentType = request.headers[.contentType]
    started.headers = forwarded(request)
    if let coding = request.headers[.contentEncoding] { started.headers.add(name: "content-encoding", value: coding) }
    let seat = try front.place(in: session, for: who)
    // What the session holds before it need not be looked through for it.
    var place: Offset?
    try await call.gathered.hold(0)
    let refusal = try await ask(question) {
      place = try await store.entries(of: session, before: nil, limit: 1).entries.first?.offset ?? .zero
      return try await relay.start(started)
    }
    if let refusal { return Response(refusal, to: request) }
    if let place {
      return try await events(
        of: response, session, ResponseTap.Request(after: place, response: response), call, who, seat)
    }
    return try await events(of: response, session, query, call, who, seat)
  }

  private func resume(_ call: Call, _ query: Query) async throws -> Response {
    let request = call.request
    let name = try query.one("session") ?? header("baton-session", of: request) ?? ""
    let (session, who) = try await admitted(name, .read, call, query)
    let place = try front.place(in: session, for: who)
    if let response = try query.one("response") ?? header("baton-response", of: request) {
      guard Shape.name(response.utf8, upTo: 128) else { throw Problem.badResponse }
      guard try await store.response(response, in: session) != nil else {
        throw Problem(
          .notFound, "no-such-response", "Nothing is known of this response; it may never have been opened.")
      }
      return try await events(of: response, session, query, call, who, place)
    }
    guard let response = try await newestTurn(of: session)?.responses.last else { return nothing(call).of(session) }
    return try await events(of: response, session, query, call, who, place)
  }

  // MARK: reading

  /// A response's events, all of them or those after the last one that the caller has.
  private func events(
    of response: String, _ session: SessionName, _ query: Query, _ call: Call, _ who: Identity?,
    _ seat: DeviceRegistry.Place
  ) async throws -> Response {
    guard let last = try header("last-event-id", of: call.request) ?? query.one("lastEventId"), !last.isEmpty else {
      return try await events(of: response, session, ResponseTap.Request(response: response), call, who, seat)
    }
    guard let place = try await place(of: last, in: response, session, call, seat) else {
      // Whoever would connect again and again hears that there is nothing more.
      return nothing(call).of(session, response)
    }
    return try await events(
      of: response, session, ResponseTap.Request(after: place, response: response), call, who, seat)
  }

  private func events(
    of response: String, _ session: SessionName, _ follows: ResponseTap.Request, _ call: Call, _ who: Identity?,
    _ seat: DeviceRegistry.Place
  ) async throws -> Response {
    try await stream(EventStreamForm(), of: session, follows, call, for: who, in: seat) { form, _ in
      if form.isCut { throw ChannelError.ioOnClosedChannel }
    }.of(session, response)
  }

  /// Where an event is that somebody has; nil where nothing comes after it.
  /// - Throws: `Problem` 404 where there is no such event.
  private func place(
    of id: String, in response: String, _ session: SessionName, _ call: Call, _ seat: DeviceRegistry.Place
  ) async throws -> Offset? {
    var place: Offset?
    var (isLast, hasEnded) = (false, false)
    let tap = try await call.tap(ResponseTap.Request(response: response), in: session, seat, front)
    reading: for try await item in tap.items {
      switch item {
      case .reset: (place, isLast) = (nil, false)
      case .live: break reading
      case .look: continue
      case .beat: throw Problem.storeUnavailable
      case .entries(let entries):
        for entry in entries where entry.isOf(response) {
          if entry.endsResponse { hasEnded = true }
          guard let told = EventStreamWire.id(of: entry) else { continue }
          isLast = place == nil && told == id
          if isLast { place = entry.offset }
        }
        tap.taken(ResponseTap.bytes(entries))
      }
    }
    guard let place else {
      throw Problem(
        .notFound, "no-such-event",
        "The response has no event with this id, or not any more; read it from its beginning."
      )
    }
    return isLast && hasEnded ? nil : place
  }

  private func header(_ name: String, of request: Request) -> String? {
    request.headers.first { $0.name.canonicalName == name }?.value
  }
}

/// The events of a response as they came.
private struct EventStreamForm: RelayStream {
  private var wire = EventStreamWire()

  /// Whether more was to come, as far as anybody knows.
  var isCut: Bool { wire.isBroken || wire.ending != "end" && wire.ending != "cancelled" }
  var isOver: Bool { wire.isBroken }
  var held: Int { wire.held }

  mutating func write(_ entry: Entry, into bytes: inout ByteBuffer) { wire.write(entry, into: &bytes) }
}
