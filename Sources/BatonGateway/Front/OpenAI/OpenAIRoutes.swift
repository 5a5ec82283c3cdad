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

/// A response's name as OpenAI's clients know it: `resp_<24 hex>~<session>`, or without the session where that has the same
/// name. No look-up is needed, and every node serves it.
struct OpenAIResponseID: CustomStringConvertible {
  let response: String
  let session: SessionName

  init(response: String, session: SessionName) { (self.response, self.session) = (response, session) }

  /// Nil for what no gateway has given out.
  init?(_ text: String) {
    let parts = text.split(separator: "~", maxSplits: 1, omittingEmptySubsequences: false)
    let digits = parts[0].dropFirst("resp_".count)
    guard parts[0].hasPrefix("resp_"), digits.count == 24, digits.allSatisfy({ $0.isHexDigit && !$0.isUppercase }),
      let session = SessionName(String(parts.last ?? ""))
    else { return nil }
    self.init(response: String(parts[0]), session: session)
  }

  var description: String { session.description == response ? response : "\(response)~\(session)" }
}

extension Routes {
  /// What OpenAI's clients ask of the model server, with answers that outlive their connections (the article Relay).
  func openAI(_ call: Call, _ path: Substring, _ relay: Relay) async -> Response {
    let request = call.request
    do {
      try origins.check(request.headers[values: .origin])
      if request.method == .options { return preflight(request, allow: "GET, POST, DELETE, OPTIONS") }
      let target = Target.originForm(request.head.path ?? "/")
      let query = try Query(target.firstIndex(of: "?").map { target[target.index(after: $0)...] })
      let steps = path.split(separator: "/", omittingEmptySubsequences: false).dropFirst(2).map(String.init)
      switch (request.method, steps.first, steps.count) {
      case (.post, "responses", 1): return try await ask(call, query, relay, .responses)
      case (.post, "chat", 2) where steps[1] == "completions": return try await ask(call, query, relay, .chat)
      case (_, "responses", 2...3):
        guard let name = Query.percentDecoded(Substring(steps[1])), let id = OpenAIResponseID(name) else {
          throw Problem(.notFound, "no-such-response", "No response with this id was given out.")
        }
        return try await response(id, steps.count == 3 ? steps[2] : nil, call, query)
      default: return try await pass(call, String(target.dropFirst("/v1/".count)), query, relay)
      }
    } catch {
      let problem = problem(for: error, request)
      note(problem, request)
      var response = Response(openAI: problem)
      if origins.allows(request.headers[values: .origin]) { response.allow(request.headers[.origin]) }
      return response
    }
  }

  private enum Wire {
    case responses, chat

    var path: String { self == .responses ? "responses" : "chat/completions" }
  }

  // MARK: asking

