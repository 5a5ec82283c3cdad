import BatonProducer
import BatonProtocol
import BatonSession
import NIOConcurrencyHelpers
import NIOCore

/// Appends straight to Redis.
struct RedisTarget: PublishTarget {
  /// How long Redis may be away in the middle of an answer.
  private static let patience = Duration.seconds(60)

  let response: String
  private let producer: Producer
  private let open: OpenResponse
  private let ending = Ending()

  /// The first end that was asked for.
  private final class Ending: Sendable {
    let first = NIOLockedValueBox<(how: ResponseEnd, data: String?)?>(nil)
  }

  init(url: String, _ opening: Opening, prefix: String, replicas: Int) async throws(PublishFailure) {
    var configuration = Producer.Configuration()
    (configuration.keyPrefix, configuration.replicas) = (prefix, replicas)
    configuration.patience = Self.patience
    do {
      producer = try Producer(redis: url, configuration)
      let session = opening.session.qualified
      let known = try await producer.open(session: session, response: opening.response)
      let hasBegun = await known.onAcknowledgement { _ in } > 0
      guard hasBegun, !opening.isResumable else {
        (response, open) = (opening.response, known)
        return
      }
      let successor = opening.successor
      // The new one first, so that nobody takes the session for finished in between.
      open = try await producer.open(session: session, response: successor.name, data: successor.start)
      response = successor.name
      try await known.end(.error, data: successor.end)
      opening.tellSuperseded(by: response)
    } catch {
      throw PublishFailure(error)
    }
  }

  var messages: AsyncStream<DeviceMessage> { open.messages }

  func onAcknowledgement(_ told: @escaping @Sendable (OpenResponse.Acknowledgement) -> Void) async -> UInt64 {
    await open.onAcknowledgement(told)
  }

  func append(_ delta: ByteBuffer) async throws(PublishFailure) {
    do {
      try await open.append(delta)
    } catch {
      throw PublishFailure(error)
    }
  }

  func end(_ how: ResponseEnd, _ data: String?) async throws(PublishFailure) {
    let (how, data) = ending.first.withLockedValue { first in
      first = first ?? (how, data)
      return first ?? (how, data)
    }
    do {
      try await open.end(how, data: data)
      await producer.shutdown()
    } catch {
      throw PublishFailure(error)
    }
  }
}

extension PublishFailure {
  fileprivate init(_ error: any Error) {
    self =
      switch error as? ProducerError {
      case .refused(let why): .configuration(why)
      case let error?: .unavailable(error.description)
      case nil: .fault("\(error)")
      }
  }
}
