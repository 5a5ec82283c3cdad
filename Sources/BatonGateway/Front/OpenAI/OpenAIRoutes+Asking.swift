import BatonProtocol
import BatonRelay
import BatonSession
import BatonStore
import BatonUpstream
import BatonWebSocket
import Foundation
import HTTPTypes
import HummingbirdCore
import NIOCore
import NIOHTTP1

extension Routes {
  func ask(_ call: Call, _ query: Query, _ relay: Relay, _ wire: OpenAIWire) async throws -> Response {
    let request = call.request
    guard state.roles.contains(.relay) else { throw Problem.relaysNothing }
    if let seconds = state.drainingFor { throw Problem.draining(retryAfter: seconds) }
    guard MediaType.isContent(.json, request.headers[.contentType]) else {
      throw Problem(.unsupportedMediaType, "unsupported-media-type", "Send JSON with Content-Type: application/json.")
    }
    // Whoever may send nothing is not listened to.
    let who = try await identity(call, query, .publish)
    let body = try await body(call)
    let (values, isAll) = LenientJSON.values(body.readableBytesView)
    guard isAll, values.count == 1, let asked = values.first, case .object = asked else {
      throw Problem.badRequest("not-json", "The body must be one JSON object, of at most a million values.")
    }
    let streams = asked["stream"]?.isSomething == true
    if wire == .chat, !streams {
      try Self.check(asked, for: who)
      return try await passed(relay, .POST, wire.path, body, call)
    }
    let previous = try Self.previous(asked, wire)
    let key = try idempotencyKey(request)
    let given =
      request.headers.first { $0.name.canonicalName == "baton-session" }?.value
      ?? asked["metadata"]?["baton_session"]?.text
    let named = try given.map { (text) throws(Problem) in try SessionName(checking: text) } ?? previous?.session
    if let previous, named != previous.session { throw Problem.previousNotFound(previous.description) }
    try Self.check(asked, for: who)
    let subject = who?.subject ?? ""
    let response = RelayQuestion.name("resp", key, subject: subject, session: named)
    guard let name = named ?? SessionName(response) else { throw Problem.badResponse }
    let session = who?.own(name) ?? name
    if let who, !who.may(.publish, session) { throw Problem.notAllowed(.publish, session).refusing(who) }
    let id = OpenAIResponseID(response: response, session: session)
    let model = asked["model"]?.text ?? ""
    var note = OpenAITakeOver.Note(
      wire: wire == .responses ? "openai" : "openai-chat", model: model,
      createdAt: Int(Date().timeIntervalSince1970))
    var forwarded = asked.setting("stream", .bool(true))
    let isBackground = wire == .responses && asked["background"]?.isSomething == true
    note.isQueued = isBackground && relays.busy.waits && session.description != response
    var upstreamID: String?
    if let previous {
      let kept = try await kept(previous, in: session, who, relay)
      (note.previous, upstreamID) = (previous.description, kept)
      forwarded = forwarded.setting("previous_response_id", .string(Array(kept.utf8)))
    }
    if wire == .responses { forwarded = forwarded.removing(["background", "store"]) }
    if wire == .responses, relay.asksInBackground {
      forwarded = forwarded.setting("background", .bool(true)).setting("store", .bool(true))
    }
    if let metadata = forwarded["metadata"] {
      forwarded = forwarded.setting("metadata", metadata.removing(["baton_session"]))
    }
    let started = Relay.Request(
      session: session.qualified, response: response, path: wire.path, body: ByteBuffer(string: forwarded.json),
      codec: note.codec(id))
    // Nobody follows what is told of at once.
    let isFollowed = streams || !isBackground
    let place = isFollowed ? try front.place(in: session, for: who) : nil
    let detaches = request.headers.first { $0.name.canonicalName == "baton-detach" }?.value.lowercased() != "off"
    var question = RelayQuestion(
      session: session, response: response, key: key, subject: subject, who: who, note: note.fields,
      body: RelayQuestion.print(body.readableBytesView))
    let parameters = wire == .responses ? forwarded : nil
    if note.isQueued {
      question.later = RelayQuestion.Later(
        bytes: body.readableBytes, start: { try await begun(relay, started, parameters) },
        end: { try await relay.end(started, by: $0) })
    }
    let caller = detaches ? nil : Caller(call.channel, who, session)
    caller?.onLeaving { try? await cancel(response, in: session, by: "openai", subject: subject) }
    try await call.gathered.hold(0)
    let refusal: Relay.Answer?
    do {
      refusal = try await ask(question) { try await begun(relay, started, parameters) }
    } catch {
      caller?.isServed()
      throw error
    }
    if var refusal {
      caller?.isServed()
      if let upstreamID, let previous { refusal.replace(upstreamID, by: previous.description) }
      return Response(refusal, to: request)
    }
    guard let place else {
      caller?.isServed()
      return .json(ByteBuffer(string: note.responses(id).waiting.json), to: request).of(session, response)
    }
    if wire == .chat {
      return try await stream(id, call, ChatStream(), for: who, in: place) { caller?.isServed() }
    }
    if streams {
      let waiting = note.isQueued ? try await waiting(id) : nil
      if waiting != nil { watch(id) }
      return try await stream(
        id, call, ResponsesStream(id, after: nil, queuing: waiting?.queuing ?? []), for: who, in: place
      ) { caller?.isServed() }
    }
    let object = try await object(of: id, call, in: place, waits: true, beats: nil)
    caller?.isServed()
    return .json(ByteBuffer(string: object.json), to: request).of(session, response)
  }

