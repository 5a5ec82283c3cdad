import BatonProducer
import BatonProtocol
import BatonUpstream
import NIOConcurrencyHelpers
import NIOCore

/// A stream of events that is uploaded into a response, where a relay would ask for one.
package struct RelayUpload: Sendable {
  private let answer: OpenResponse
  private let codec: any RelayCodec
  private let stop = Stop()

  private final class Stop: Sendable {
    let why = NIOLockedValueBox<RelayStop?>(nil)
  }

  /// Begins the response.
  /// - Throws: `ProducerError`.
  package init(
    session: String, response: String, codec: any RelayCodec, producer: Producer
  ) async throws {
    self.codec = codec
    answer = try await producer.open(session: session, response: response, data: codec.start)
  }

  /// Returns how the response has ended: by the stream's own end, a cancel, or because the stream was cut.
  /// - Parameters:
  ///   - holding: told how many bytes of an event that is not whole yet are held; the upload is cut where it throws.
  ///   - given: returns when the upload is to be given up.
  /// - Throws: `ProducerError`.
  package func run<Body: AsyncSequence & Sendable>(
    _ body: Body, holding: @escaping @Sendable (Int) async throws -> Void,
    until given: @escaping @Sendable () async -> Void
  ) async throws -> ResponseEnd where Body.Element == ByteBuffer {
    try await withThrowingTaskGroup(of: ResponseEnd?.self) { group in
      group.addTask { try await read(body, holding) }
      group.addTask {
        for await message in answer.messages where message.kind == .cancel {
          stop.why.withLockedValue { $0 = .cancelled }
          return nil
        }
        // The response has ended, or the upload is given up: the reader says how.
        try? await Task.sleep(for: .seconds(1 << 30))
        return nil
      }
      group.addTask {
        await given()
        if !Task.isCancelled { stop.why.withLockedValue { $0 = $0 ?? .drained } }
        return nil
      }
      defer { group.cancelAll() }
      while let end = try await group.next() {
        if let end { return end }
        group.cancelAll()
      }
      return .error
    }
  }

  private func read<Body: AsyncSequence & Sendable>(
    _ body: Body, _ holding: @Sendable (Int) async throws -> Void
  ) async throws -> ResponseEnd where Body.Element == ByteBuffer {
    var feed = RelayFeed(codec, to: answer)
    var how: ResponseEnd?
    var why = "the upload ended early"
    do {
      for try await bytes in body where how == nil {
        try await feed.received(bytes)
        try await holding(feed.held)
        if feed.isOver { how = try await feed.end(.cut(why)) }
      }
      // The body also seems to end where the reading was given up.
      if !Task.isCancelled { try await feed.ended() }
    } catch let error as ProducerError {
      throw error
    } catch {
      why = "the upload broke off"
    }
    if let how { return how }
    return try await feed.end(stop.why.withLockedValue { $0 } ?? .cut(why))
  }
}
