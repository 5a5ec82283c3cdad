import BatonProtocol
import BatonSession
import BatonStore
import NIOConcurrencyHelpers
import NIOCore

/// A response that this process is producing.
///
/// One that nobody holds any more, and that was not ended, ends by `error` with the reason `producer_lost`.
public final class OpenResponse: Sendable {
  /// The response's name, unique within its session.
  public let name: String
  /// What people do on devices meanwhile, within 250 ms: a cancel of this response (also one from before it was
  /// opened), and inputs from its opening on. A cancel is told before inputs that wait. Ends with the response. For one reader;
  /// it holds 64 inputs, the others wait in Redis.
  public var messages: AsyncStream<DeviceMessage> {
    AsyncStream { [queue] in await queue.next() }
  }

  private let queue: MessageQueue
  /// Lives as long as its responses.
  private let producer: Producer
  private let driver: NIOLoopBoundBox<ResponseDriver?>
  private let eventLoop: any EventLoop

  init(
    name: String, queue: MessageQueue, driver: NIOLoopBoundBox<ResponseDriver?>, producer: Producer,
    eventLoop: any EventLoop
  ) {
    (self.name, self.queue, self.driver) = (name, queue, driver)
    (self.producer, self.eventLoop) = (producer, eventLoop)
  }

  deinit {
    eventLoop.execute { [driver] in driver.value?.letGo() }
  }

  /// Appends a text delta. Returns when it is taken, before Redis has it; waits while too much is on its way.
  /// - Parameters:
  ///   - text: of over 128 KiB it becomes several deltas, cut between characters.
  ///   - part: which part of the response it belongs to: `kind:name`, 1 to 128 characters of `A-Z a-z 0-9 . _ ~ : @ -`, the
  ///     kind of `a-z 0-9 -`. Nil: the answer's text. What is not of kind `text`, such as `reasoning`, is not shown as text.
  /// - Throws: ``ProducerError``, also for what was taken earlier; `CancellationError` at once in a cancelled task, and then
  ///   nothing was taken.
  public func append(_ text: String, part: String? = nil) async throws {
    try await append(ByteBuffer(string: text), part: part)
  }

  /// Appends a delta of any bytes: also a part of a character.
  /// - Throws: as ``append(_:part:)-(String,_)``.
  public func append(_ bytes: ByteBuffer, part: String? = nil) async throws {
    if let part { try Self.check(part: part) }
    try await append(bytes.pieces().map { .delta($0, part: part) })
  }

  private static func check(part: String) throws {
    guard Shape.part(part.utf8) else { throw ProducerError.refused("'\(part.prefix(64))' is no part: kind:name") }
  }

  /// Appends another entry, at once and by itself.
  /// - Parameters:
  ///   - event: 1 to 64 characters of `A-Z a-z 0-9 . _ : -`, and none of the reserved ones.
  ///   - data: its payload; with names, values and the response's name it may have 256 KiB.
  ///   - part: as for ``append(_:part:)-(String,_)``.
  ///   - more: the data goes on in the next entry of this event.
  ///   - fields: what is forwarded beside `data`; names that the protocol has for itself are refused.
  /// - Throws: as ``append(_:part:)-(String,_)``.
  public func append(
    event: String, data: String? = nil, part: String? = nil, more: Bool = false,
    fields: [(name: String, value: String)] = []
  ) async throws {
    if let field = fields.first(where: { $0.name.hasPrefix("_") }) {
      throw ProducerError.refused("the protocol has the field '\(field.name)' for itself")
    }
    try await append(event: event, data: data, part: part, more: more, allFields: fields)
  }

  /// With fields that are forwarded to nobody, where their names begin with `_`.
  package func append(
    event: String, data: String?, part: String? = nil, more: Bool, allFields fields: [(name: String, value: String)]
  ) async throws {
    if let part { try Self.check(part: part) }
    guard Shape.event(event.utf8), !Self.reservedEvents.contains(event) else {
      throw ProducerError.refused("'\(event)' can't be an event of an app")
    }
    if let field = fields.first(where: { Self.reservedFields.contains($0.name) }) {
      throw ProducerError.refused("the protocol has the field '\(field.name)' for itself")
    }
    var entry = [Entry.Field("event", event)]
    if let part { entry.append(Entry.Field("part", part)) }
    if more { entry.append(Entry.Field("more", "1")) }
    entry += Self.fields(data) + fields.map { Entry.Field($0.name, $0.value) }
    try check(entry, event)
    try await append([.event(entry)])
  }

  /// Bytes of an entry's names and values that reach every device (`--max-entry-bytes`).
  static let entryLimit = 256 << 10

