import NIOCore

/// A Lua script, called by its hash and sent whole where the server does not know it yet.
package struct RedisScript: Sendable {
  package let source: String
  /// 40 hex digits.
  package let hash: String

  package init(_ source: String) {
    self.source = source
    hash = SHA1.hex(source.utf8)
  }

  package func evalsha(keys: [String], _ arguments: [RedisCommand.Argument]) -> RedisCommand {
    RedisCommand("EVALSHA", Self.arguments(hash, keys, arguments))
  }

  package func eval(keys: [String], _ arguments: [RedisCommand.Argument]) -> RedisCommand {
    RedisCommand("EVAL", Self.arguments(source, keys, arguments))
  }

  private static func arguments(
    _ script: String, _ keys: [String], _ arguments: [RedisCommand.Argument]
  ) -> [RedisCommand.Argument] {
    [.string(script), .integer(Int64(keys.count))] + keys.map { .string($0) } + arguments
  }
}

extension RedisConnection {
  /// EVALSHA, and EVAL where it answers NOSCRIPT. A call that falls back is overtaken by what was sent in between.
  ///
  /// - Parameter isAsking: the slot of the keys is only on its way to the server.
  package func run(
    _ script: RedisScript, keys: [String], _ arguments: [RedisCommand.Argument], isAsking: Bool = false,
    deadline: NIODeadline, completion: @escaping (Result<RESPReply, RedisError>) -> Void
  ) {
    func call(_ command: RedisCommand, _ completion: @escaping (Result<RESPReply, RedisError>) -> Void) {
      guard isAsking else { return send(command, deadline: deadline, completion: completion) }
      send([.asking, command], deadline: deadline) { result in
        completion(
          result.flatMap { replies in
            guard let reply = replies.last else { return .failure(.unexpectedReply(command.name)) }
            return reply.error.map { .failure($0) } ?? .success(reply)
          })
      }
    }
    call(script.evalsha(keys: keys, arguments)) { result in
      guard case .failure(let error) = result, error.code == "NOSCRIPT" else { return completion(result) }
      call(script.eval(keys: keys, arguments), completion)
    }
  }

  /// For the control plane, from anywhere.
  package func run(
    _ script: RedisScript, keys: [String], _ arguments: [RedisCommand.Argument], timeout: TimeAmount
  ) async throws -> RESPReply {
    try await withCheckedThrowingContinuation { continuation in
      eventLoop.execute {
        self.run(script, keys: keys, arguments, deadline: self.eventLoop.now + timeout) {
          continuation.resume(with: $0)
        }
      }
    }
  }
}