  private func ask(_ call: Call, _ query: Query, _ relay: Relay, _ wire: Wire) async throws -> Response {
    let request = call.request
    if let seconds = state.drainingFor { throw Problem.draining(retryAfter: seconds) }
    guard MediaType.isContent(.json, request.headers[.contentType]) else {
      throw Problem(.unsupportedMediaType, "unsupported-media-type", "Send JSON with Content-Type: application/json.")
    }
    let body = try await body(call)
    let (values, isAll) = LenientJSON.values(body.readableBytesView)
    guard isAll, values.count == 1, let asked = values.first, case .object = asked else {
      throw Problem.badRequest("not-json", "The body must be one JSON object.")
    }
    let streams = asked["stream"]?.isSomething == true
    if wire == .chat, !streams {
      _ = try await identity(call, query, .publish, nil)
      return Response(try await passed(relay, .POST, wire.path, body), to: request)
    }
    if asked["previous_response_id"]?.isSomething == true {
      throw Problem.badRequest(
        "unsupported-parameter",
        "previous_response_id: the model server keeps no responses; send the conversation as input.")
    }
    let key = request.headers.first { $0.name.canonicalName == "idempotency-key" }?.value
    if let key, key.isEmpty || key.utf8.count > 255 {
      throw Problem.badRequest("bad-idempotency-key", "Idempotency-Key is 1 to 255 characters.")
    }
    let given =
      request.headers.first { $0.name.canonicalName == "baton-session" }?.value
      ?? asked["metadata"]?["baton_session"]?.text
    let named = try given.map { (text) throws(Problem) in try SessionName(checking: text) }
    let who = try await identity(call, query, .publish, named)
    let response = Self.name(key, subject: who?.subject ?? "", session: named)
    guard let session = named ?? SessionName(response) else { throw Problem.badResponse }
    if let who, !who.may(.publish, session) { throw Problem.notAllowed(.publish, session) }
    let id = OpenAIResponseID(response: response, session: session)
    let model = asked["model"]?.text ?? ""
    let codec: any RelayCodec =
      wire == .responses
      ? ResponsesCodec(id: id.description, createdAt: Int(Date().timeIntervalSince1970), model: model)
      : ChatCodec(model: model)
    var forwarded = asked.setting("stream", .bool(true))
    if wire == .responses { forwarded = forwarded.removing(["background", "store"]) }
    if let metadata = forwarded["metadata"] {
      forwarded = forwarded.setting("metadata", metadata.removing(["baton_session"]))
    }
    let started = Relay.Request(
      session: session.description, response: response, path: wire.path, body: ByteBuffer(string: forwarded.json),
      codec: codec)
    let detaches = request.headers.first { $0.name.canonicalName == "baton-detach" }?.value.lowercased() != "off"
    if try await isFirst(key, body, id, who) {
      do {
        if case .refused(let answer) = try await begun(relay, started) {
          if key != nil { await refused(id) }
          return Response(answer, to: request)
        }
      } catch {
        if key != nil { await refused(id) }
        throw error
      }
    }
    switch (wire, streams, asked["background"]?.isSomething == true) {
    case (.chat, _, _):
      return stream(id, call, ChatStream(), for: who, cancelsWhenGone: !detaches)
    case (_, true, _):
      return stream(id, call, ResponsesStream(after: nil), for: who, cancelsWhenGone: !detaches)
    case (_, false, true):
      var object = LenientJSON.object([])
      for (name, value) in [
        ("id", LenientJSON.string(Array(id.description.utf8))), ("object", .string(Array("response".utf8))),
        ("created_at", .number("\(Int(Date().timeIntervalSince1970))")), ("status", .string(Array("queued".utf8))),
        ("background", .bool(true)), ("model", asked["model"] ?? .string([])), ("output", .array([])),
        ("parallel_tool_calls", .bool(true)), ("tool_choice", .string(Array("auto".utf8))), ("tools", .array([])),
        ("error", .null), ("incomplete_details", .null), ("instructions", .null), ("metadata", .object([])),
        ("temperature", .null), ("top_p", .null),
      ] { object = object.setting(name, value) }
      return .json(ByteBuffer(string: object.json), to: request).of(session, response)
    case (_, false, false):
      let object = try await object(of: id, call, waits: true)
      return .json(ByteBuffer(string: object.json), to: request).of(session, response)
    }
  }

  /// The same key names the same response, so that whoever repeats the request finds it.
  private static func name(_ key: String?, subject: String, session: SessionName?) -> String {
    let bytes: [UInt8]
    if let key {
      bytes = SHA1.hash("relay \(subject.utf8.count) \(subject) \(session?.description ?? "") \(key)".utf8)
    } else {
      bytes = (0..<12).map { _ in UInt8.random(in: .min ... .max) }
    }
    let hex = bytes.prefix(12).map { ($0 < 16 ? "0" : "") + String($0, radix: 16) }.joined()
    return "resp_" + hex
  }

  /// Whether the model is to be asked: the key has not come before, or whoever brought it died before the model had accepted.
  private func isFirst(_ key: String?, _ body: ByteBuffer, _ id: OpenAIResponseID, _ who: Identity?) async throws
    -> Bool
  {
    guard let key else { return true }
    let print = SHA1.hash(body.readableBytesView).map { String($0, radix: 16) }.joined(separator: ".")
    let put = EntryPut(
      .inbox, [Entry.Field("event", "relay"), Entry.Field("response", id.response), Entry.Field("_body", print)],
      scope: EntryPut.scope("relay", subject: who?.subject ?? "", key: key))
    let (place, isAgain) = try await store.submit(put, to: id.session)
    guard isAgain else { return true }
    let deadline = ContinuousClock.now + .seconds(15)
    while ContinuousClock.now < deadline {
      let look = try await store.look(at: id.response, in: id.session, after: place)
      if look.record != nil { return false }
      let isRefused = look.messages.contains { message in
        message.fields.contains {
          $0.name == ByteBuffer(string: "event") && $0.value == ByteBuffer(string: "relay-refused")
        }
          && message.fields.contains { $0.value == ByteBuffer(string: id.response) }
      }
      if isRefused { return true }
      try await Task.sleep(for: .milliseconds(100))
    }
    return true
  }

  /// Who repeats the request asks the model again.
  private func refused(_ id: OpenAIResponseID) async {
    let put = EntryPut(.inbox, [Entry.Field("event", "relay-refused"), Entry.Field("response", id.response)])
    _ = try? await store.submit(put, to: id.session)
  }

