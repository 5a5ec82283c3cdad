import NIOCore

/// An answer that is passed on as it comes, until nobody holds it any more.
package final class PassedStream: Sendable {
  /// Without its body.
  package let answer: Relay.Answer
  private let response: UpstreamResponse
  private let idleLimit: Duration?
  private let ended: @Sendable () -> Void

  init(
    _ answer: Relay.Answer, _ response: UpstreamResponse, idleLimit: Duration?, ended: @escaping @Sendable () -> Void
  ) {
    (self.answer, self.response, self.idleLimit, self.ended) = (answer, response, idleLimit, ended)
  }

  deinit {
    response.giveUp(CancellationError())
    ended()
  }

  /// To be called once.
  /// - Throws: where the answer breaks off, or `take` does.
  package func read(_ take: (ByteBuffer) async throws -> Void) async throws {
    let watch = UpstreamWatch(response)
    defer { watch.end() }
    watch.expect(within: idleLimit)
    for try await case .bytes(let bytes) in response.parts {
      try await take(bytes)
      response.taken(bytes.readableBytes)
      watch.expect(within: idleLimit)
    }
  }
}
