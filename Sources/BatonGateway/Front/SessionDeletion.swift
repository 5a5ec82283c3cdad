import BatonProtocol
import BatonSession
import BatonStore
import HTTPTypes
import HummingbirdCore
import NIOCore

extension Routes {
  /// Deletes all sessions whose names begin so: whose they are is known by their names alone (PROTOCOL 8).
  func deleteSessions(_ call: Call) async throws -> Response {
    let request = call.request
    try origins.check(request.headers[values: .origin])
    if request.method == .options { return preflight(request, allow: "DELETE, OPTIONS") }
    guard request.method == .delete else { throw Problem.methodNotAllowed("DELETE, OPTIONS") }
    let query = try Query(Target(request.head.path ?? "/").query)
    let identity = try await identity(call, query)
    guard let prefix = try query.one("prefix"), prefix.isEmpty || Shape.name(prefix.utf8, upTo: 128) else {
      throw Problem.badRequest(
        "bad-prefix",
        "prefix is what the names of the sessions begin with: 0 to 128 characters of A-Z a-z 0-9 . _ ~ : @ -")
    }
    if let identity, !identity.mayDeleteAll(prefix) { throw Problem.notAllToDelete(prefix).refusing(identity) }
    let deletion = SessionDeletion(
      prefix: (identity?.tenant).map { "\($0)/\(prefix)" } ?? prefix, identity: identity, store: store, state: state)
    // Refused now, where a status can say so.
    let first = try await deletion.step(from: nil)
    var answer = Response(
      status: .ok,
      body: ResponseBody { [audit] writer in
        var count = SessionDeletion.Count()
        // What was deleted stays so, whatever comes then.
        defer {
          audit?.acted(
            "deleted", AuditLog.Facts(address: call.address, identity),
            [("prefix", prefix), ("sessions", "\(count.deleted)")])
        }
        try await deletion.run(first, &count, &writer)
        try await writer.write(count.json)
        try await writer.finish(nil)
      })
    answer.headers[.contentType] = MediaType.json.rawValue
    answer.headers[.cacheControl] = "no-store"
    answer.allow(request.headers[.origin])
    return answer
  }
}

/// A walk through all keys that deletes sessions. It is cut, and has to be begun again, where Redis goes away, a token is
/// revoked, or the node goes away.
struct SessionDeletion: Sendable {
  struct Count: Sendable {
    var deleted = 0
    /// Whose keys hold something else than a session's.
    var left = 0

    var json: ByteBuffer {
      var json = JSONWriter(into: ByteBuffer())
      json.object { json in
        json.member("deleted", UInt64(deleted))
        json.member("left", UInt64(left))
      }
      return json.buffer
    }
  }

  /// White space before the answer shows that both ends are there.
  private static let beat = Duration.seconds(5)

  /// Of qualified names.
  let prefix: String
  let identity: Identity?
  let store: any SessionOperations
  let state: NodeState

  func step(from place: KeyPlace?) async throws -> SessionStep {
    try await store.sessions(like: prefix, from: place)
  }

  func run(_ first: SessionStep, _ count: inout Count, _ writer: inout any ResponseBodyWriter) async throws {
    var step = first
    var beaten = ContinuousClock.now
    while true {
      for session in Set(step.sessions) where identity?.may(.delete, session) ?? (session.tenant == nil) {
        guard !state.endsUploads, identity?.isRevoked != true, !Task.isCancelled else {
          throw ChannelError.ioOnClosedChannel
        }
        if session.qualified == Revocations.session { continue }
        do {
          try await store.delete(session)
          count.deleted += 1
        } catch let problem as Problem where problem.status == .conflict {
          count.left += 1
        }
        if .now - beaten >= Self.beat {
          beaten = .now
          try await writer.write(ByteBuffer(string: "\n"))
        }
      }
      guard let place = step.next else { return }
      if .now - beaten >= Self.beat {
        beaten = .now
        try await writer.write(ByteBuffer(string: "\n"))
      }
      guard !state.endsUploads else { throw ChannelError.ioOnClosedChannel }
      step = try await self.step(from: place)
    }
  }
}

extension Identity {
  /// All sessions whose names begin so are among its own.
  func mayDeleteAll(_ prefix: String) -> Bool {
    scopes.contains(.delete) && sessions.contains { $0.hasSuffix("*") && prefix.hasPrefix($0.dropLast()) }
  }
}

extension Problem {
  static func notAllToDelete(_ prefix: String) -> Problem {
    Problem(
      .forbidden, "not-allowed",
      "The token does not allow delete in all sessions that begin with '\(prefix)'; its claims sessions, by a prefix with *, and scope must both."
    )
  }
}
