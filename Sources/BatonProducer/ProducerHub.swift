import BatonProtocol
import BatonRedis
import BatonSession
import BatonStore
import Logging
import NIOCore

/// One connection and all responses of a ``Producer``, on one event loop.
final class ProducerHub {
  /// How often the inboxes of open responses are looked at: several looks fit into the 250 ms promised.
  static let glance = TimeAmount.milliseconds(100)
  /// Messages of one inbox that one look brings.
  static let batch = 64

  let eventLoop: any EventLoop
  private let configuration: Producer.Configuration
  private let script = RedisScript(AppendScript.source)
  private var link: RedisLink?
  private var responses: [ObjectIdentifier: ResponseDriver] = [:]
  private var isLooking = false
  private var isGlancing = false
  private var isStopped = false
  /// Nobody holds the producer any more: what its responses still owe is written first, and nothing else keeps it.
  private var farewell: ProducerHub?
  /// For so long at most.
  static let farewellPatience = TimeAmount.seconds(60)
  private let logger: Logger

  init(
    _ connector: RedisConnector, _ configuration: Producer.Configuration, on eventLoop: any EventLoop, logger: Logger
  ) {
    (self.configuration, self.eventLoop, self.logger) = (configuration, eventLoop, logger)
    link = RedisLink(connector, on: eventLoop) { [weak self] event in self?.happened(event) }
    link?.start()
  }

  func open(
    session: SessionName, response: String, start: [Entry.Field], messages: MessageQueue
  ) -> ResponseDriver {
    let writer = ResponseWriter(
      response: response, writer: String(UInt64.random(in: 0 ... .max), radix: 36), start: start,
      options: configuration.writer, now: .now())
    return ResponseDriver(
      writer: writer, keys: SessionKeys(session, prefix: configuration.keyPrefix), messages: messages, on: eventLoop
    ) { [weak self] call, keys, completion in self?.call(call, keys, completion) }
  }

  func begin(_ driver: ResponseDriver, _ waiter: ResponseDriver.Waiter) {
    guard !isStopped else { return waiter.resume(throwing: ProducerError.stopped) }
    responses[ObjectIdentifier(driver)] = driver
    if link?.connection != nil { driver.connected() }
    driver.open(patience: TimeAmount(configuration.openPatience), waiter)
    glanceLater()
  }

  func letGo() {
    for driver in responses.values { driver.letGo() }
    responses = responses.filter { !$0.value.isReleased }
    guard !responses.isEmpty else { return stop() }
    farewell = self
    eventLoop.assumeIsolated().scheduleTask(in: Self.farewellPatience) { [weak self] in self?.stop() }
    glanceLater()
  }

  /// Whether an end that was asked for is not in Redis yet.
  var owesEnds: Bool { responses.values.contains { $0.isOpen && $0.writer.isEnding } }

  func stop() {
    isStopped = true
    farewell = nil
    for driver in responses.values { driver.fail(.stopped) }
    responses.removeAll()
    link?.stop()
    link = nil
  }

  private func happened(_ event: RedisLink.Event) {
    for driver in responses.values {
      switch event {
      case .up: driver.connected()
      case .down(let failure): driver.disconnected(failure.error)
      }
    }
  }

  private func call(
    _ call: AppendCall, _ keys: SessionKeys, _ completion: @escaping (Result<RESPReply, RedisError>) -> Void
  ) {
    guard let connection = link?.connection else { return completion(.failure(.connectionLost)) }
    let arguments = call.arguments(configuration.kept).map { argument -> RedisCommand.Argument in
      switch argument {
      case .string(let text): .string(text)
      case .bytes(let bytes): .bytes(bytes)
      }
    }
    connection.run(script, keys: keys.all, arguments, deadline: .now() + configuration.replyPatience) { result in
      // A master that became a replica: the next connection may find the new one.
      if case .failure(let error) = result, error.code == "READONLY" { connection.close() }
      completion(result)
    }
  }

  private func glanceLater() {
    guard !isGlancing, !isStopped else { return }
    isGlancing = true
    eventLoop.assumeIsolated().scheduleTask(in: Self.glance) { [weak self] in
      guard let self else { return }
      isGlancing = false
      responses = responses.filter { !$0.value.isReleased }
      guard !responses.isEmpty else {
        if farewell != nil { stop() }
        return
      }
      glance()
      glanceLater()
    }
  }

  /// Never blocks the connection, and costs what the open responses' sessions cost, whoever else waits for theirs.
  private func glance() {
    let open = responses.values.filter(\.isOpen)
    guard let connection = link?.connection, !isLooking, !open.isEmpty else { return }
    isLooking = true
    var looks = open.map { (driver: $0, after: $0.inbox.position, isBacklog: false) }
    looks += open.compactMap { driver in driver.backlog.map { (driver, $0, true) } }
    let reads = looks.map { RedisCommand.xread(count: Self.batch, [($0.driver.keys.inbox, $0.after)]) }
    connection.send(reads, deadline: .now() + configuration.replyPatience) { [weak self] result in
      guard let self else { return }
      isLooking = false
      guard case .success(let replies) = result else { return }
      var isMoreToCome = false
      for (look, reply) in zip(looks, replies) {
        // An inbox of another type is nobody's word; appends say so.
        guard let read = try? reply.decodedStreams([look.driver.keys.inbox]).first?.read else { continue }
        if look.isBacklog { look.driver.receivedBacklog(read.entries) } else { look.driver.received(read.entries) }
        isMoreToCome = isMoreToCome || (!look.isBacklog && read.entries.count == Self.batch)
      }
      // A cancel may stand behind any number of inputs.
      if isMoreToCome { eventLoop.assumeIsolated().execute { self.glance() } }
    }
  }
}