  /// - Parameter asked: of Responses, which the model server may not know: then its Chat Completions are asked.
  private func begun(_ relay: Relay, _ request: Relay.Request, _ asked: LenientJSON?) async throws -> Relay.Outcome {
    do {
      guard let asked else { return try await relay.start(request) }
      if relay.isChatOnly {
        let outcome = try await begunAsChat(relay, request, try ChatRequest(asked))
        guard outcome.isOfNoResource else { return outcome }
        let again = try await relay.start(request)
        relay.isChatOnly = again.isOfNoResource
        return again
      }
      let outcome = try await relay.start(request)
      guard outcome.isOfNoResource else { return outcome }
      let chat: ChatRequest
      do throws(ChatRequest.Unsupported) {
        chat = try ChatRequest(asked)
      } catch {
        // Whether it would know them is not known.
        return outcome
      }
      let second = try await begunAsChat(relay, request, chat)
      if second.isOfNoResource { return outcome }
      relay.isChatOnly = true
      return second
    } catch let unsupported as ChatRequest.Unsupported {
      throw Problem.badRequest("unsupported-parameter", unsupported.words)
    }
  }

  private func begunAsChat(
    _ relay: Relay, _ request: Relay.Request, _ chat: ChatRequest
  ) async throws -> Relay.Outcome {
    guard let codec = (request.codec as? ResponsesCodec).map(ChatResponsesCodec.init) else {
      return try await relay.start(request)
    }
    var chat = chat
    var request = request
    (request.path, request.codec) = ("chat/completions", codec)
    request.body = ByteBuffer(string: chat.body.json)
    let outcome = try await relay.start(request)
    // A validator that knows no stream_options says so, in one of these.
    guard case .refused(let answer) = outcome, [400, 422].contains(answer.status),
      String(buffer: answer.body).contains("stream_options")
    else { return outcome }
    chat.leaveOutUsage()
    request.body = ByteBuffer(string: chat.body.json)
    return try await relay.start(request)
  }

  /// The response that a question goes on from; nil where it names none.
  private static func previous(_ asked: LenientJSON, _ wire: OpenAIWire) throws(Problem) -> OpenAIResponseID? {
    guard let given = asked["previous_response_id"], given.isSomething else { return nil }
    guard wire == .responses else { throw .nothingKept }
    guard let text = given.text, let previous = OpenAIResponseID(text) else {
      throw .previousNotFound(given.text ?? "")
    }
    return previous
  }

  /// The id that a response has at the model server.
  /// - Throws: `Problem` 400: nothing is known of it, as little as of one in another session or of another tenant; or the
  ///   model server keeps none.
  private func kept(
    _ previous: OpenAIResponseID, in session: SessionName, _ who: Identity?, _ relay: Relay
  ) async throws -> String {
    // What it says comes back in what is answered.
    if let who, !who.may(.read, session) { throw Problem.notAllowed(.read, session).refusing(who) }
    guard try await store.response(previous.response, in: session) != nil else {
      throw Problem.previousNotFound(previous.description)
    }
    guard !relay.isChatOnly, let id = try await store.upstreamID(of: previous.response, in: session) else {
      throw Problem.nothingKept
    }
    return id
  }

  /// What a response that the model server keeps was asked, in its own words.
  func inputItems(of kept: String, _ call: Call, _ relay: Relay) async throws -> Response {
    let plain = CharacterSet.alphanumerics.union(CharacterSet(charactersIn: "-._~"))
    guard let id = kept.addingPercentEncoding(withAllowedCharacters: plain) else { throw Problem.badEncoding }
    return try await passed(
      relay, .GET, passing("responses/\(id)/input_items" + (call.request.head.path ?? "").drop { $0 != "?" }),
      ByteBuffer(), call)
  }

