@_exported import BatonProtocol
import BatonRedis
import BatonSession
import BatonStore
import Logging
import NIOConcurrencyHelpers
import NIOCore
import NIOPosix

/// Appends answers to sessions, safely: nothing twice, nothing lost that it still has, and an honest end.
///
///     let producer = try Producer(redis: "redis://127.0.0.1:6379/0")
///     try await producer.respond(in: "chat-42") { answer in
///       for try await token in model.stream(prompt) { try await answer.append(token) }
///     }
///
/// A process needs one; it holds one connection to each Redis master, however many responses are open. When nobody holds it any more, it
/// writes what its responses still owe and closes the connection.
public final class Producer: Sendable {
  /// What a producer does with its sessions, and how long it waits.
  public struct Configuration: Sendable {
    /// As the gateways have it.
    public var keyPrefix = "baton:"
    /// Deltas that come within it travel as one entry; the first goes at once. 0 to 1 s.
    public var window = Duration.milliseconds(20)
    /// Bytes of a response that are kept to append them again after Redis lost them. As many may wait for Redis; then
    /// `append` waits too.
    public var keptBytes = 1 << 20
    /// So many of the master's replicas must have an entry, or an end, before it counts as written: a failover to one of
    /// those loses none of it. 0: the master is enough, and what a failover loses is appended again.
    public var replicas = 0
    /// All of a session vanishes so long after its last append; 1 s and up.
    public var retention = Duration.seconds(24 * 60 * 60)
    /// The newest entries that a session keeps; 1 and up.
    public var maxEntries = 100_000
    /// For how long opening waits for Redis.
    public var openPatience = Duration.seconds(10)
    /// For how long an open response waits for Redis before it fails with ``ProducerError/unavailable(_:)``; nil for as long
    /// as it takes.
    public var patience: Duration? = .seconds(60)

    public init() {}
  }

  private let eventLoop: any EventLoop
  private let logger: Logger
  private let hub: NIOLoopBoundBox<ProducerHub?>

  /// - Parameters:
  ///   - redis: `redis://`, `rediss://`, `unix://`, `redis+sentinel://` or `redis+cluster://`.
  ///   - eventLoopGroup: whose threads do the work; one of its loops is used.
  ///   - logger: told of lost connections and of responses that fail, with the session's name; never of text or credentials.
  /// - Throws: ``ProducerError/refused(_:)`` where the address is none.
  public init(
    redis: String, _ configuration: Configuration = Configuration(),
    eventLoopGroup: any EventLoopGroup = MultiThreadedEventLoopGroup.singleton,
    logger: Logger = Logger(label: "baton.producer") { _ in SwiftLogNoOpLogHandler() }
  ) throws(ProducerError) {
    let connector: RedisConnector
    do {
      connector = try RedisConnector(RedisURL(redis))
    } catch {
      throw .refused(error.description)
    }
    eventLoop = eventLoopGroup.any()
    self.logger = logger
    hub = NIOLoopBoundBox.makeEmptyBox(valueType: ProducerHub.self, eventLoop: eventLoop)
    let (eventLoop, hub) = (eventLoop, hub)
    eventLoop.execute { hub.value = ProducerHub(connector, configuration, on: eventLoop, logger: logger) }
  }

  deinit {
    eventLoop.execute { [hub] in hub.value?.letGo() }
  }

