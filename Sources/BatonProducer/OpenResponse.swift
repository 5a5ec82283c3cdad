import BatonProtocol
import BatonSession
import BatonStore
import NIOCore

/// A response that this process is producing.
public final class OpenResponse: Sendable {
  public let name: String
  /// What people do on devices meanwhile, within 250 ms: a cancel of this response (also one from before it was
  /// opened), and inputs from its opening on. Ends with the response. For one reader; it holds 64 messages, the others
  /// wait in Redis.
  public let messages: AsyncStream<DeviceMessage>

  /// Lives as long as its responses.
  private let producer: Producer
  private let driver: NIOLoopBoundBox<ResponseDriver?>
  private let eventLoop: any EventLoop

  init(
    name: String, messages: AsyncStream<DeviceMessage>, driver: NIOLoopBoundBox<ResponseDriver?>,
    producer: Producer, eventLoop: any EventLoop
  ) {
    (self.name, self.messages, self.driver) = (name, messages, driver)
    (self.producer, self.eventLoop) = (producer, eventLoop)
  }

  /// Appends a text delta. Returns when it is taken, before Redis has it; waits while too much is on its way.
  /// - Throws: ``ProducerError``, also for what was taken earlier.
  public func append(_ text: String) async throws { try await append(ByteBuffer(string: text)) }

  /// Appends a delta of any bytes.
  public func append(_ bytes: ByteBuffer) async throws { try await append(.delta(bytes)) }

  /// Appends another entry, at once and by itself.
  /// - Parameters:
  ///   - event: 1 to 64 characters of `A-Z a-z 0-9 . _ : -`, and none of the reserved ones.
  ///   - fields: what is forwarded beside `data`; names that the protocol has for itself are refused.
  public func append(event: String, data: String? = nil, fields: [(name: String, value: String)] = []) async throws {
    guard Shape.event(event.utf8), !Self.reservedEvents.contains(event) else {
      throw ProducerError.refused("'\(event)' can't be an event of an app")
    }
    if let field = fields.first(where: { Self.reservedFields.contains($0.name) || $0.name.hasPrefix("_") }) {
      throw ProducerError.refused("the protocol has the field '\(field.name)' for itself")
    }
    let data = data.map { [Entry.Field("data", $0)] } ?? []
    try await append(.event([Entry.Field("event", event)] + data + fields.map { Entry.Field($0.name, $0.value) }))
  }

  /// Ends the response and returns when Redis has all of it.
  ///
  /// For 10 s more the producer looks whether Redis still has it, and appends again what a failover lost.
  /// - Parameter data: such as finish reason and usage, as JSON.
  /// - Throws: ``ProducerError``.
  public func end(_ how: ResponseEnd = .end, data: String? = nil) async throws {
    let fields = data.map { [Entry.Field("data", $0)] } ?? []
    try await act { $0.end(how.state, fields, $1) }
  }

  private static let reservedEvents: Set<String> = ["start", "token", "end", "error", "cancelled", "input"]
  private static let reservedFields: Set<String> = ["data", "event", "response", "n", "joined"]

  private func append(_ item: KeptItems.Item) async throws {
    try await act { $0.append(item, $1) }
  }

  private func act(_ body: @escaping @Sendable (ResponseDriver, ResponseDriver.Waiter) -> Void) async throws {
    try await withCheckedThrowingContinuation { (waiter: ResponseDriver.Waiter) in
      eventLoop.execute {
        guard let driver = self.driver.value else { return waiter.resume(throwing: ProducerError.stopped) }
        body(driver, waiter)
      }
    }
  }
}
