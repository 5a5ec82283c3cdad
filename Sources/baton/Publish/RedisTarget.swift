import BatonProducer
import BatonProtocol
import BatonSession
import NIOCore
import Synchronization

/// Appends straight to Redis.
struct RedisTarget: PublishTarget {
  /// How long Redis may be away in the middle of an answer.
  private static let patience = Duration.seconds(60)

  private let response: OpenResponse
  private let hasEnded = Flag()

  private final class Flag: Sendable {
    let isSet = Atomic(false)
  }

  init(
    url: String, session: SessionName, prefix: String, response: String, replicas: Int
  ) async throws(PublishFailure) {
    var configuration = Producer.Configuration()
    (configuration.keyPrefix, configuration.replicas) = (prefix, replicas)
    configuration.patience = Self.patience
    do {
      let producer = try Producer(redis: url, configuration)
      self.response = try await producer.open(session: session.description, response: response)
    } catch {
      throw PublishFailure(error)
    }
  }

  var messages: AsyncStream<DeviceMessage> { response.messages }

  func onAcknowledgement(_ told: @escaping @Sendable (OpenResponse.Acknowledgement) -> Void) async -> UInt64 {
    await response.onAcknowledgement(told)
  }

  func append(_ delta: ByteBuffer) async throws(PublishFailure) {
    do {
      try await response.append(delta)
    } catch {
      throw PublishFailure(error)
    }
  }

  func end(_ how: ResponseEnd, _ data: String?) async throws(PublishFailure) {
    let isFirst = !hasEnded.isSet.exchange(true, ordering: .relaxed)
    do {
      try await response.end(how, data: data)
    } catch ProducerError.ended where !isFirst {
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
