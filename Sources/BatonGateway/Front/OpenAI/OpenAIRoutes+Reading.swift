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
  /// Of a response's entries, where it is told as an object.
  private static let maxObjectBytes = 32 << 20

  func response(
    _ asked: OpenAIResponseID, _ action: String?, _ call: Call, _ query: Query, _ relay: Relay
  ) async throws -> Response {
    let request = call.request
    func admitted(_ scope: Identity.Scope) async throws -> (OpenAIResponseID, Identity?) {
      let (session, who) = try await self.admitted(asked.session, scope, call, query)
      return (OpenAIResponseID(response: asked.response, session: session), who)
    }
    switch (request.method, action) {
    case (.get, nil):
      let (id, who) = try await admitted(.read)
      let waiting = try await known(id, call, who)
      if try query.one("stream") == "true" {
        let after = try query.one("starting_after").map { (text) throws(Problem) in
          guard let number = UInt64(decimalDigits: text.utf8) else {
            throw .badRequest("bad-starting-after", "starting_after is the sequence_number of an event.")
          }
          return number
        }
        if waiting != nil { watch(id) }
        return try await stream(
          id, call, ResponsesStream(id, after: after, queuing: waiting?.queuing ?? []), for: who,
          in: front.place(in: id.session, for: who))
      }
      if let waiting { return .json(ByteBuffer(string: waiting.waiting.json), to: request).of(id.session, id.response) }
      let object = try await object(of: id, call, in: front.place(in: id.session, for: who), waits: false, beats: 3)
      return .json(ByteBuffer(string: object.json), to: request).of(id.session, id.response)
    case (.get, "input_items"):
      let (id, who) = try await admitted(.read)
      try await known(id, call, who)
      guard let kept = try await store.upstreamID(of: id.response, in: id.session) else { throw Problem.noInputItems }
      return try await inputItems(of: kept, call, relay)
    case (.post, "cancel"):
      let (id, who) = try await admitted(.cancel)
      try await known(id, call, who)
      try await cancel(id.response, in: id.session, by: "openai", subject: who?.subject ?? "")
      // The relay hears of it within 250 ms, wherever it runs.
      let object = try await object(of: id, call, in: front.place(in: id.session, for: nil), waits: true, beats: 1)
      return .json(ByteBuffer(string: object.json), to: request).of(id.session, id.response)
    case (.delete, nil):
      let (id, who) = try await admitted(.delete)
      try await known(id, call, who)
      guard id.session.description == id.response,
        try await store.responses(in: id.session).responses.allSatisfy({ $0.name == id.response })
      else {
        throw Problem(
          .conflict, "shared-session",
          "This response is part of session \(id.session); delete the session to delete it.")
      }
      try await store.delete(id.session)
      audit?.acted("deleted", AuditLog.Facts(address: call.address, session: id.session, who))
      var json = JSONWriter(into: ByteBuffer())
      json.object { json in
        json.member("id", id.description)
        json.member("object", "response")
        json.name("deleted")
        json.value(true)
      }
      return .json(json.buffer, to: request)
    case (_, nil): throw Problem.methodNotAllowed("GET, DELETE")
    case (_, "cancel"): throw Problem.methodNotAllowed("POST")
    case (_, "input_items"): throw Problem.methodNotAllowed("GET")
    default: throw Problem.noSuchPath
    }
  }

  /// What no producer has opened has to be looked for among the entries.
  /// - Returns: what is to be said of it while it waits for its turn.
  @discardableResult private func known(
    _ id: OpenAIResponseID, _ call: Call, _ who: Identity?
  ) async throws -> ResponsesCodec? {
    if try await store.response(id.response, in: id.session) != nil { return nil }
    if let waiting = try await waiting(id) { return waiting }
    if try await store.response(id.response, in: id.session) != nil { return nil }
    do {
      _ = try await object(of: id, call, in: front.place(in: id.session, for: who), waits: false, beats: 3)
    } catch let problem as Problem where problem.status == .notFound {
      throw Problem(
        .notFound, "no-such-response",
        "Nothing is known of this response; it may have been deleted, or its time is over.")
    }
    return nil
  }

  /// Nil for a response that does not wait for its turn (any more). One whose node has died meanwhile is ended by this.
  func waiting(_ id: OpenAIResponseID) async throws -> ResponsesCodec? {
    guard id.isOfRelay, id.session.description != id.response,
      try await store.response(id.response, in: id.session) == nil,
      let (note, isRefused) = try await store.note(of: id), note.isQueued, !isRefused
    else { return nil }
    if try await store.line(.look, in: id.session)?.has(id.response) == true { return note.responses(id) }
    guard let relay = relays.openAI, try await store.response(id.response, in: id.session) == nil else { return nil }
    let lost = RelayStop.unasked(reason: "producer_lost", "the node on which the question waited has gone")
    do {
      try await relay.end(
        Relay.Request(
          session: id.session.qualified, response: id.response, path: "", body: ByteBuffer(), codec: note.codec(id)),
        by: lost)
    } catch {
      // Somebody else did, or Redis is out of reach.
      logger.info("a question that waited can't be ended", metadata: ["response": "\(id)", "error": "\(error)"])
    }
    return nil
  }

  private static let watchPause = Duration.seconds(5)

  /// While it waits: nobody else may find out that its node has died.
  func watch(_ id: OpenAIResponseID) {
    let deadline = ContinuousClock.now + relays.busy.timeout + .seconds(60)
    Task {
      while ContinuousClock.now < deadline {
        try await Task.sleep(for: Self.watchPause)
        do {
          if try await waiting(id) == nil { return }
        } catch { continue }
      }
    }
  }

  /// The response as an object.
  /// - Parameters:
  ///   - waits: for its end.
  ///   - limit: beats of ten seconds after which it is told as it is; nil: however long it takes.
  /// - Throws: `Problem` 404 where it is none of OpenAI's, 413 where it is too large to be told at once.
  func object(
    of id: OpenAIResponseID, _ call: Call, in place: DeviceRegistry.Place, waits: Bool, beats limit: Int?
  ) async throws -> LenientJSON {
    var fold = ResponseFold()
    var bytes = 0
    var events = ResponseEvents(id: id.description)
    var ending: String?
    var (isLive, beats) = (false, 0)
    let tap = try await call.tap(ResponseTap.Request(response: id.response), in: id.session, place, front)
    try await call.gathered.hold(0)
    reading: for try await item in tap.items {
      switch item {
      case .reset: (fold, events) = (ResponseFold(), ResponseEvents(id: id.description))
      case .live where !waits: break reading
      case .live: isLive = true
      case .look: continue
      case .beat:
        beats += 1
        guard let limit, beats >= limit else { continue }
        guard isLive else { throw Problem.storeUnavailable }
        break reading
      case .entries(let entries):
        bytes += ResponseTap.bytes(entries)
        guard bytes <= Self.maxObjectBytes else {
          throw Problem(
            .payloadTooLarge, "response-too-large", "The response is too large for one answer; read its stream.")
        }
        try await call.gathered.hold(bytes)
        for entry in entries {
          for event in events.take(entry) { fold.take(event.json) }
          if entry.endsResponse { ending = entry.event }
        }
        tap.taken(ResponseTap.bytes(entries))
      }
    }
    guard let object = fold.object else {
      throw Problem(.notFound, "no-such-response", "Nothing is left of this response.")
    }
    return fold.isOver ? object : events.ended(object, by: ending)
  }

  /// The response's events, from the session.
  /// - Parameters:
  ///   - who: whose token's end is the stream's.
  ///   - isOver: called once, when the response has ended.
  func stream(
    _ id: OpenAIResponseID, _ call: Call, _ form: some OpenAIStream, for who: Identity?,
    in place: DeviceRegistry.Place, isOver: (@Sendable () -> Void)? = nil
  ) async throws -> Response {
    try await stream(
      form, of: id.session, ResponseTap.Request(response: id.response), call, for: who, in: place
    ) { form, bytes in
      isOver?()
      // Read again where it is needed, so that no stream has to keep what it has sent.
      let object = form.lacksEnd ? try await self.object(of: id, call, in: place, waits: false, beats: 3) : nil
      form.end(object, into: &bytes)
    }.of(id.session, id.response)
  }
}

extension Problem {
  fileprivate static let noInputItems = Problem(
    .notFound, "no-input-items", "The model server keeps no responses, and so not what was asked.")
}
