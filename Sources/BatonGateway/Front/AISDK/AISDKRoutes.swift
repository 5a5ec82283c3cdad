import BatonProducer
import BatonProtocol
import BatonRelay
import BatonSession
import BatonStore
import BatonUpstream
import Foundation
import HTTPTypes
import HummingbirdCore
import NIOCore

extension Routes {
  /// What `useChat` asks its backend, with messages that outlive their connections (the article Relay).
  func aiSDK(_ call: Call, _ path: Substring) async throws -> Response {
    let request = call.request
    try origins.check(request.headers[values: .origin])
    let steps = path.dropFirst(Self.aiSDKPath.count).split(separator: "/").map(String.init)
    let allow = steps.count == 2 && steps[1] == "stream" ? "GET, OPTIONS" : "POST, OPTIONS"
    if request.method == .options { return preflight(request, allow: allow) }
    let query = try Query(Target(request.head.path ?? "/").query)
    if let seconds = state.drainingFor { throw Problem.draining(retryAfter: seconds) }
    guard let name = steps.first else {
      guard let relay = relays.aiSDK else { throw Problem.noBackend }
      guard request.method == .post else { throw Problem.methodNotAllowed(allow) }
      guard state.roles.contains(.relay) else { throw Problem.relaysNothing }
      return try await ask(call, query, relay)
    }
    guard let name = Query.percentDecoded(Substring(name)) else { throw Problem.badEncoding }
    switch (request.method, steps.dropFirst()) {
    case (.get, ["stream"]): return try await resume(name, call, query)
    case (.post, ["stop"]): return try await stop(name, call, query)
    case (_, ["stream"]), (_, ["stop"]): throw Problem.methodNotAllowed(allow)
    default: throw Problem.noSuchPath
    }
  }

  static let aiSDKPath = "/v1/ai-sdk"

  // MARK: asking

  private func ask(_ call: Call, _ query: Query, _ relay: Relay) async throws -> Response {
    let request = call.request
    guard MediaType.isContent(.json, request.headers[.contentType]) else {
      throw Problem(.unsupportedMediaType, "unsupported-media-type", "Send JSON with Content-Type: application/json.")
    }
    // Whoever may send nothing is not listened to.
    _ = try await identity(call, query, .publish)
    let body = try await body(call)
    let (values, isAll) = LenientJSON.values(body.readableBytesView)
    guard isAll, values.count == 1, let value = values.first, let asked = UIMessageRequest(value) else {
      throw Problem.badRequest(
        "not-json",
        "The body must be one JSON object, of at most a million values, with the chat's id and its messages, as useChat sends it."
      )
    }
    let (session, who) = try await admitted(asked.chat, .publish, call, query)
    let subject = who?.subject ?? ""
    let given = try idempotencyKey(request)
    let key = given ?? asked.key.map { RelayQuestion.print($0.utf8) }
    let response = RelayQuestion.name("msg", key, subject: subject, session: session)
    let question = RelayQuestion(
      session: session, response: response, key: key, subject: subject, who: who,
      note: [Entry.Field("_wire", "ai-sdk")],
      body: given == nil ? nil : RelayQuestion.print(body.readableBytesView), bytes: asked.text?.utf8.count ?? 0)
    var started = Relay.Request(
      session: session.qualified, response: response, path: "", body: body,
      codec: UIMessageCodec(response: response, request: asked))
    started.headers = forwarded(request)
    if let text = asked.text {
      let input = try NewEntry(input: text, limit: limits.maxEntryBytes)
      // To ask anew is to write nothing.
      let scope = EntryPut.scope("ui", subject: subject, key: RelayQuestion.print(asked.lastMessage.utf8))
      started.accepted = { [store = store.charged] in _ = try await store.append(input, to: session, scope: scope) }
    }
    let seat = try wantsPlace(call) ? nil : front.place(in: session, for: who)
    // What the session holds before it need not be looked through for it.
    var place: Offset?
    try await call.gathered.hold(0)
    let refusal = try await ask(question) {
      place = try await store.entries(of: session, before: nil, limit: 1).entries.first?.offset ?? .zero
      return try await relay.start(started)
    }
    if let refusal { return Response(refusal, to: request) }
    guard let seat else {
      if place == nil, let turn = try await newestTurn(of: session), turn.responses.last == response {
        place = turn.responses == [response] ? turn.place : nil
      }
      return told([response], place ?? .zero, session, request)
    }
    let follows = place.map { ResponseTap.Request(after: $0, response: response) } ?? .init(response: response)
    return try await messages(UIMessageStream(UIMessageWire()), session, response, follows, call, who, seat)
  }

  // MARK: reading

  private func messages(
    _ form: UIMessageStream, _ session: SessionName, _ response: String, _ follows: ResponseTap.Request, _ call: Call,
    _ who: Identity?, _ place: DeviceRegistry.Place
  ) async throws -> Response {
    var answer = try await stream(form, of: session, follows, call, for: who, in: place) { _, bytes in
      bytes.writeString(UIMessageWire.done)
    }
    if let name = HTTPField.Name("x-vercel-ai-ui-message-stream") { answer.headers[name] = "v1" }
    return answer.of(session, response)
  }