  private func check(_ fields: [Entry.Field], _ event: String) throws {
    // The step adds `response` and a number.
    let size = fields.reduce(0) { $0 + $1.name.readableBytes + $1.value.readableBytes } + name.utf8.count + 40
    guard size <= Self.entryLimit else {
      throw ProducerError.tooLarge(
        "'\(event)' would have \(size) bytes, \(Self.entryLimit) reach devices; put it elsewhere and append a link")
    }
  }

  /// Ends the response and returns when Redis has all of it.
  ///
  /// For 10 s more the producer looks whether Redis still has it, and appends again what a failover lost.
  /// - Parameters:
  ///   - how: the first end counts. The same once more waits for it, another one throws ``ProducerError/ended(_:)``.
  ///   - data: such as finish reason and usage, as JSON.
  /// - Throws: ``ProducerError``; `CancellationError` at once in a cancelled task, while the end goes its way.
  public func end(_ how: ResponseEnd = .end, data: String? = nil) async throws {
    let fields = Self.fields(data)
    try check(fields, how.rawValue)
    try await act { $0.end(how, fields, $1) }
  }

  // MARK: for recordings

  /// What Redis has acknowledged: everything up to `n`, and the end where it is one. `id` is the last entry's.
  package struct Acknowledgement: Sendable, Equatable {
    package let n: UInt64
    package let end: ResponseEnd?
    package let id: EntryID?

    package init(n: UInt64, end: ResponseEnd?, id: EntryID?) { (self.n, self.end, self.id) = (n, end, id) }
  }

  /// Told of each acknowledgement from now on, on the event loop.
  /// - Returns: the number that is acknowledged already: before the first `append` the one that its deltas go on after.
  package func onAcknowledgement(_ told: @escaping @Sendable (Acknowledgement) -> Void) async -> UInt64 {
    let known = try? await eventLoop.submit { [driver] in
      driver.value?.onWritten = { told(Acknowledgement(n: $0.n, end: ResponseEnd($0.state), id: $0.id)) }
      return driver.value?.writer.items.known
    }.get()
    return known.flatMap(\.self) ?? 0
  }

  // MARK: for relays

  /// Leaves it open: another producer goes on with it. What Redis does not have yet is lost, unless that one has it, too.
  package func abandon() async {
    try? await eventLoop.submit { [driver] in driver.value?.fail(.stopped) }.get()
  }

  // MARK: for `Producer.respond`

  /// Ends it if nothing else has, without waiting.
  func endSoon(_ how: ResponseEnd, data: String) {
    let fields = Self.fields(data)
    eventLoop.execute { [driver] in
      guard let driver = driver.value, driver.writer.end == nil else { return }
      driver.end(how, fields, nil)
    }
  }

  /// How this producer has ended it, so far.
  var ending: ResponseEnd? {
    get async { try? await eventLoop.submit { [driver] in driver.value?.writer.end }.get() }
  }

  /// Told once, when a device has asked to stop it.
  func onCancel(_ told: @escaping @Sendable () -> Void) {
    eventLoop.execute { [driver] in driver.value?.onCancel = told }
  }

  private static let reservedEvents: Set<String> = ["start", "token", "end", "error", "cancelled", "input"]
  private static let reservedFields: Set<String> = ["data", "event", "response", "part", "n", "joined", "more"]

  private static func fields(_ data: String?) -> [Entry.Field] { data.map { [Entry.Field("data", $0)] } ?? [] }

  private func append(_ items: [KeptItems.Item]) async throws {
    try Task.checkCancellation()
    try await act { $0.append(items, $1) }
  }

  private func act(_ body: @escaping @Sendable (ResponseDriver, ResponseDriver.Waiter) -> Void) async throws {
    let driver = driver
    try await wait(on: eventLoop) { waiter in
      guard let driver = driver.value else { return waiter.resume(throwing: ProducerError.stopped) }
      body(driver, waiter)
    } onCancel: {
      driver.value?.cancel($0)
    }
  }
}

private let waiterNumbers = NIOLockedValueBox(0)

/// Runs `body` on the loop and waits; a cancelled task waits no longer.
func wait(
  on eventLoop: any EventLoop, _ body: @escaping @Sendable (ResponseDriver.Waiter) -> Void,
  onCancel: @escaping @Sendable (Int) -> Void
) async throws {
  let number = waiterNumbers.withLockedValue { number in
    number += 1
    return number
  }
  try await withTaskCancellationHandler {
    try await withCheckedThrowingContinuation { continuation in
      let isCancelled = Task.isCancelled
      eventLoop.execute {
        body(ResponseDriver.Waiter(number: number, continuation: continuation))
        // The handler ran before there was anybody to cancel.
        if isCancelled { onCancel(number) }
      }
    }
  } onCancel: {
    eventLoop.execute { onCancel(number) }
  }
}
