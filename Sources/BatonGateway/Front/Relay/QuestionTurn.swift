import BatonProtocol
import BatonRelay
import BatonSession
import BatonStore
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

  /// Waits for a question's turn, or makes it one.
  /// - Parameter place: of the question in the session's inbox: cancels that count come after it.
  /// - Returns: nil where no turn is needed.
  /// - Throws: `Problem` 409 where something else is answered, or the question was cancelled; 403, 429, 503.
  func turn(of question: RelayQuestion, after place: EntryID) async throws -> QuestionTurn? {
    let (response, session, rule) = (question.response, question.session, relays.busy)
    // A session of its own has no other question.
    guard rule.policy != .parallel, session.description != response else { return nil }
    guard relays.waiting.begin(atMost: rule.maxWaiting) else { throw Problem(Relay.Failure.full) }
    defer { relays.waiting.end() }
    do {
      try await wait(for: question, rule, after: place)
    } catch {
      _ = try? await store.line(.leave(response), in: session)
      throw error
    }
    return QuestionTurn(response, in: session, store: store, most: rule.maxQueued)
  }

  private func wait(for question: RelayQuestion, _ rule: BusyRule, after place: EntryID) async throws {
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
        return
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
  private let count = NIOLockedValueBox(0)

  /// False: as many as may be are there; else `end` follows.
  func begin(atMost most: Int) -> Bool {
    count.withLockedValue { count in
      guard count < most else { return false }
      count += 1
      return true
    }
  }

  func end() { count.withLockedValue { $0 -= 1 } }
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
