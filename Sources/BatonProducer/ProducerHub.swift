import BatonProtocol
import BatonRedis
import BatonSession
import BatonStore
import Logging
import NIOCore

/// The connections and all responses of a ``Producer``, on one event loop.
final class ProducerHub {
  /// How often the inboxes of open responses are looked at: several looks fit into the 250 ms promised.
  static let glance = TimeAmount.milliseconds(100)
  /// Messages of one inbox that one look brings.
  static let batch = 64

  let eventLoop: any EventLoop
  private let configuration: Producer.Configuration
  private let script = RedisScript(AppendScript.source)
  private var links: MasterLinks?
  private var responses: [ObjectIdentifier: (driver: ResponseDriver, master: String?)] = [:]
  private var isGlancing = false
  private var isHurried = false
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
    links = MasterLinks(connector, on: eventLoop) { [weak self] event in self?.happened(event) }
    links?.start()
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
    let master = links?.master(of: driver.keys.stream)
    responses[ObjectIdentifier(driver)] = (driver, master)
    if isUp(master) { driver.connected() }
    driver.open(patience: TimeAmount(configuration.openPatience), waiter)
    glanceLater()
  }

  func letGo() {
    for (driver, _) in responses.values { driver.letGo() }
    forgetReleased()
    guard !responses.isEmpty else { return stop() }
    farewell = self
    eventLoop.assumeIsolated().scheduleTask(in: Self.farewellPatience) { [weak self] in self?.stop() }
    glanceLater()
  }

  /// Whether an end that was asked for is not in Redis yet.
  var owesEnds: Bool { responses.values.contains { $0.driver.isOpen && $0.driver.writer.isEnding } }

  /// Whether no crash of a master can lose the ends that are in Redis.
  func areEndsReplicated(completion: @escaping (Bool) -> Void) {
    let ended = responses.values.filter { $0.driver.writer.phase == .ended }
    // WAIT tells of what was written over the connection that it is asked on.
    guard let links, ended.allSatisfy({ $0.driver.hasEndedOnItsConnection }) else { return completion(ended.isEmpty) }
    let masters = Set(ended.compactMap(\.master))
    var (waiting, isReplicated) = (masters.count, true)
    if masters.isEmpty { completion(true) }
    for master in masters {
      links.isReplicated(master) { answer in
        (waiting, isReplicated) = (waiting - 1, isReplicated && answer == true)
        if waiting == 0 { completion(isReplicated) }
      }
    }
  }

  func stop() {
    isStopped = true
    farewell = nil
    for (driver, _) in responses.values { driver.fail(.stopped) }
    responses.removeAll()
    links?.stop()
    links = nil
  }

  private func isUp(_ master: String?) -> Bool { master.flatMap { links?.connection(to: $0) } != nil }

  private func forgetReleased() { responses = responses.filter { !$0.value.driver.isReleased } }

  private func happened(_ event: MasterLinks.Event) {
    for (id, (driver, master)) in responses {
      switch event {
      case .up(master): driver.connected()
      case .down(master, let failure): driver.disconnected(failure.error)
      case .silent(let error) where master == nil: driver.disconnected(error)
      case .up, .down, .silent: break
      case .moved:
        let now = links?.master(of: driver.keys.stream)
        guard now != master else { continue }
        responses[id]?.master = now
        driver.disconnected(.inMotion)
        if isUp(now) { driver.connected() }
      }
    }
  }

  private func call(
    _ call: AppendCall, _ keys: SessionKeys, _ completion: @escaping (Result<RESPReply, RedisError>) -> Void
  ) {
    guard let links else { return completion(.failure(.connectionLost)) }
    let arguments = call.arguments(configuration.kept).map { argument -> RedisCommand.Argument in
      switch argument {
      case .string(let text): .string(text)
      case .bytes(let bytes): .bytes(bytes)
      }
    }
    links.run(
      script, keys: keys.all, arguments, replicas: configuration.replicas,
      deadline: .now() + configuration.replyPatience, completion: completion)
  }

  private func glanceLater() {
    guard !isGlancing, !isStopped else { return }
    isGlancing = true
    eventLoop.assumeIsolated().scheduleTask(in: Self.glance) { [weak self] in
      guard let self else { return }
      isGlancing = false
      forgetReleased()
      guard !responses.isEmpty else {
        if farewell != nil { stop() }
        return
      }
      glance()
      glanceLater()
    }
  }

  /// Never blocks a connection, and costs what the open responses' sessions cost, whoever else waits for theirs.
  private func glance() {
    typealias Look = (driver: ResponseDriver, after: RedisStreamID, isBacklog: Bool)
    var due: [String: [Look]] = [:]
    for (driver, master) in responses.values where driver.isOpen && driver.looks == 0 {
      guard let master else { continue }
      due[master, default: []].append((driver, driver.inbox.position, false))
      if let backlog = driver.backlog { due[master]?.append((driver, backlog, true)) }
    }
    for (master, due) in due {
      for look in due { look.driver.looks += 1 }
      let reads = due.map { RedisCommand.xread(count: Self.batch, [($0.driver.keys.inbox, $0.after)]) }
      links?.read(reads, at: master, deadline: .now() + configuration.replyPatience) { [weak self] index, reply in
        let look = due[index]
        look.driver.looks -= 1
        // An inbox of another type is nobody's word; appends say so.
        guard let read = try? reply?.decodedStreams([look.driver.keys.inbox]).first?.read else { return }
        if look.isBacklog { return look.driver.receivedBacklog(read.entries) }
        look.driver.received(read.entries)
        // A cancel may stand behind any number of inputs.
        if read.entries.count == Self.batch { self?.glanceSoon() }
      }
    }
  }

  private func glanceSoon() {
    guard !isHurried else { return }
    isHurried = true
    eventLoop.assumeIsolated().execute { [weak self] in
      self?.isHurried = false
      self?.glance()
    }
  }
}
