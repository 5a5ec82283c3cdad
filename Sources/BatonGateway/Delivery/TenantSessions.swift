import BatonProtocol
import BatonSession
import BatonStore
import NIOCore

/// The sessions of tenants, and of nobody else: what has no tenant is refused, whoever asks. What they append is counted.
struct TenantSessions: SessionOperations {
  /// How long an upload that is held back looks at least as if nothing had happened.
  private static let glance = TimeAmount.milliseconds(250)

  let sessions: any SessionOperations
  let quotas: TenantQuotas

  var charged: any SessionOperations { sessions }

  private func check(_ session: SessionName) throws(Problem) {
    guard session.tenant != nil || session.qualified == Revocations.session else {
      throw .notAllowed(.read, session)
    }
  }

  func admit(_ session: SessionName) async throws {
    try check(session)
    try await sessions.admit(session)
  }

  func history(_ request: HistoryRequest) async throws -> HistoryPage? {
    try check(request.session)
    return try await sessions.history(request)
  }

  func entries(
    of session: SessionName, before id: EntryID?, limit: Int
  ) async throws -> (entries: [Entry], more: Bool) {
    try check(session)
    return try await sessions.entries(of: session, before: id, limit: limit)
  }

  func append(_ entry: NewEntry, to session: SessionName, scope: String) async throws -> (id: EntryID, again: Bool) {
    try check(session)
    try quotas.take(session, bytes: Entry.Field.size(entry.fields))
    return try await sessions.append(entry, to: session, scope: scope)
  }

  /// An upload is slowed down to what its tenant may; renewing a lease costs nothing.
  func append(_ call: AppendCall, to session: SessionName) async throws -> WriteReply {
    try check(session)
    if case .open(let write) = call { try await pace(write, session) }
    if case .append(let write) = call { try await pace(write, session) }
    return try await sessions.append(call, to: session)
  }

  private func pace(_ write: ResponseWrite, _ session: SessionName) async throws {
    guard !write.items.isEmpty else { return }
    let bytes = write.items.reduce(0) { $0 + $1.size }
    while case let wait = quotas.wait(session, entries: write.items.count, bytes: bytes), wait > .zero {
      try await Task.sleep(for: .nanoseconds(min(wait, Self.glance).nanoseconds))
    }
  }

  func delete(_ session: SessionName) async throws {
    try check(session)
    try await sessions.delete(session)
  }

  func sessions(like prefix: String, from place: KeyPlace?) async throws -> SessionStep {
    guard prefix.contains("/") else { throw Problem.notAllToDelete(prefix) }
    return try await sessions.sessions(like: prefix, from: place)
  }

  func response(_ response: String, in session: SessionName) async throws -> ResponseRecord? {
    try check(session)
    return try await sessions.response(response, in: session)
  }

  /// Inputs are counted; that an answer is stopped is not.
  func submit(_ put: EntryPut, to session: SessionName) async throws -> (inboxID: EntryID, again: Bool) {
    try check(session)
    if put.place == .both { try quotas.take(session, bytes: Entry.Field.size(put.fields)) }
    return try await sessions.submit(put, to: session)
  }

  func responses(in session: SessionName) async throws -> ResponseList {
    try check(session)
    return try await sessions.responses(in: session)
  }

  func look(at response: String, in session: SessionName, after place: EntryID) async throws -> InboxLook {
    try check(session)
    return try await sessions.look(at: response, in: session, after: place)
  }

  func upstreamID(of response: String, in session: SessionName) async throws -> String? {
    try check(session)
    return try await sessions.upstreamID(of: response, in: session)
  }

  func line(_ step: QuestionLine.Step, in session: SessionName) async throws -> QuestionLine? {
    try check(session)
    return try await sessions.line(step, in: session)
  }

  func watchLeases(of session: SessionName) { sessions.watchLeases(of: session) }
}
