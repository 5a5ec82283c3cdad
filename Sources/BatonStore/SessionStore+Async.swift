import BatonProtocol
import BatonRedis
import BatonSession

/// For the control plane, from anywhere.
extension SessionStoring {
  package func read(_ request: PageRequest) async -> PageOutcome {
    await withCheckedContinuation { continuation in
      eventLoop.execute {
        self.read(request, id: self.drawTicket(), waits: false) { continuation.resume(returning: $0) }
      }
    }
  }

  /// - Throws: ``RedisError``.
  package func run(_ call: AppendCall, _ session: SessionName) async throws -> [String] {
    try await withCheckedThrowingContinuation { continuation in
      eventLoop.execute { self.run(call, session) { continuation.resume(with: $0) } }
    }
  }

  /// - Throws: ``RedisError``.
  package func record(of response: String, in session: SessionName) async throws -> ResponseRecord? {
    try await withCheckedThrowingContinuation { continuation in
      eventLoop.execute { self.record(of: response, in: session) { continuation.resume(with: $0) } }
    }
  }

  /// - Throws: ``RedisError``.
  package func responses(in session: SessionName) async throws -> ResponseList {
    try await withCheckedThrowingContinuation { continuation in
      eventLoop.execute { self.responses(in: session) { continuation.resume(with: $0) } }
    }
  }

  /// - Throws: ``RedisError``.
  package func send(_ commands: [RedisCommand], of session: SessionName) async throws -> [RESPReply] {
    try await withCheckedThrowingContinuation { continuation in
      eventLoop.execute { self.send(commands, of: session) { continuation.resume(with: $0) } }
    }
  }

  /// - Throws: ``RedisError``.
  package func sessions(like prefix: String, from place: KeyPlace?) async throws -> SessionStep {
    try await withCheckedThrowingContinuation { continuation in
      eventLoop.execute { self.sessions(like: prefix, from: place) { continuation.resume(with: $0) } }
    }
  }

  /// - Throws: ``RedisError``.
  package func look(at response: String, in session: SessionName, after place: EntryID) async throws -> InboxLook {
    try await withCheckedThrowingContinuation { continuation in
      eventLoop.execute {
        self.look(at: response, in: session, after: place) { continuation.resume(with: $0) }
      }
    }
  }
}
