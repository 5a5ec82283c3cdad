import NIOCore

/// A connection that is logged in. Its methods, but for the `async` ones, are called on its event loop. No completion
/// runs inside the call that caused it.
package final class RedisConnection: Sendable {
  package typealias Completion = (Result<[RESPReply], RedisError>) -> Void

  package let eventLoop: any EventLoop
  /// Of the server.
  package let address: RedisURL.Address
  /// Where the server's name led when the connection was made.
  package let remoteAddress: SocketAddress?
  private let handler: NIOLoopBound<RedisConnectionHandler>

  init(
    handler: NIOLoopBound<RedisConnectionHandler>, address: RedisURL.Address, remoteAddress: SocketAddress?,
    eventLoop: any EventLoop
  ) {
    (self.handler, self.address, self.remoteAddress) = (handler, address, remoteAddress)
    self.eventLoop = eventLoop
  }

  /// Logs in over a channel whose bytes are RESP, an `EmbeddedChannel` for instance; on its event loop.
  package static func logIn(
    over channel: any Channel, _ url: RedisURL, _ options: RedisConnector.Options = RedisConnector.Options(),
    deadline: NIODeadline? = nil
  ) throws -> EventLoopFuture<RedisConnection> {
    let deadline = deadline ?? channel.eventLoop.now + (url.connectTimeout ?? options.connectTimeout)
    let handler = RedisConnectionHandler(url, options, loginDeadline: deadline, on: channel.eventLoop)
    let connection = handler.connection
    try channel.pipeline.syncOperations.addHandler(handler)
    return connection
  }

  /// Sends the commands back to back and completes once, with one reply for each, refusals among them.
  ///
  /// All that is sent in one turn of the event loop shares one write. If `deadline` passes, the connection is closed
  /// and everything unanswered on it fails with ``RedisError/timedOut``; a large reply that is coming in, at least
  /// 256 KiB a second, is waited for.
  package func send(_ commands: [RedisCommand], deadline: NIODeadline, completion: @escaping Completion) {
    handler.value.send(commands, deadline: deadline, completion: completion)
  }

  /// Sends one command; a refusal is a failure.
  package func send(
    _ command: RedisCommand, deadline: NIODeadline, completion: @escaping (Result<RESPReply, RedisError>) -> Void
  ) {
    send([command], deadline: deadline) { result in
      completion(
        result.flatMap { replies in
          guard let reply = replies.first else { return .failure(.unexpectedReply(command.name)) }
          return reply.error.map { .failure($0) } ?? .success(reply)
        })
    }
  }

  /// For the control plane, from anywhere.
  package func send(_ commands: [RedisCommand], timeout: TimeAmount) async throws -> [RESPReply] {
    try await withCheckedThrowingContinuation { continuation in
      eventLoop.execute {
        self.send(commands, deadline: self.eventLoop.now + timeout) { continuation.resume(with: $0) }
      }
    }
  }

  /// For the control plane, from anywhere; a refusal is thrown.
  package func send(_ command: RedisCommand, timeout: TimeAmount) async throws -> RESPReply {
    guard let reply = try await send([command], timeout: timeout).first else {
      throw RedisError.unexpectedReply(command.name)
    }
    return try reply.accepted()
  }

  /// Called with each message to a subscriber.
  package var onPush: ((RESPReply) -> Void)? {
    get { handler.value.onPush }
    set { handler.value.onPush = newValue }
  }

  /// Called once, before the requests fail that were unanswered; also if it is set after the end.
  package var onClose: ((RedisError) -> Void)? {
    get { handler.value.onClose }
    set { handler.value.onClose = newValue }
  }

  /// Nil while it is open.
  package var closeReason: RedisError? { handler.value.closeReason }

  /// Bytes of commands not yet answered.
  package var pipelineBytes: Int { handler.value.pipelineBytes }

  /// Fails what is unanswered with `reason`.
  package func close(_ reason: RedisError = .stopped) { handler.value.close(reason) }
}
