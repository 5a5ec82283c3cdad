import BatonProtocol
import BatonRelay
import BatonSession
import BatonStore
import BatonWebSocket

/// What a relay is asked for: once for the same key.
struct RelayQuestion: Sendable {
  let session: SessionName
  let response: String
  /// Nil: each time anew.
  let key: String?
  let subject: String
  /// Nil where nobody is asked who he is.
  let who: Identity?
  /// For whoever takes the answer over, or wants it stopped before it begins.
  let note: [Entry.Field]
  /// What has to be the same when the key comes again.
  var body: String?
  /// Of what is appended with it.
  var bytes = 0
  /// Nil: whoever asks waits for its turn, too.
  var later: Later?

  /// Asks when it is the question's turn, whoever has gone by then.
  struct Later: Sendable {
    /// That are kept until then.
    let bytes: Int
    let start: @Sendable () async throws -> Relay.Outcome
    /// The response ends before it could begin.
    let end: @Sendable (RelayStop) async throws -> Void
  }

  /// The same key names the same response, so that whoever repeats the request finds it.
  static func name(_ kind: String, _ key: String?, subject: String, session: SessionName?) -> String {
    let bytes: [UInt8]
    if let key {
      bytes = SHA1.hash("relay \(subject.utf8.count) \(subject) \(session?.description ?? "") \(key)".utf8)
    } else {
      bytes = (0..<12).map { _ in UInt8.random(in: .min ... .max) }
    }
    return "\(kind)_" + hex(bytes.prefix(12))
  }

  /// Of what is too long to be kept.
  static func print(_ bytes: some Collection<UInt8>) -> String { hex(SHA1.hash(bytes)) }

  private static func hex(_ bytes: some Sequence<UInt8>) -> String {
    bytes.map { ($0 < 16 ? "0" : "") + String($0, radix: 16) }.joined()
  }
}

extension Routes {
  /// Asks, unless somebody has asked the same before, or it has to wait and nobody waits with it.
  /// - Returns: the upstream's refusal; nil: the response is there, or will be.
  func ask(
    _ question: RelayQuestion, _ start: () async throws -> Relay.Outcome
  ) async throws -> Relay.Answer? {
    guard let place = try await place(of: question) else { return nil }
    do {
      let turn: QuestionTurn?
      switch try await self.turn(of: question, after: place) {
      case .none: turn = nil
      case .its(let its): turn = its
      case .later: return nil
      }
      let outcome: Relay.Outcome
      do {
        outcome = try await start()
        await turn?.end()
      } catch {
        await turn?.end()
        throw error
      }
      guard case .refused(let answer) = outcome else { return nil }
      await refused(question)
      return answer
    } catch {
      await refused(question)
      throw (error as? Relay.Failure).map(Problem.init) ?? error
    }
  }

  /// Where in the session's inbox the question is that the upstream is to be asked; nil where it is not: the key has come
  /// before, and whoever brought it has not died before the upstream had accepted.
  private func place(of question: RelayQuestion) async throws -> EntryID? {
    let told = [Entry.Field("event", "relay"), Entry.Field("response", question.response)]
    // It may say when, and so is no part of what a key stands for.
    func takeNote() async throws -> EntryID {
      try await store.submit(EntryPut(.inbox, told + question.note), to: question.session).inboxID
    }
    // What is answered then is not: it is the answer to this.
    try front.quotas.take(question.session, bytes: question.bytes)
    guard let key = question.key else { return try await takeNote() }
    let put = EntryPut(
      .inbox, told + (question.body.map { [Entry.Field("_body", $0)] } ?? []),
      scope: EntryPut.scope("relay", subject: question.subject, key: key))
    let (place, isAgain) = try await store.submit(put, to: question.session)
    guard isAgain else { return try await takeNote() }
    var deadline = ContinuousClock.now + .seconds(15)
    while ContinuousClock.now < deadline {
      let look = try await store.look(at: question.response, in: question.session, after: place)
      if look.record != nil { return nil }
      let isRefused = look.messages.contains { message in
        let texts = message.texts
        return texts["event"] == "relay-refused" && texts["response"] == question.response
      }
      if isRefused { return place }
      if relays.busy.policy != .parallel,
        try await store.line(.look, in: question.session)?.has(question.response) == true
      {
        if question.later != nil { return nil }
        deadline = .now + .seconds(15)
      }
      try await Task.sleep(for: .milliseconds(100))
    }
    return place
  }

  /// Whoever produces the response is told, also once it begins.
  func cancel(_ response: String, in session: SessionName, by device: String, subject: String) async throws {
    let put = EntryPut(
      .inbox, [Entry.Field("event", "cancel"), Entry.Field("response", response)], device: device, subject: subject)
    _ = try await store.submit(put, to: session)
  }

  /// Who repeats the request asks the upstream again.
  private func refused(_ question: RelayQuestion) async {
    let put = EntryPut(.inbox, [Entry.Field("event", "relay-refused"), Entry.Field("response", question.response)])
    _ = try? await store.submit(put, to: question.session)
  }
}
