import BatonProtocol
import BatonRedis
import BatonSession
import BatonStore
import NIOCore
import NIOPosix

/// Appends answers to sessions, safely: nothing twice, nothing lost that it still has, and an honest end.
///
///     let producer = try Producer(redis: "redis://127.0.0.1:6379/0")
///     let answer = try await producer.open(session: "chat-42")
///     for try await token in model.stream(prompt) { try await answer.append(token) }
///     try await answer.end()
///
/// A process needs one; it holds one connection to Redis, however many responses are open.
public final class Producer: Sendable {
  public struct Configuration: Sendable {
    /// As the gateways have it.
    public var keyPrefix = "baton:"
    /// Deltas that come within it travel as one entry; the first goes at once. 0 to 1 s.
    public var window = Duration.milliseconds(20)
    /// Bytes of a response that are kept to append them again after Redis lost them. As many may wait for Redis; then
    /// `append` waits too.
    public var keptBytes = 1 << 20
    /// All of a session vanishes so long after its last append; 1 s and up.
    public var retention = Duration.seconds(24 * 60 * 60)
    /// The newest entries that a session keeps; 1 and up.
    public var maxEntries = 100_000
    /// For how long opening waits for Redis.
    public var openPatience = Duration.seconds(10)
    /// For how long an open response waits for Redis; nil for as long as it takes.
    public var patience: Duration?

    public init() {}
  }

  private let eventLoop: any EventLoop
  private let hub: NIOLoopBoundBox<ProducerHub?>

  /// - Parameter redis: `redis://`, `rediss://` or `unix://`; not connected to before the first ``open(session:response:data:)``.
  /// - Throws: ``ProducerError/refused(_:)`` where the address is none.
  public init(redis: String, _ configuration: Configuration = Configuration()) throws(ProducerError) {
    let connector: RedisConnector
    do {
      connector = try RedisConnector(RedisURL(redis))
    } catch {
      throw .refused(error.description)
    }
    eventLoop = MultiThreadedEventLoopGroup.singleton.any()
    hub = NIOLoopBoundBox.makeEmptyBox(valueType: ProducerHub.self, eventLoop: eventLoop)
    let (eventLoop, hub) = (eventLoop, hub)
    eventLoop.execute { hub.value = ProducerHub(connector, configuration, on: eventLoop) }
  }

  /// Begins a response, or takes over one that is open: its former producer is fenced, and the numbers go on.
  /// - Parameters:
  ///   - session: 1 to 128 characters of `A-Z a-z 0-9 . _ ~ : @ -`.
  ///   - response: likewise; a fresh name unless told.
  ///   - data: for the `start` entry.
  /// - Throws: ``ProducerError``; ``ProducerError/ended(_:)`` where the response is over.
  public func open(session: String, response: String? = nil, data: String? = nil) async throws -> OpenResponse {
    guard let session = SessionName(session) else { throw ProducerError.refused("'\(session)' can't name a session") }
    let name = response ?? "r-" + String(UInt64.random(in: 0 ... .max), radix: 36)
    guard Shape.name(name.utf8, upTo: 128) else { throw ProducerError.refused("'\(name)' can't name a response") }
    let (messages, continuation) = AsyncStream.makeStream(
      of: DeviceMessage.self, bufferingPolicy: .bufferingOldest(ProducerHub.batch))
    let driver = NIOLoopBoundBox.makeEmptyBox(valueType: ResponseDriver.self, eventLoop: eventLoop)
    try await withCheckedThrowingContinuation { (waiter: ResponseDriver.Waiter) in
      eventLoop.execute {
        guard let hub = self.hub.value else { return waiter.resume(throwing: ProducerError.stopped) }
        driver.value = hub.open(
          session: session, response: name, start: data.map { [Entry.Field("data", $0)] } ?? [],
          messages: continuation, waiter)
      }
    }
    return OpenResponse(name: name, messages: messages, driver: driver, producer: self, eventLoop: eventLoop)
  }

  /// Closes the connection. Responses that are open are given up; gateways end them after 15 s.
  public func shutdown() async {
    try? await eventLoop.submit { [hub] in
      hub.value?.stop()
      hub.value = nil
    }.get()
  }
}

extension Producer.Configuration {
  var writer: ResponseWriter.Options {
    var options = ResponseWriter.Options()
    options.window = TimeAmount(window)
    options.keep = keptBytes
    options.patience = patience.map { TimeAmount($0) }
    return options
  }

  var kept: Retention {
    Retention(milliseconds: UInt64(max(retention / .milliseconds(1), 1)), entries: UInt64(max(maxEntries, 1)))
  }

  /// A reply that takes longer is lost, with its connection.
  var replyPatience: TimeAmount { .seconds(5) }
}