  /// Produces one response and ends it as `body` ends: by `end` when it returns, by `error` when it throws, by `cancelled` when
  /// a device asked to stop or the task was cancelled.
  ///
  /// When a device asks to stop, the task of `body` is cancelled. What it appends until it returns still belongs to the
  /// response.
  /// - Parameters:
  ///   - session: 1 to 128 characters of `A-Z a-z 0-9 . _ ~ : @ -`.
  ///   - response: likewise; a fresh name unless told. One that is open is taken over.
  ///   - data: for the `start` entry.
  ///   - body: appends. It may end the response itself, with data of its own; that end counts.
  /// - Returns: how it ended; a device's cancel is no error.
  /// - Throws: what `body` throws; ``ProducerError``; `CancellationError` at once when the task is cancelled, while the end
  ///   goes its way.
  @discardableResult
  public func respond(
    in session: String, response: String? = nil, data: String? = nil,
    _ body: @escaping @Sendable (OpenResponse) async throws -> Void
  ) async throws -> ResponseEnd {
    let answer = try await open(session: session, response: response, data: data)
    let work = Task { try await body(answer) }
    let stopped = Stopped()
    answer.onCancel {
      stopped.isSet.withLockedValue { $0 = true }
      work.cancel()
    }
    let result = await withTaskCancellationHandler {
      await work.result
    } onCancel: {
      // At once, so that nothing which the body still appends comes behind it.
      answer.endSoon(.cancelled, data: #"{"reason":"cancelled"}"#)
      work.cancel()
    }
    try Task.checkCancellation()
    if await answer.ending == nil {
      switch result {
      case _ where stopped.isSet.withLockedValue({ $0 }):
        try await answer.end(.cancelled, data: #"{"reason":"cancel"}"#)
      case .success: try await answer.end()
      case .failure(let error as ProducerError) where error.isFinal: throw error
      case .failure(let error):
        logger.warning("a response ends by error: \(type(of: error))", metadata: ["session": "\(session)"])
        try await answer.end(.error, data: #"{"reason":"producer_error"}"#)
        throw error
      }
    } else if case .failure(let error) = result, !(error is CancellationError) {
      throw error
    }
    return await answer.ending ?? .end
  }

  private final class Stopped: Sendable {
    let isSet = NIOLockedValueBox(false)
  }

  /// Begins a response, or takes over one that is open: its former producer is fenced, and the numbers go on. It has to be
  /// ended; ``respond(in:response:data:_:)`` does that by itself.
  /// - Parameters:
  ///   - session: 1 to 128 characters of `A-Z a-z 0-9 . _ ~ : @ -`; of a tenant `TENANT/NAME`.
  ///   - response: 1 to 128 of these characters; a fresh name unless told.
  ///   - data: for the `start` entry.
  /// - Throws: ``ProducerError``; ``ProducerError/ended(_:)`` where the response is over; `CancellationError` at once in a
  ///   cancelled task.
  public func open(session: String, response: String? = nil, data: String? = nil) async throws -> OpenResponse {
    guard let session = SessionName(qualified: session) else {
      throw ProducerError.refused("'\(session)' can't name a session")
    }
    let name = response ?? "r-" + String(UInt64.random(in: 0 ... .max), radix: 36)
    guard Shape.name(name.utf8, upTo: 128) else { throw ProducerError.refused("'\(name)' can't name a response") }
    try Task.checkCancellation()
    let queue = MessageQueue()
    let driver = NIOLoopBoundBox.makeEmptyBox(valueType: ResponseDriver.self, eventLoop: eventLoop)
    // Held from the beginning: an opening that is given up is let go.
    let answer = OpenResponse(name: name, queue: queue, driver: driver, producer: self, eventLoop: eventLoop)
    try await wait(on: eventLoop) { [hub] waiter in
      guard let hub = hub.value else { return waiter.resume(throwing: ProducerError.stopped) }
      let opened = hub.open(
        session: session, response: name, start: data.map { [Entry.Field("data", $0)] } ?? [], messages: queue)
      driver.value = opened
      hub.begin(opened, waiter)
    } onCancel: {
      driver.value?.cancel($0)
    }
    return answer
  }

  /// Writes the ends that were asked for, waits until a replica has them where there are replicas (`WAIT`), for up to 10 s in
  /// all, and closes the connection: what a failover loses meanwhile is appended again. Responses that are still open are
  /// given up; gateways end them after 15 s.
  public func shutdown() async {
    let deadline = ContinuousClock.now + .seconds(10)
    while ContinuousClock.now < deadline {
      if await !owesEnds, await areEndsReplicated { break }
      try? await Task.sleep(for: .milliseconds(5))
    }
    try? await eventLoop.submit { [hub] in
      hub.value?.stop()
      hub.value = nil
    }.get()
  }

  private var areEndsReplicated: Bool {
    get async {
      let answer = eventLoop.makePromise(of: Bool.self)
      eventLoop.execute { [hub] in
        guard let hub = hub.value else { return answer.succeed(true) }
        hub.areEndsReplicated { answer.succeed($0) }
      }
      return (try? await answer.futureResult.get()) ?? true
    }
  }

  private var owesEnds: Bool {
    get async { (try? await eventLoop.submit { [hub] in hub.value?.owesEnds ?? false }.get()) ?? false }
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
