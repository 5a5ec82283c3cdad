import BatonProtocol
import BatonRelay
import BatonSession
import BatonStore
import BatonUpstream
import NIOConcurrencyHelpers

/// It is the question's turn: for as long as this is kept, no other one of the session is asked.
struct QuestionTurn: Sendable {
  let response: String
  let session: SessionName
  let store: any SessionOperations
  private let keeping: Task<Void, Never>

  init(_ response: String, in session: SessionName, store: any SessionOperations, most: Int) {
    (self.response, self.session, self.store) = (response, session, store)
    keeping = Task {
      while !Task.isCancelled {
        try? await Task.sleep(for: QuestionLine.interval)
        if Task.isCancelled { return }
        _ = try? await store.line(.keep(response, .asked, most: most), in: session)
      }
    }
  }

  /// The response has begun, or will not.
  func end() async {
    keeping.cancel()
    await keeping.value
    _ = try? await store.line(.leave(response), in: session)
  }
}

extension Routes {
  private static let pauses = (first: Duration.milliseconds(50), most: Duration.milliseconds(250))

  enum Waiting {
    /// None is needed.
    case none
    case its(QuestionTurn)
    /// It is asked when it has its turn.
    case later
  }

  /// Waits for a question's turn, or makes it one.
  /// - Parameter place: of the question in the session's inbox: cancels that count come after it.
  /// - Throws: `Problem` 409 where something else is answered, or the question was cancelled; 403, 429, 503.
  func turn(of question: RelayQuestion, after place: EntryID) async throws -> Waiting {
    let (response, session, rule) = (question.response, question.session, relays.busy)
    // A session of its own has no other question.
    guard rule.policy != .parallel, session.description != response else { return .none }
    guard relays.waiting.begin(atMost: rule.maxWaiting) else { throw Problem(Relay.Failure.full) }
    var waits = true
    defer { if waits { relays.waiting.end() } }
    do {
      let isPatient = question.later == nil || rule.policy == .reject
      guard try await wait(for: question, rule, after: place, isPatient: isPatient), let later = question.later else {
        return .its(QuestionTurn(response, in: session, store: store, most: rule.maxQueued))
      }
      guard relays.waitingBytes.begin(later.bytes, atMost: rule.maxWaitingBytes) else {
        throw Problem(Relay.Failure.full)
      }
      waits = false
      Task { await ask(question, later, after: place) }
      return .later
    } catch {
      _ = try? await store.line(.leave(response), in: session)
      throw error
    }
  }

  /// Waits for the turn of a question that nobody waits with, and asks it.
  private func ask(_ question: RelayQuestion, _ later: RelayQuestion.Later, after place: EntryID) async {
    let (response, session, rule) = (question.response, question.session, relays.busy)
    var turn: QuestionTurn?
    var stop: RelayStop?
    do {
      do {
        defer {
          relays.waiting.end()
          relays.waitingBytes.end(later.bytes)
        }
        try await waitThroughOutages(for: question, rule, after: place)
      }
      turn = QuestionTurn(response, in: session, store: store, most: rule.maxQueued)
      if case .refused(let answer) = try await later.start() { stop = RelayStop(answer) }
    } catch {
      stop = RelayStop((error as? Relay.Failure).map(Problem.init) ?? error)
    }
    if let stop {
      do {
        try await later.end(stop)
      } catch {
        logger.notice(
          "a question that waited can't be ended",
          metadata: ["session": "\(session)", "response": "\(response)", "error": "\(error)"])
      }
    }
    if let turn { await turn.end() } else { _ = try? await store.line(.leave(response), in: session) }
  }

  private func waitThroughOutages(for question: RelayQuestion, _ rule: BusyRule, after place: EntryID) async throws {
    let deadline = ContinuousClock.now + rule.timeout
    while true {
      do {
        _ = try await wait(for: question, rule, after: place, isPatient: true)
        return
      } catch let problem as Problem where problem == .storeUnavailable && ContinuousClock.now < deadline {
        try await Task.sleep(for: .seconds(1))
      }
    }
  }