  /// A target as the model server is to see it: without the token that is Baton's.
  private func passing(_ target: String) -> String {
    guard authenticator != nil, let mark = target.firstIndex(of: "?") else { return target }
    let kept = target[target.index(after: mark)...].split(separator: "&").filter { pair in
      Query.percentDecoded(pair.prefix { $0 != "=" }) != "token"
    }
    return target[..<mark] + (kept.isEmpty ? "" : "?" + kept.joined(separator: "&"))
  }

  private func passed(
    _ relay: Relay, _ method: HTTPMethod, _ target: String, _ body: ByteBuffer, _ call: Call
  ) async throws -> Response {
    do {
      var headers = HTTPHeaders()
      for field in call.request.headers where field.name.canonicalName == "openai-beta" {
        headers.add(name: field.name.canonicalName, value: field.value)
      }
      let passed = try await relay.pass(
        method, target, body, headers: headers,
        contentType: body.readableBytes > 0 ? call.request.headers[.contentType] ?? "application/json" : nil)
      switch passed {
      case .whole(let answer):
        try await call.gathered.hold(answer.body.readableBytes)
        return Response(answer, to: call.request)
      case .stream(let stream):
        try await call.gathered.hold(0)
        return Response(stream, to: call.request)
      }
    } catch let failure as Relay.Failure {
      throw Problem(failure)
    }
  }

  /// A tenant's question names nothing that the model server keeps.
  private static func check(_ asked: LenientJSON, for who: Identity?) throws(Problem) {
    guard who?.tenant != nil else { return }
    let named = ["conversation", "prompt"].first { asked[$0]?.isSomething == true } ?? kept(in: asked)
    guard let named else { return }
    throw Problem(
      .forbidden, "not-allowed",
      "\(named): what the model server keeps is not any one tenant's; send what is meant in the question itself."
    ).refusing(who)
  }

  /// The name of a member that holds ids; a schema may have a property of that name.
  private static func kept(in value: LenientJSON) -> String? {
    switch value {
    case .object(let members):
      for member in members {
        let isID = if case .string = member.value { member.name == "file_id" } else { false }
        let areIDs = ["vector_store_ids", "file_ids"].contains(member.name) && member.value.elements?.isEmpty == false
        if isID || areIDs { return member.name }
        if let found = kept(in: member.value) { return found }
      }
      return nil
    case .array(let elements): return elements.lazy.compactMap(kept).first
    default: return nil
    }
  }

  /// What is answered at once, so that nothing is left for another tenant to ask for.
  private static func keepsNothing(_ method: HTTPRequest.Method, _ target: String) -> Bool {
    let path = target.prefix { $0 != "?" }
    guard let plain = Query.percentDecoded(path), !plain.contains("..") else { return false }
    if method == .get || method == .head { return path.split(separator: "/").first == "models" }
    let answered = [
      "chat/completions", "completions", "embeddings", "moderations", "rerank", "score", "tokenize", "detokenize",
      "audio/speech", "audio/transcriptions", "audio/translations", "images/generations", "images/edits",
      "images/variations",
    ]
    return method == .post && answered.contains(String(path))
  }

  func pass(_ call: Call, _ target: String, _ query: Query, _ relay: Relay) async throws -> Response {
    guard state.roles.contains(.relay) else { throw Problem.relaysNothing }
    let who = try await identity(call, query, call.request.method == .get ? .read : .publish)
    guard who?.tenant == nil || Self.keepsNothing(call.request.method, target) else {
      throw Problem(
        .forbidden, "not-allowed",
        "What the model server keeps is not any one tenant's; of it tenants may ask for models, and for what it answers at once."
      ).refusing(who)
    }
    let method = HTTPMethod(rawValue: call.request.method.rawValue)
    let body = method == .GET ? ByteBuffer() : try await body(call)
    return try await passed(relay, method, passing(target), body, call)
  }
}

extension Relay.Outcome {
  /// The upstream has no such resource, or no such model.
  fileprivate var isOfNoResource: Bool {
    if case .refused(let answer) = self { [404, 405, 501].contains(answer.status) } else { false }
  }
}

extension Problem {
  /// In OpenAI's own words.
  fileprivate static func previousNotFound(_ id: String) -> Problem {
    badRequest("previous-response-not-found", "Previous response with id '\(id.prefix(300))' not found.")
      .with(member: "param", "previous_response_id")
  }

  fileprivate static let nothingKept = badRequest(
    "unsupported-parameter",
    "previous_response_id: the model server keeps no responses; send the conversation as input."
  ).with(member: "param", "previous_response_id")
}

extension Relay.Answer {
  fileprivate mutating func replace(_ id: String, by other: String) {
    body = ByteBuffer(string: String(buffer: body).replacing(id, with: other))
  }
}
