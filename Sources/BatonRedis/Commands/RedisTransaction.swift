import NIOCore

extension RedisConnection {
  /// MULTI, the commands, EXEC, in one go: all see one moment of the data.
  ///
  /// Completes with a reply for each command; refusals inside, such as `WRONGTYPE`, are among them. It fails where
  /// nothing was done, with the reason of the command that Redis did not queue.
  package func transaction(
    _ commands: [RedisCommand], deadline: NIODeadline, completion: @escaping Completion
  ) {
    send([.multi] + commands + [.exec], deadline: deadline) { result in
      completion(result.flatMap { replies in Result { () throws(RedisError) in try decodeExec(replies) } })
    }
  }

  /// ``transaction(_:deadline:completion:)`` for the control plane, from anywhere.
  package func transaction(_ commands: [RedisCommand], timeout: TimeAmount) async throws -> [RESPReply] {
    try decodeExec(try await send([.multi] + commands + [.exec], timeout: timeout))
  }
}

/// The replies inside EXEC's, from all replies to MULTI … EXEC.
package func decodeExec(_ replies: [RESPReply]) throws(RedisError) -> [RESPReply] {
  for reply in replies { try reply.accepted() }
  guard replies.count >= 2, let results = replies.last?.elements, results.count == replies.count - 2 else {
    throw .unexpectedReply("EXEC")
  }
  return Array(results)
}