  /// - Returns: whether others are to be waited for; never where it `isPatient`.
  private func wait(
    for question: RelayQuestion, _ rule: BusyRule, after place: EntryID, isPatient: Bool
  ) async throws -> Bool {
    let (response, session) = (question.response, question.session)
    let began = ContinuousClock.now
    var pause = Self.pauses.first
    var place = place
    var running: Set<String> = []
    var cancelled: Set<String> = []
    while true {
      guard let line = try await store.line(.keep(response, .waiting, most: rule.maxQueued), in: session) else {
        throw Problem.tooManyQuestions
      }
      var busy = Set(line.ahead(of: response))
      if busy.isEmpty || rule.policy == .cancel {
        running = try await self.running(in: session, of: running)
        busy.formUnion(running)
      }
      busy.remove(response)
      if busy.isEmpty {
        // Whoever stops everything may have cancelled it just before.
        _ = try await heard(of: question, after: place)
        _ = try await store.line(.keep(response, .asked, most: rule.maxQueued), in: session)
        return false
      }
      let waited = ContinuousClock.now - began
      let other = busy.min() ?? response
      switch rule.policy {
      case .cancel:
        if let who = question.who, !who.may(.cancel, session) {
          throw Problem.notAllowed(.cancel, session).refusing(who)
        }
        for other in busy where cancelled.insert(other).inserted {
          try await cancel(other, in: session, by: "on-busy", subject: question.subject)
        }
      case .reject where waited >= BusyRule.grace: throw Problem.sessionBusy(session, other)
      default: break
      }
      if waited >= rule.timeout { throw Problem.sessionBusy(session, other, for: rule.timeout) }
      if let seconds = state.drainingFor { throw Problem.draining(retryAfter: seconds) }
      place = try await heard(of: question, after: place)
      // Whoever answers may be dead.
      store.watchLeases(of: session)
      guard isPatient else { return true }
      try await Task.sleep(for: pause)
      pause = min(pause * 2, Self.pauses.most)
    }
  }

  /// - Returns: the place of what was heard last.
  /// - Throws: `Problem` 409 where the question was cancelled.
  private func heard(of question: RelayQuestion, after place: EntryID) async throws -> EntryID {
    var place = place
    for message in try await store.look(at: question.response, in: question.session, after: place).messages {
      let texts = message.texts
      place = EntryID(message.id.milliseconds, message.id.sequence)
      if texts["event"] == "cancel", texts["response"] == question.response {
        throw Problem.questionCancelled(question.response)
      }
    }
    return place
  }

  /// Responses of a session that somebody produces.
  /// - Parameter known: some of them, as far as is known: all are only looked for once these have ended.
  private func running(in session: SessionName, of known: Set<String>) async throws -> Set<String> {
    var running: Set<String> = []
    for response in known where try await store.response(response, in: session)?.isLeased == true {
      running.insert(response)
    }
    guard running.isEmpty else { return running }
    return Set(try await store.responses(in: session).responses.filter(\.record.isLeased).map(\.name))
  }
}

/// How many there are at a time.
final class BoundedCount: Sendable {
  private let counted = NIOLockedValueBox(0)

  var count: Int { counted.withLockedValue { $0 } }

  /// False: there would be more than may be; else `end` follows.
  func begin(_ added: Int = 1, atMost most: Int) -> Bool {
    counted.withLockedValue { count in
      guard count + added <= most else { return false }
      count += added
      return true
    }
  }

  func end(_ added: Int = 1) { counted.withLockedValue { $0 -= added } }
}

extension RelayStop {
  /// Why a question that was to be asked later has no answer.
  fileprivate init(_ error: any Error) {
    switch error {
    case let problem as Problem where problem.name == "question-cancelled": self = .cancelled
    case let problem as Problem where problem.name == "draining": self = .drained
    case let problem as Problem:
      self = .unasked(reason: problem.name.replacing("-", with: "_"), problem.detail)
    default: self = .unasked(reason: "internal", "the gateway failed")
    }
  }

  fileprivate init(_ answer: Relay.Answer) {
    let told = LenientJSON.values(answer.body.readableBytesView).values.first
    let words = told?["error"]?["message"]?.text ?? told?["error"]?.text ?? told?["message"]?.text
    self = .unasked(reason: "model_error", words ?? "the model server answered \(answer.status)")
  }
}

extension Problem {
  /// Clients of OpenAI's repeat a 409 by themselves, unless they are told not to.
  private func about(_ response: String) -> Problem {
    with(header: "x-should-retry", "false").with(member: "response", response)
  }

  /// - Parameter time: so long it was waited for.
  static func sessionBusy(_ session: SessionName, _ response: String, for time: Duration? = nil) -> Problem {
    let since = time.map { ", for more than the \($0.components.seconds) s that a question waits" } ?? ""
    return Problem(
      .conflict, "session-busy",
      "Session \(session) is still answering\(since): wait until response \(response) has ended, or cancel it by POST /v1/sessions/\(session)/responses/\(response)/cancel, and ask again."
    ).about(response)
  }

  static func questionCancelled(_ response: String) -> Problem {
    Problem(
      .conflict, "question-cancelled", "The question was cancelled before it was asked."
    ).about(response)
  }

  static let tooManyQuestions = Problem(
    .tooManyRequests, "too-many-questions",
    "As many questions of this session wait as --max-queued allows; ask again when some have been answered."
  ).with(header: "Retry-After", "5").exceeding(.queued)
}