  private func begun(_ relay: Relay, _ request: Relay.Request) async throws -> Relay.Outcome {
    do {
      return try await relay.start(request)
    } catch let failure as Relay.Failure {
      throw Problem(failure)
    }
  }

  private func passed(_ relay: Relay, _ method: HTTPMethod, _ target: String, _ body: ByteBuffer) async throws
    -> Relay.Answer
  {
    do {
      return try await relay.pass(
        method, target, body, contentType: body.readableBytes > 0 ? "application/json" : nil)
    } catch let failure as Relay.Failure {
      throw Problem(failure)
    }
  }

  private func pass(_ call: Call, _ target: String, _ query: Query, _ relay: Relay) async throws -> Response {
    _ = try await identity(call, query, call.request.method == .get ? .read : .publish, nil)
    guard Self.isPlain(target) else { throw Problem.badEncoding }
    let method = HTTPMethod(rawValue: call.request.method.rawValue)
    let body = method == .GET ? ByteBuffer() : try await body(call)
    return Response(try await passed(relay, method, target, body), to: call.request)
  }

  /// A path that stays below the upstream's, and a query: characters of RFC 3986 and whole escapes, no `.` and `..`.
  private static func isPlain(_ target: String) -> Bool {
    let known = Set("-._~:@!$&'()*+,;=/?".utf8)
    var rest = Substring(target).utf8[...]
    while let byte = rest.popFirst() {
      switch byte {
      case UInt8(ascii: "%"):
        guard rest.count >= 2, rest.prefix(2).allSatisfy({ Character(UnicodeScalar($0)).isHexDigit }) else {
          return false
        }
        rest = rest.dropFirst(2)
      case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"),
        UInt8(ascii: "0")...UInt8(ascii: "9"):
        continue
      default: if !known.contains(byte) { return false }
      }
    }
    return target.prefix { $0 != "?" }.split(separator: "/", omittingEmptySubsequences: false).allSatisfy {
      guard let step = Query.percentDecoded($0) else { return false }
      return step != "." && step != ".." && !step.contains("/")
    }
  }

  /// - Parameter session: nil where none is named: then the scope alone counts.
  private func identity(
    _ call: Call, _ query: Query, _ scope: Identity.Scope, _ session: SessionName?
  ) async throws -> Identity? {
    guard let identity = try await identity(call, query) else { return nil }
    guard identity.scopes.contains(scope), session.map(identity.mayUse) ?? true else {
      throw session.map { Problem.notAllowed(scope, $0) }
        ?? Problem(.forbidden, "not-allowed", "The token's scope does not hold \(scope.rawValue).")
    }
    return identity
  }

  // MARK: what was asked before

  /// Of a response's entries, where it is told as an object.
  private static let maxObjectBytes = 32 << 20

  private func response(
    _ id: OpenAIResponseID, _ action: String?, _ call: Call, _ query: Query
  ) async throws -> Response {
    let request = call.request
    switch (request.method, action) {
    case (.get, nil):
      let who = try await identity(call, query, .read, id.session)
      try await known(id)
      if try query.one("stream") == "true" {
        let after = try query.one("starting_after").map { (text) throws(Problem) in
          guard let number = UInt64(decimalDigits: text.utf8) else {
            throw .badRequest("bad-starting-after", "starting_after is the sequence_number of an event.")
          }
          return number
        }
        return stream(id, call, ResponsesStream(after: after), for: who, cancelsWhenGone: false)
      }
      let object = try await object(of: id, call, waits: false)
      return .json(ByteBuffer(string: object.json), to: request).of(id.session, id.response)
    case (.post, "cancel"):
      let who = try await identity(call, query, .cancel, id.session)
      try await known(id)
      try await cancel(id, subject: who?.subject ?? "")
      // The relay hears of it within 250 ms, wherever it runs.
      let deadline = ContinuousClock.now + .seconds(10)
      while try await store.response(id.response, in: id.session)?.state == .open, ContinuousClock.now < deadline {
        try await Task.sleep(for: .milliseconds(20))
      }
      let object = try await object(of: id, call, waits: false)
      return .json(ByteBuffer(string: object.json), to: request).of(id.session, id.response)
    case (.delete, nil):
      _ = try await identity(call, query, .delete, id.session)
      try await known(id)
      guard id.session.description == id.response else {
        throw Problem(
          .conflict, "shared-session",
          "This response is part of session \(id.session); delete the session to delete it.")
      }
      try await store.delete(id.session)
      var json = JSONWriter(into: ByteBuffer())
      json.object { json in
        json.member("id", id.description)
        json.member("object", "response")
        json.name("deleted")
        json.value(true)
      }
      return .json(json.buffer, to: request)
    default: throw Problem.methodNotAllowed("GET, POST, DELETE")
    }
  }

