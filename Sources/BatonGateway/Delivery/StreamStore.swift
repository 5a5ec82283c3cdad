import BatonProtocol
import BatonRedis
import BatonSession
import BatonStore
import Logging
import NIOCore
import Synchronization

#if canImport(Glibc)
  import Glibc
#else
  import Darwin
#endif

extension GatewayConfiguration {
  /// No string longer than this is taken in from Redis.
  fileprivate var maxBulkBytes: Int { max(1 << 20, maxEntryBytes) }

  /// XINFO's first and last entry, and what a read is for.
  fileprivate var replyLimits: RESPLimits {
    var limits = RESPLimits()
    limits.maxBulkBytes = maxBulkBytes
    limits.maxReplyBytes = 4 * maxBulkBytes
    return limits
  }
}

/// The node's four connections to Redis, whatever the number of sessions and devices: notices, the tail's reads, pages of
/// history, and commands. All but what says otherwise is called on `eventLoop`.
package final class StreamStore: @unchecked Sendable {
  package let eventLoop: any EventLoop
  let configuration: GatewayConfiguration
  private let metrics: GatewayMetrics
  private let state: NodeState
  private let logger: Logger

  private var tail: Tail
  private var decoder: StreamDecoder
  private var rooms: [SessionName: [Room]] = [:]
  private var notices: RedisLink?
  private var reads: RedisLink?
  private var history: RedisLink?
  private var commands: RedisLink?
  private var noticesID: Int64?
  private var source: Tail.Source
  private var pages: PageQueue<PageWaiter>
  private var unansweredSince: Int64?
  private var lastPing: Int64 = 0
  private var told: [ObjectIdentifier: (loop: any EventLoop, updates: [(Room, TailUpdate)])] = [:]
  private let tickets = Atomic<UInt64>(0)
  /// How looks are taken for now.
  private var look = Look.transaction
  private var leases: LeaseKeeper?
  private var isStopped = false

  private struct PageWaiter {
    /// Whether it waits for the store to come back.
    let waits: Bool
    let answer: @Sendable (PageOutcome) -> Void
  }

  package init(
    _ configuration: GatewayConfiguration, _ parts: GatewayParts, on eventLoop: any EventLoop
  ) throws(RedisError) {
    self.eventLoop = eventLoop
    self.configuration = configuration
    (metrics, state, logger) = (parts.metrics, parts.state, parts.logger)
    var tuning = Tail.Configuration()
    tuning.sweepMs = configuration.sweep.nanoseconds / 1_000_000
    tuning.pollMs = configuration.pollInterval.nanoseconds / 1_000_000
    source = configuration.wakeup == .poll ? .poll : .tracking
    tail = Tail(tuning, source: source)
    decoder = StreamDecoder(maxEntryBytes: configuration.maxEntryBytes)
    let limits = configuration.replyLimits
    pages = PageQueue(maxInFlight: max(1, min(4, configuration.catchUpBytes / limits.maxReplyBytes)))
    var options = RedisConnector.Options()
    options.limits = limits
    func connector(_ role: String) throws(RedisError) -> RedisConnector {
      options.clientName = "baton-\(configuration.node)-\(role)"
      return try RedisConnector(configuration.redis, options: options)
    }
    notices = RedisLink(
      try connector("notices"), on: eventLoop, keepAlive: nil,
      setUp: { [weak self] in self?.setUpNotices($0, $1) }, report: { [weak self] in self?.noticesChanged($0) })
    reads = RedisLink(
      try connector("tail"), on: eventLoop, keepAlive: nil,
      setUp: { [weak self] in self?.setUpReads($0, $1) }, report: { [weak self] in self?.readsChanged($0) })
    history = RedisLink(
      try connector("history"), on: eventLoop, setUp: StreamStore.ping,
      report: { [weak self] in self?.historyChanged($0) })
    commands = RedisLink(
      try connector("commands"), on: eventLoop, setUp: StreamStore.ping,
      report: { [weak self] in self?.commandsChanged($0) })
    leases = LeaseKeeper(self, logger: logger)
  }

  package func start() {
    if source == .tracking { notices?.start() } else { reads?.start() }
    history?.start()
    commands?.start()
    tick()
  }

  package func stop() {
    isStopped = true
    for link in [notices, reads, history, commands] { link?.stop() }
  }

  package func key(_ session: SessionName) -> String { session.key(prefix: configuration.keyPrefix) }

  private var now: Int64 { Int64(NIODeadline.now().uptimeNanoseconds / 1_000_000) }

  // MARK: rooms

  func follow(_ session: SessionName, for room: Room) {
    rooms[session, default: []].append(room)
    metrics.sessions.set(rooms.count)
    if rooms[session]?.count == 1 { leases?.begin(session) }
    if leases?.holdsLive(session) == true { tell(room, .held(true)) }
    if let end = tail.end(of: session) { tell(room, .opened(base: end)) }
    perform(tail.follow(session))
  }

  func unfollow(_ session: SessionName, for room: Room) {
    rooms[session]?.removeAll { $0 === room }
    guard rooms[session]?.isEmpty == true else { return }
    rooms[session] = nil
    metrics.sessions.set(rooms.count)
    tail.unfollow(session)
    leases?.end(session)
  }

  /// No response of the session waits for its producer any more.
  func release(_ session: SessionName) {
    for room in rooms[session] ?? [] { tell(room, .held(false)) }
    hop()
  }

  /// From any event loop.
  func drawTicket() -> UInt64 { tickets.wrappingAdd(1, ordering: .relaxed).newValue }

  func touch(_ session: SessionName, ticket: UInt64) { perform(tail.touch(session, ticket: ticket)) }

  // MARK: the tail

  private func perform(_ actions: [Tail.Action]) {
    for action in actions {
      switch action {
      case .read(let reads): send(reads)
      case .tell(let session, let update):
        for room in rooms[session] ?? [] { tell(room, update) }
        note(session, update)
      case .probeNotices(let token):
        notices?.connection?.send([.ping], deadline: .now() + .seconds(10)) { [weak self] result in
          guard let self, case .success = result else { return }
          self.metrics.tailSweepFinds.increment()
          self.perform(self.tail.noticesAnswered(token))
        }
      case .sourceChanged:
        if configuration.wakeup == .auto {
          logger.warning("Redis announces no changes here: polling from now on", metadata: ["wakeup": "poll"])
          source = .poll
        } else {
          logger.error("Redis announces no changes here; --wakeup auto or poll would poll instead")
          reads?.connection?.close()
        }
      }
    }
    hop()
  }

  private func note(_ session: SessionName, _ update: TailUpdate) {
    switch update {
    case .appended(let segment):
      metrics.entriesRead.increment(by: segment.entries.count)
      if segment.entries.contains(where: { $0.response != nil && !$0.endsResponse }) { leases?.noticed(session) }
      if let last = segment.entries.last {
        let written = Int64(clamping: last.id.milliseconds)
        let lag = StreamStore.wallClockMs() - written
        if lag >= 0, lag < 3_600_000 { metrics.lag.recordMilliseconds(lag) }
      }
    case .reset(let reset, _):
      logger.notice(
        "continuity is broken",
        metadata: [
          "session": "\(session)", "reason": "\(reset.reason.rawValue)", "offset": "\(reset.requested)",
        ])
    case .wrongType: logger.warning("the key holds another type", metadata: ["session": "\(session)"])
    default: break
    }
  }

  private func send(_ round: [TailRead]) {
    guard let connection = reads?.connection else { return }
    var commands: [RedisCommand] = []
    commands.reserveCapacity(round.count)
    let look = look
    for read in round { commands += read.commands(key: key(read.session), look) }
    let sent = NIODeadline.now()
    unansweredSince = unansweredSince ?? now
    connection.send(commands, deadline: sent + .seconds(10)) { [weak self] result in
      guard let self else { return }
      guard case .success(let replies) = result else { return }
      self.unansweredSince = nil
      self.metrics.redisLatency.recordNanoseconds((NIODeadline.now() - sent).nanoseconds)
      self.take(round, look, replies, connection)
    }
  }

  private func take(_ round: [TailRead], _ look: Look, _ replies: [RESPReply], _ connection: RedisConnection) {
    var next = 0
    let misshapen = decoder.misshapen
    for read in round {
      let slice = replies[min(next, replies.count)..<min(next + read.commandCount(look), replies.count)]
      next += read.commandCount(look)
      do throws(RedisError) {
        let outcome = try read.outcome(slice, key: key(read.session), look, &decoder)
        perform(tail.completed(read.session, outcome))
      } catch {
        metrics.redisErrors.increment()
        if isFull(error, look) {
          perform(tail.completed(read.session, .again))
          continue
        }
        logger.error("a read failed", metadata: ["session": "\(read.session)", "error": "\(error)"])
        if error.kind == .retry {
          connection.close()
          return
        }
        perform(tail.completed(read.session, .failed))
      }
    }
    if decoder.misshapen > misshapen { metrics.misshapenFields.increment(by: decoder.misshapen - misshapen) }
    perform(tail.answered())
  }

  /// A look that was refused because the server is full is taken in another way from now on.
  private func isFull(_ error: RedisError, _ look: Look) -> Bool {
    guard look == .transaction, error.code == "OOM" || error.code == "EXECABORT" else { return false }
    if self.look == .transaction {
      logger.warning("Redis is full: it takes no writes", metadata: ["error": "\(error)"])
    }
    self.look = .script
    eventLoop.assumeIsolated().scheduleTask(in: .seconds(10)) { [weak self] in self?.look = .transaction }
    return true
  }

  private func tell(_ room: Room, _ update: TailUpdate) {
    told[ObjectIdentifier(room.eventLoop), default: (room.eventLoop, [])].updates.append((room, update))
  }

  /// One hop for each event loop and batch.
  private func hop() {
    guard !told.isEmpty else { return }
    for (loop, updates) in told.values {
      loop.execute { for (room, update) in updates { room.apply(update) } }
    }
    told.removeAll(keepingCapacity: true)
  }

  // MARK: connections

  private static func ping(
    _ connection: RedisConnection, _ done: @escaping (Result<Void, RedisError>) -> Void
  ) {
    // A server that loads its data accepts a login and refuses this.
    connection.send(.ping, deadline: .now() + .seconds(5)) { done($0.map { _ in }) }
  }

  private func setUpNotices(_ connection: RedisConnection, _ done: @escaping (Result<Void, RedisError>) -> Void) {
    connection.onPush = { [weak self] message in
      guard let self, let invalidation = RedisInvalidation(message) else { return }
      self.noticed(invalidation)
    }
    connection.send([.clientID, .subscribeInvalidate], deadline: .now() + .seconds(5)) { [weak self] result in
      guard let self else { return }
      done(
        result.flatMap { replies in
          Result { () throws(RedisError) in
            guard replies.count == 2 else { throw .unexpectedReply("SUBSCRIBE") }
            self.noticesID = try replies[0].decodedInteger("CLIENT ID")
            try replies[1].accepted()
          }
        })
    }
  }

  private func noticesChanged(_ event: RedisLink.Event) {
    switch event {
    case .up:
      if let connection = reads?.connection { connection.close() } else { reads?.start() }
    case .down(let error):
      noticesID = nil
      log(error, "notices")
      if error.kind == .configuration, configuration.wakeup == .auto, reads?.connection == nil { reads?.start() }
      reads?.connection?.close()
    }
  }

  private func noticed(_ invalidation: RedisInvalidation) {
    switch invalidation {
    case .everything: tail.noticedAll()
    case .keys(let keys):
      for key in keys { if let session = session(key) { tail.noticed(session) } }
    }
    perform(tail.reads())
  }

  private func session(_ key: String) -> SessionName? {
    guard key.hasPrefix(configuration.keyPrefix), key.hasSuffix("}") else { return nil }
    let rest = key.dropFirst(configuration.keyPrefix.count)
    guard rest.hasPrefix("{") else { return nil }
    return SessionName(String(rest.dropFirst().dropLast()))
  }

  private func setUpReads(_ connection: RedisConnection, _ done: @escaping (Result<Void, RedisError>) -> Void) {
    StreamStore.ping(connection) { [weak self] result in
      guard let self else { return }
      if case .failure(let error) = result { return done(.failure(error)) }
      guard self.configuration.wakeup != .poll, let id = self.noticesID else {
        self.source = .poll
        return done(self.configuration.wakeup == .tracking ? .failure(.connectionLost) : .success(()))
      }
      connection.send(.trackingOn(redirect: id), deadline: .now() + .seconds(5)) { result in
        switch result {
        case .success:
          self.source = .tracking
          done(.success(()))
        case .failure(let error):
          guard self.configuration.wakeup == .auto, error.reason == .server, error.kind != .retry else {
            return done(.failure(error))
          }
          self.logger.warning("CLIENT TRACKING is refused: polling", metadata: ["error": "\(error)"])
          self.source = .poll
          done(.success(()))
        }
      }
    }
  }

  private func readsChanged(_ event: RedisLink.Event) {
    switch event {
    case .up:
      noteReached()
      unansweredSince = nil
      logger.info("following Redis", metadata: ["wakeup": source == .tracking ? "tracking" : "poll"])
      perform(tail.connected(source: source))
    case .down(let error):
      log(error, "tail")
      state.storeLost(at: .now())
      unansweredSince = nil
      tail.disconnected(at: now)
    }
  }

  private func log(_ error: RedisError, _ role: String) {
    metrics.redisReconnects.increment()
    logger.warning("no connection to Redis", metadata: ["connection": "\(role)", "error": "\(error)"])
  }

  private func tick() {
    if isStopped { return }
    let now = now
    if let since = unansweredSince { perform(tail.hanging(since: since, now: now)) }
    perform(tail.tick(now: now))
    if now - lastPing >= 1000, let connection = reads?.connection {
      lastPing = now
      unansweredSince = unansweredSince ?? now
      connection.send([.ping], deadline: .now() + .seconds(10)) { [weak self] result in
        guard let self, case .success = result else { return }
        self.unansweredSince = nil
        self.perform(self.tail.answered())
      }
      notices?.connection?.send([.ping], deadline: .now() + .seconds(10)) { _ in }
    }
    eventLoop.assumeIsolated().scheduleTask(in: tail.source == .poll ? .milliseconds(20) : .milliseconds(250)) {
      [weak self] in self?.tick()
    }
  }

  // MARK: history

  /// From any event loop; answered on the store's. `waits`: until the store is back, instead of `unavailable`.
  func page(_ request: PageRequest, waits: Bool, answer: @escaping @Sendable (PageOutcome) -> Void) {
    eventLoop.execute {
      guard self.history?.connection != nil || waits else { return answer(.unavailable) }
      self.pages.ask(request, PageWaiter(waits: waits, answer: answer))
      self.sendPages()
    }
  }

  /// For the control plane.
  package func page(_ request: PageRequest) async -> PageOutcome {
    await withCheckedContinuation { continuation in
      page(request, waits: false) { continuation.resume(returning: $0) }
    }
  }

  private func sendPages() {
    guard let connection = history?.connection else { return }
    while let request = pages.next() {
      let sent = NIODeadline.now()
      let look = look
      connection.send(request.commands(key: key(request.session), look), deadline: sent + .seconds(3)) {
        [weak self] result in
        guard let self else { return }
        var decoder = StreamDecoder(maxEntryBytes: self.configuration.maxEntryBytes)
        let outcome = result.flatMap { replies in
          Result { () throws(RedisError) in try request.outcome(replies, look, &decoder) }
        }
        let waiters = self.pages.answered(request)
        switch outcome {
        case .success(let page):
          self.metrics.redisLatency.recordNanoseconds((NIODeadline.now() - sent).nanoseconds)
          for waiter in waiters { waiter.answer(page) }
        case .failure(let error):
          self.metrics.redisErrors.increment()
          if self.isFull(error, look) {
            for waiter in waiters { self.pages.ask(request, waiter) }
            break
          }
          self.logger.warning(
            "history could not be read", metadata: ["session": "\(request.session)", "error": "\(error)"])
          for waiter in waiters {
            if waiter.waits, error.reason != .server {
              self.pages.ask(request, waiter)
            } else {
              waiter.answer(.unavailable)
            }
          }
          if error.kind == .retry, error.reason == .server { connection.close() }
        }
        self.sendPages()
      }
    }
  }

  private func historyChanged(_ event: RedisLink.Event) {
    switch event {
    case .up:
      noteReached()
      sendPages()
    case .down(let error): log(error, "history")
    }
  }

  private func commandsChanged(_ event: RedisLink.Event) {
    switch event {
    case .up: noteReached()
    case .down: leases?.connectionLost()
    }
  }

  /// Ready is who can let devices in: all connections are up.
  private func noteReached() {
    if reads?.connection != nil, history?.connection != nil, commands?.connection != nil { state.storeReached() }
  }

  // MARK: commands

  /// Nil while down.
  var commandConnection: RedisConnection? { commands?.connection }

  /// From anywhere.
  func send(_ command: RedisCommand) async throws -> RESPReply {
    try await withCheckedThrowingContinuation { continuation in
      eventLoop.execute {
        guard let connection = self.commandConnection else {
          return continuation.resume(throwing: RedisError.connectionLost)
        }
        connection.send(command, deadline: .now() + .seconds(5)) { continuation.resume(with: $0) }
      }
    }
  }

  private static func wallClockMs() -> Int64 {
    var time = timespec()
    clock_gettime(CLOCK_REALTIME, &time)
    return Int64(time.tv_sec) * 1000 + Int64(time.tv_nsec) / 1_000_000
  }
}
