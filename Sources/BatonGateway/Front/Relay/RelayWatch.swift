import BatonProtocol
import BatonRelay
import BatonStore
import Foundation
import Logging

/// Goes on with answers whose node goes away, and finds out about those whose node has died although nobody follows their
/// session (PROTOCOL 9). What it costs: two commands a second for each node, and for one of them a look at each open answer
/// every 15 s, at most 128 a second.
struct RelayWatch: Sendable {
  private typealias Instant = ContinuousClock.Instant

  private static let turn = Duration.milliseconds(500)
  private static let watchPause = Duration.seconds(2)
  /// A producer that has said nothing for so long may have died.
  private static let patience = Duration.seconds(15)
  /// Answers that are looked at in one go.
  private static let width = 256

  let register: RelayRegister
  let store: any SessionOperations
  let takeOver: OpenAITakeOver
  let state: NodeState
  let logger: Logger

  /// Until it is cancelled, or the node drains.
  func run() async {
    let token = UUID().uuidString
    let troubles = TroubleLog(logger)
    var due: [RelayRegister.Answer: Instant] = [:]
    var watchedAt = Instant.now
    while !Task.isCancelled, state.drainingFor == nil {
      do {
        for answer in try await register.take(most: takeOver.relay.room) { goOn(with: answer) }
        if Instant.now - watchedAt >= Self.watchPause {
          watchedAt = .now
          due = try await watched(due, token)
        }
      } catch {
        troubles.occurred("relays", .warning, "open answers can't be watched", metadata: ["error": "\(error)"])
        try? await Task.sleep(for: .seconds(1))
      }
      try? await Task.sleep(for: Self.turn)
    }
    // What is left to do is to be cancelled.
    while !Task.isCancelled { try? await Task.sleep(for: .seconds(3600)) }
  }

  private func goOn(with answer: RelayRegister.Answer) {
    Task {
      let goesOn = await takeOver.goOn(with: answer.response, in: answer.session)
      logger.info(
        goesOn ? "an answer is gone on with" : "an answer can't be gone on with",
        metadata: ["session": "\(answer.session)", "response": "\(answer.response)"])
      if !goesOn { store.watchLeases(of: answer.session) }
    }
  }

  /// - Returns: when each open answer is to be looked at.
  private func watched(
    _ due: [RelayRegister.Answer: Instant], _ token: String
  ) async throws -> [RelayRegister.Answer: Instant] {
    let now = Instant.now
    var next: [RelayRegister.Answer: Instant] = [:]
    for answer in try await register.watched(by: token) { next[answer] = due[answer] ?? now + Self.patience }
    for answer in next.filter({ $0.value <= now }).keys.prefix(Self.width) {
      next[answer] = now + Self.patience
      guard let record = try await store.response(answer.response, in: answer.session), record.isLeased else {
        try await register.remove(answer)
        next[answer] = nil
        continue
      }
      let age = Date().timeIntervalSince1970 * 1000 - Double(record.time)
      if age >= Self.patience / .milliseconds(1) { store.watchLeases(of: answer.session) }
    }
    return next
  }
}

/// Tells the register what a relay does.
struct RegisteredAnswers: AnswerRegister {
  let register: RelayRegister

  private func answer(_ response: String, _ session: String) -> RelayRegister.Answer? {
    SessionName(qualified: session).map { RelayRegister.Answer(session: $0, response: response) }
  }

  func began(_ response: String, in session: String) async {
    if let answer = answer(response, session) { try? await register.add(answer) }
  }

  func ended(_ response: String, in session: String) async {
    if let answer = answer(response, session) { try? await register.remove(answer) }
  }

  func handsOver(_ response: String, in session: String) async -> Bool {
    guard let answer = answer(response, session) else { return false }
    return (try? await register.handOver(answer)) != nil
  }
}