  private func known(_ id: OpenAIResponseID) async throws {
    guard try await store.response(id.response, in: id.session) != nil else {
      throw Problem(
        .notFound, "no-such-response",
        "Nothing is known of this response; it may have been deleted, or its time is over.")
    }
  }

  private func cancel(_ id: OpenAIResponseID, subject: String) async throws {
    let put = EntryPut(
      .inbox, [Entry.Field("event", "cancel"), Entry.Field("response", id.response)], device: "openai", subject: subject
    )
    _ = try await store.submit(put, to: id.session)
  }

  /// The response as an object.
  /// - Parameter waits: for its end.
  /// - Throws: `Problem` 404 where it is none of OpenAI's, 413 where it is too large to be told at once.
  private func object(of id: OpenAIResponseID, _ call: Call, waits: Bool) async throws -> LenientJSON {
    var fold = ResponseFold()
    var bytes = 0
    var wire = ResponsesWire()
    var ending: String?
    let tap = try await call.tap(id.response, in: id.session, front)
    reading: for try await item in tap.items {
      switch item {
      case .reset: fold = ResponseFold()
      case .live where !waits: break reading
      case .live, .beat: break
      case .entries(let entries):
        bytes += ResponseTap.bytes(entries)
        guard bytes <= Self.maxObjectBytes else {
          throw Problem(
            .payloadTooLarge, "response-too-large", "The response is too large for one answer; read its stream.")
        }
        for entry in entries {
          if let event = wire.event(RelayedEntry(entry)) { fold.take(event) }
          if entry.endsResponse { ending = entry.event }
        }
        tap.taken(ResponseTap.bytes(entries))
      }
    }
    guard let object = fold.object else {
      throw Problem(.notFound, "no-such-response", "This is no response of this API, or nothing of it is left.")
    }
    guard ending == "error" || ending == "cancelled", !fold.isOver else { return object }
    return object.setting("status", .string(Array((ending == "error" ? "failed" : "cancelled").utf8)))
  }

  /// The response's events, from the session.
  /// - Parameters:
  ///   - who: for as long as the token lives.
  ///   - cancelsWhenGone: whether it is a cancel when the client goes away before the end.
  private func stream(
    _ id: OpenAIResponseID, _ call: Call, _ form: any RelayStream, for who: Identity?, cancelsWhenGone: Bool
  ) -> Response {
    var answer = Response(
      status: .ok,
      body: ResponseBody { [self] writer in
        var form = form
        let isExpired = { Date().timeIntervalSince1970 >= who?.expires ?? .infinity }
        do {
          let tap = try await call.tap(id.response, in: id.session, front)
          for try await item in tap.items {
            if isExpired() { throw ChannelError.ioOnClosedChannel }
            switch item {
            // Numbers that somebody holds would mean something else.
            case .reset: throw ChannelError.ioOnClosedChannel
            case .live: continue
            case .beat: try await writer.write(ByteBuffer(string: ":\n\n"))
            case .entries(let entries):
              var bytes = ByteBuffer()
              for entry in entries { form.write(entry, into: &bytes) }
              if bytes.readableBytes > 0 { try await writer.write(bytes) }
              tap.taken(ResponseTap.bytes(entries))
            }
          }
          var last = ByteBuffer()
          // Read again where it is needed, so that no stream has to keep what it has sent.
          let object = form.lacksEnd ? try await self.object(of: id, call, waits: false) : nil
          form.end(object, into: &last)
          if last.readableBytes > 0 { try await writer.write(last) }
        } catch {
          if cancelsWhenGone, !isExpired() { try? await cancel(id, subject: who?.subject ?? "") }
          throw error
        }
        try await writer.finish(nil)
      })
    answer.headers[.contentType] = "text/event-stream; charset=utf-8"
    answer.headers[.cacheControl] = "no-store, no-transform"
    if let name = HTTPField.Name("X-Accel-Buffering") { answer.headers[name] = "no" }
    answer.allow(call.request.headers[.origin])
    return answer.of(id.session, id.response)
  }
}

/// Entries as one of OpenAI's streams.
private protocol RelayStream: Sendable {
  mutating func write(_ entry: Entry, into bytes: inout ByteBuffer)
  /// The response has ended, and nothing that was written says so: whoever relayed it is gone.
  var lacksEnd: Bool { get }
  /// - Parameter object: the response, where `lacksEnd`.
  func end(_ object: LenientJSON?, into bytes: inout ByteBuffer)
}