  private func resume(_ name: String, _ call: Call, _ query: Query) async throws -> Response {
    let (session, who) = try await admitted(name, .read, call, query)
    // Who waits, and looks for what there is, takes it, too.
    let place = try front.place(in: session, for: who)
    try await answered(in: session)
    guard let turn = try await newestTurn(of: session), let last = turn.responses.last, isDue(turn) else {
      return nothing(call).of(session)
    }
    if wantsPlace(call) { return told(turn.responses, turn.place, session, call.request) }
    let form = UIMessageStream(UIMessageWire(last: last), of: turn.responses)
    return try await messages(form, session, last, ResponseTap.Request(after: turn.place), call, who, place)
  }

  /// Whether somebody reads the session itself, and asks where.
  private func wantsPlace(_ call: Call) -> Bool {
    MediaType.accepts(.json, call.request.headers[values: .accept].flatMap { $0.split(separator: ",") })
  }

  private func told(
    _ responses: [String], _ place: Offset, _ session: SessionName, _ request: Request
  ) -> Response {
    var json = JSONWriter(into: ByteBuffer())
    json.object { json in
      json.name("responses")
      json.array { json in for response in responses { json.value(response) } }
      json.member("offset", place.description)
    }
    return .json(json.buffer, to: request).of(session, responses.last)
  }

  /// Returns once no question is on its way to the backend any more: a page may be reloaded before the answer begins.
  private func answered(in session: SessionName) async throws {
    // Who asked it may have died since.
    let waits = Duration.seconds(30)
    while true {
      let since = Date().timeIntervalSince1970 * 1000 - waits / .milliseconds(1)
      let place = EntryID(UInt64(max(since, 0)), 0)
      var asked = try await unanswered(in: session, after: place)
      if !asked.isEmpty { try await asked.subtract(waiting(in: session)) }
      if asked.isEmpty || state.drainingFor != nil { return }
      try await Task.sleep(for: .milliseconds(100))
    }
  }

  /// Responses whose questions wait until others have been answered.
  private func waiting(in session: SessionName) async throws -> [String] {
    guard relays.busy.policy != .parallel else { return [] }
    return try await store.line(.look, in: session)?.questions.filter { $0.state == .waiting }.map(\.response) ?? []
  }

  private func isDue(_ turn: Turn) -> Bool {
    guard let ended = turn.ended else { return true }
    return Date().timeIntervalSince1970 * 1000 - Double(ended.milliseconds) <= relays.grace / .milliseconds(1)
  }

  // MARK: stopping

  private func stop(_ name: String, _ call: Call, _ query: Query) async throws -> Response {
    let (session, who) = try await admitted(name, .cancel, call, query)
    let subject = who?.subject ?? ""
    var open = try await unanswered(in: session)
    if let turn = try await newestTurn(of: session), turn.ended == nil, let last = turn.responses.last {
      open.insert(last)
    }
    // What waits would have its turn by the end of what runs.
    let waiting = try await waiting(in: session).filter(open.contains)
    for response in waiting + open.subtracting(waiting) {
      try await cancel(response, in: session, by: "ai-sdk", subject: subject)
    }
    return nothing(call).of(session)
  }

  /// Pages of an inbox that are looked through.
  private static let inboxPages = 64

  /// Responses that backends were asked for and that have not begun.
  private func unanswered(in session: SessionName, after place: EntryID = .zero) async throws -> Set<String> {
    var place = place
    var asked: Set<String> = []
    for _ in 0..<Self.inboxPages {
      let look = try await store.look(at: "", in: session, after: place)
      for message in look.messages {
        let texts = message.texts
        guard let response = texts["response"] else { continue }
        switch texts["event"] {
        case "relay" where texts["_wire"] == "ai-sdk": asked.insert(response)
        case "relay-refused", "cancel": asked.remove(response)
        default: break
        }
      }
      guard look.messages.count == InboxLook.count, let last = look.messages.last else { break }
      place = EntryID(last.id.milliseconds, last.id.sequence)
    }
    for response in asked where try await store.response(response, in: session) != nil { asked.remove(response) }
    return asked
  }
}

/// The entries of a message as a UI message stream.
struct UIMessageStream: RelayStream {
  private var wire: UIMessageWire
  /// Nil: whatever comes.
  private let responses: [String]?

  init(_ wire: UIMessageWire, of responses: [String]? = nil) {
    (self.wire, self.responses) = (wire, responses)
  }

  var isOver: Bool { wire.isOver }
  var held: Int { wire.held }

  mutating func breakOff(into bytes: inout ByteBuffer) {
    wire.fail("The gateway has no memory for a part of the answer now; read it again later.", into: &bytes)
  }

  mutating func write(_ entry: Entry, into bytes: inout ByteBuffer) {
    guard responses?.contains(where: { entry.isOf($0) }) ?? true else { return }
    wire.write(entry, into: &bytes)
  }
}

extension NewEntry {
  /// What a person sent to an app. Of a text that is too long the beginning is kept.
  fileprivate init(input text: String, limit: Int) throws(Problem) {
    var json = JSONWriter(into: ByteBuffer())
    json.object { json in
      json.member("event", "input")
      json.member("data", String(decoding: text.utf8.prefix(limit - 64), as: UTF8.self))
    }
    try self.init(json: json.buffer, limit: limit)
  }
}

extension Problem {
  fileprivate static let noBackend = Problem(
    .notFound, "no-backend", "This gateway stands in front of no backend: start it with --ai-sdk URL.")
}