private struct ResponsesStream: RelayStream {
  /// The `sequence_number` of the last event that the client has.
  let after: UInt64?
  private var wire = ResponsesWire()
  private var hasEnd = false
  private var n: UInt64 = 0

  init(after: UInt64?) { self.after = after }

  mutating func write(_ entry: Entry, into bytes: inout ByteBuffer) {
    n = max(n, entry.n ?? 0)
    if let event = wire.event(RelayedEntry(entry)) {
      hasEnd = hasEnd || ResponseFold.isEnd(event)
      if let number = event["sequence_number"]?.whole, after.map({ UInt64(number) > $0 }) ?? true {
        write(event, into: &bytes)
      }
    }
  }

  var lacksEnd: Bool { !hasEnd }

  func end(_ object: LenientJSON?, into bytes: inout ByteBuffer) {
    guard let object else { return }
    let error = LenientJSON.object([
      .init("code", .string(Array("server_error".utf8))),
      .init("message", .string(Array("the answer broke off".utf8))),
    ])
    let response = object.setting("status", .string(Array("failed".utf8))).setting("error", error)
    write(
      .object([
        .init("type", .string(Array("response.failed".utf8))), .init("sequence_number", .number("\(n)")),
        .init("response", response),
      ]), into: &bytes)
  }

  private func write(_ event: LenientJSON, into bytes: inout ByteBuffer) {
    bytes.writeString("event: \(event["type"]?.text ?? "message")\ndata: \(event.json)\n\n")
  }

}

private struct ChatStream: RelayStream {
  private var wire = ChatWire()
  private var isWhole = false

  mutating func write(_ entry: Entry, into bytes: inout ByteBuffer) {
    if let chunk = wire.chunk(RelayedEntry(entry)) { bytes.writeString("data: \(chunk.json)\n\n") }
    if entry.event == "end" { isWhole = true }
    if entry.event == "error" || entry.event == "cancelled" {
      let told = entry.event == "error" ? "the answer broke off" : "the answer was cancelled"
      bytes.writeString(
        "data: {\"error\":{\"message\":\"\(told)\",\"type\":\"\(entry.event)\",\"param\":null,\"code\":\"\(entry.event)\"}}\n\n"
      )
    }
  }

  let lacksEnd = false

  func end(_ object: LenientJSON?, into bytes: inout ByteBuffer) {
    if isWhole { bytes.writeString("data: [DONE]\n\n") }
  }
}

extension Response {
  /// A problem in OpenAI's words.
  fileprivate init(openAI problem: Problem) {
    self.init(problem)
    let kind =
      switch problem.status.code {
      case 401: "authentication_error"
      case 403: "permission_error"
      case 404: "not_found_error"
      case 429: "rate_limit_error"
      case 500...: "server_error"
      default: "invalid_request_error"
      }
    var json = JSONWriter(into: ByteBuffer())
    json.object { json in
      json.name("error")
      json.object { json in
        json.member("message", problem.detail)
        json.member("type", kind)
        json.member("param", String?.none)
        json.member("code", problem.name.replacing("-", with: "_"))
      }
    }
    body = ResponseBody(byteBuffer: json.buffer)
    headers[.contentType] = MediaType.json.rawValue
    headers[.contentLength] = String(json.buffer.readableBytes)
  }

  /// What the upstream said, as it is.
  fileprivate init(_ answer: Relay.Answer, to request: Request) {
    self.init(
      status: .init(code: answer.status, reasonPhrase: HTTPResponseStatus(statusCode: answer.status).reasonPhrase),
      body: ResponseBody(byteBuffer: answer.body))
    headers[.contentType] = answer.contentType ?? MediaType.json.rawValue
    headers[.contentLength] = String(answer.body.readableBytes)
    headers[.cacheControl] = "no-store"
    if let after = answer.retryAfter { headers[.retryAfter] = after }
    allow(request.headers[.origin])
  }
}

extension Problem {
  fileprivate init(_ failure: Relay.Failure) {
    switch failure {
    case .unreachable(let words):
      self.init(.badGateway, "model-unreachable", "The model server gave no answer: \(words).")
    case .full:
      self = Problem(.serviceUnavailable, "too-many-relays", "This node relays as many answers as it may; try again.")
        .with(header: "Retry-After", "1")
    case .store(let error):
      if case .refused = error { self.init(.conflict, "not-relayed", "\(error)") } else { self = .storeUnavailable }
    }
  }
}
