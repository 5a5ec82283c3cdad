import BatonProtocol
import BatonRedis
import BatonSession
import NIOCore

/// Reads what is new in all sessions that are followed: drives ``Tail`` over two connections, one for notices and one
/// for reads.
final class TailReader {
  private let eventLoop: any EventLoop
  private let configuration: StoreConfiguration
  private let look: LookForm
  private let shard: ShardState
  private let observe: (StoreEvent) -> Void
  /// Takes what there is to tell, in order; `flush` follows.
  private let tell: (SessionName, TailUpdate) -> Void
  private let flush: () -> Void
  /// Changes the key that the probe reads, where this is allowed: a notice is to come of it.
  private let provoke: () -> Void
  /// The server says that it is a replica.
  private let demoted: () -> Void

  private var tail: Tail
  private var decoder: StreamDecoder
  private var notices: RedisLink?
  private var reads: RedisLink?
  /// The `CLIENT ID` of the connection that hears notices; nil where none does.
  private var noticesID: Int64?
  /// Reads of this connection ask for notices, and that one hears them.
  private var isArmed = false
  /// What was said when notices were last refused, until they are armed.
  private var refusal: RedisError?
  private var nextAttempt: NIODeadline
  private var attempts = 0
  private var lastProbe: NIODeadline
  private var lastTick: NIODeadline
  private var nextTick = NIODeadline.distantFuture
  private var ticking: Scheduled<Void>?
  private var isStopped = false
  /// Whether a read for many sessions was refused on this connection, as such.
  private var isSharingRefused = false

  /// How often what hears no notices tries again.
  private static let attemptPause = TimeAmount.seconds(30)

  init(
    _ configuration: StoreConfiguration, connectors: (StoreConnection) -> any RedisConnecting, look: LookForm,
    shard: ShardState, on eventLoop: any EventLoop, random: @escaping () -> Double, admit: @escaping RedisLink.SetUp,
    observe: @escaping (StoreEvent) -> Void, tell: @escaping (SessionName, TailUpdate) -> Void,
    flush: @escaping () -> Void, provoke: @escaping () -> Void, demoted: @escaping () -> Void
  ) {
    (self.eventLoop, self.configuration, self.look, self.shard) = (eventLoop, configuration, look, shard)
    (self.observe, self.tell, self.flush, self.provoke) = (observe, tell, flush, provoke)
    self.demoted = demoted
    (nextAttempt, lastProbe, lastTick) = (eventLoop.now, eventLoop.now, eventLoop.now)
    var tuning = Tail.Configuration()
    tuning.sweepMs = configuration.sweep.nanoseconds / 1_000_000
    tuning.pollMs = configuration.pollInterval.nanoseconds / 1_000_000
    tuning.mayPoll = configuration.wakeup != .tracking
    tail = Tail(tuning, source: .poll)
    decoder = StreamDecoder(maxEntryBytes: configuration.maxEntryBytes)
    reads = RedisLink(
      connectors(.tail), on: eventLoop, keepAlive: nil, random: random,
      setUp: { [weak self] connection, done in
        admit(connection) { result in
          guard let self, case .success = result else { return done(result) }
          self.setUpReads(connection, done)
        }
      },
      report: { [weak self] in self?.readsChanged($0) })
    if configuration.wakeup != .poll {
      notices = RedisLink(
        connectors(.notices), on: eventLoop, random: random, setUp: { [weak self] in self?.setUpNotices($0, $1) },
        report: { [weak self] in self?.noticesChanged($0) })
    }
  }

  func start() {
    notices?.start()
    reads?.start()
    tick()
  }

  func stop() {
    isStopped = true
    ticking?.cancel()
    notices?.stop()
    reads?.stop()
  }

  /// Since when no read has succeeded.
  var troubleSince: NIODeadline? { tail.troubleSince.map { .uptimeNanoseconds(UInt64(max($0, 0)) * 1_000_000) } }

  /// The server is no master any more.
  func leave(because error: RedisError) {
    for link in [notices, reads] { if let connection = link?.connection { link?.leave(connection, because: error) } }
  }

  /// The server is to be found elsewhere.
  func restart(because error: RedisError) {
    notices?.restart(because: error)
    reads?.restart(because: error)
  }

  func release(_ session: SessionName) -> Tail.Carried? { tail.released(session) }
  func adopt(_ session: SessionName, _ carried: Tail.Carried) { perform(tail.adopted(session, carried)) }

  func follow(_ session: SessionName) -> [TailUpdate] {
    var standing: [TailUpdate] = []
    if let end = tail.end(of: session) { standing.append(.opened(base: end)) }
    if tail.isStalled(session) { standing.append(.stalled) }
    perform(tail.follow(session))
    return standing
  }

  func unfollow(_ session: SessionName) { tail.unfollow(session) }

  func pace(_ session: SessionName, milliseconds: Int64) {
    perform(tail.pace(session, milliseconds: milliseconds))
  }

  func touch(_ session: SessionName, ticket: UInt64) { perform(tail.touch(session, ticket: ticket)) }

  private var now: Int64 { Int64(eventLoop.now.uptimeNanoseconds / 1_000_000) }

  // MARK: what the tail decides

  private func perform(_ actions: [Tail.Action]) {
    carryOut(actions)
    flush()
    tickLater()
  }

  /// `flush` follows.
  private func carryOut(_ actions: [Tail.Action]) {
    for action in actions {
      switch action {
      case .read(let round): send(round)
      case .tell(let session, let update): tell(session, update)
      case .probeNotices(let token):
        observe(.unannounced)
        notices?.connection?.send([.ping], deadline: eventLoop.now + .seconds(10)) { [weak self] result in
          guard let self, case .success = result else { return }
          self.perform(self.tail.noticesAnswered(token))
        }
      case .sourceChanged(let source): observe(.wakeupChanged(source, source == .poll ? refusal : nil))
      }
    }
  }

  private func send(_ round: [TailRead]) {
    guard let connection = reads?.connection else { return }
    // A cluster refuses commands with keys of several slots.
    let shared = isSharingRefused || shard.isShard ? [] : round.filter(\.isShared)
    let single = shared.isEmpty ? round : round.filter { !$0.isShared }
    var commands: [RedisCommand] = []
    commands.reserveCapacity(1 + single.count)
    let form = look.now
    let keys = shared.map { key($0.session) }
    if let count = shared.first?.count {
      commands.append(.xread(count: count, zip(keys, shared).map { (key: $0, after: $1.after.redis) }))
    }
    let asking = Set(shard.asking.keys)
    for read in single {
      if asking.contains(read.session) { commands.append(.asking) }
      commands += read.commands(key: key(read.session), form)
    }
    let sent = eventLoop.now
    tail.asked(at: now)
    connection.send(commands, deadline: sent + .seconds(10)) { [weak self] result in
      guard let self, case .success(let replies) = result else { return }
      self.observe(.answered(.tail, after: self.eventLoop.now - sent))
      if let reply = replies.first, !shared.isEmpty { self.take(shared, keys, reply) }
      self.take(single, form, replies.dropFirst(shared.isEmpty ? 0 : 1), asking: asking)
      self.flush()
      self.tickLater()
    }
  }

  private func take(_ shared: [TailRead], _ keys: [String], _ reply: RESPReply) {
    let misshapen = decoder.misshapen
    var done = 0
    do throws(RedisError) {
      var outcomes: [(TailRead, TailOutcome)] = []
      outcomes.reserveCapacity(shared.count)
      try shared.outcomes(reply, keys: keys, &decoder) { outcomes.append(($0, $1)) }
      for (read, outcome) in outcomes {
        done += 1
        carryOut(tail.completed(read.session, outcome, at: now))
      }
    } catch {
      // What one of them is refused for is found when each is read by itself. A server or proxy that takes no such
      // command at all is not asked again.
      if error.shuts {
        observe(.refused(.tail, nil, error))
      } else if error.code != "WRONGTYPE", error.code != "NOPERM" {
        isSharingRefused = true
      }
      for read in shared[done...] {
        carryOut(tail.completed(read.session, error.shuts ? .shut : .apart, at: now))
      }
    }
    if decoder.misshapen > misshapen { observe(.misshapenFields(decoder.misshapen - misshapen)) }
  }

  private func take(
    _ round: [TailRead], _ form: Look, _ replies: ArraySlice<RESPReply>, asking: Set<SessionName>
  ) {
    var next = replies.startIndex
    let misshapen = decoder.misshapen
    for read in round {
      let session = read.session
      if asking.contains(session) { next += 1 }
      let slice = replies[min(next, replies.endIndex)..<min(next + read.commandCount(form), replies.endIndex)]
      next += read.commandCount(form)
      let outcome: TailOutcome
      do throws(RedisError) {
        let read = try read.outcome(slice, key: key(read.session), form, &decoder)
        if case .entries(_, _, let info?, _) = read, shard.doubts(session, exists: info.exists) {
          outcome = .failed
          shard.redirected(session, .moved)
        } else {
          outcome = read
        }
      } catch {
        if let redirection = shard.redirection(error) {
          outcome = .failed
          shard.redirected(session, redirection)
        } else {
          observe(.refused(.tail, session, error))
          outcome = read.look && look.refused(form, slice, error) ? .again : error.shuts ? .shut : .failed
        }
      }
      carryOut(tail.completed(session, outcome, at: now))
    }
    if decoder.misshapen > misshapen { observe(.misshapenFields(decoder.misshapen - misshapen)) }
  }

  private func key(_ session: SessionName) -> String { session.key(prefix: configuration.keyPrefix) }

  // MARK: the connection for reads

  private func setUpReads(_ connection: RedisConnection, _ done: @escaping (Result<Void, RedisError>) -> Void) {
    ping(connection) { [weak self] result in
      guard let self, case .success = result, let id = self.noticesID else { return done(result) }
      self.arm(connection, redirect: id) { _ in done(.success(())) }
    }
  }

  /// Whatever the answer, the connection is good for reading.
  private func arm(_ connection: RedisConnection, redirect id: Int64, done: @escaping (_ isArmed: Bool) -> Void) {
    connection.send([.trackingOn(redirect: id)], deadline: eventLoop.now + .seconds(5)) { [weak self] result in
      guard let self, case .success(let replies) = result, self.noticesID == id else { return done(false) }
      self.refusal = replies.first?.error
      self.isArmed = self.refusal == nil
      if self.refusal != nil { self.tryNoticesLater() }
      done(self.isArmed)
    }
  }

  private func readsChanged(_ event: RedisLink.Event) {
    switch event {
    case .up:
      observe(.up(.tail))
      isSharingRefused = false
      if isArmed {
        perform(tail.connected(source: .tracking, at: now))
      } else if configuration.wakeup != .tracking {
        perform(tail.connected(source: .poll, at: now))
      }
    case .down(let failure):
      observe(.disconnected(.tail, failure))
      isArmed = false
      tail.disconnected(at: now)
    }
  }

  // MARK: the connection for notices

  /// It is up whether or not notices are to be had over it: what is refused is asked for again later, and rarely.
  private func setUpNotices(_ connection: RedisConnection, _ done: @escaping (Result<Void, RedisError>) -> Void) {
    connection.onPush = { [weak self] message in
      guard let self else { return }
      if let invalidation = RedisInvalidation(message) { return self.noticed(invalidation) }
      guard let webhooks = self.configuration.webhooks, let told = RedisMessage(message),
        told.channel == WebhookSlot.channel(prefix: self.configuration.keyPrefix)
      else { return }
      webhooks.came(to: told.text)
    }
    subscribe(connection) { [weak self] result in
      if case .success = result { self?.subscribeToWebhooks(connection) }
      done(result)
    }
  }

  /// Where that is refused they are found by looking.
  private func subscribeToWebhooks(_ connection: RedisConnection) {
    guard let webhooks = configuration.webhooks else { return }
    let subscription = RedisCommand.subscribe(WebhookSlot.channel(prefix: configuration.keyPrefix))
    connection.send([subscription], deadline: eventLoop.now + .seconds(5)) { [weak self] result in
      guard case .success(let replies) = result else { return }
      guard let error = replies.first?.error else { return webhooks.begin() }
      self?.observe(.refused(.notices, nil, error))
    }
  }

  private func subscribe(_ connection: RedisConnection, done: @escaping (Result<Void, RedisError>) -> Void) {
    connection.send([.clientID, .subscribeInvalidate], deadline: eventLoop.now + .seconds(5)) { [weak self] result in
      guard let self else { return }
      switch result {
      case .failure(let error): done(.failure(error))
      case .success(let replies):
        if let error = replies.lazy.compactMap(\.error).first {
          self.refusal = error
          self.tryNoticesLater()
          if self.tail.source != .poll || self.attempts == 1 { self.observe(.wakeupChanged(.poll, error)) }
        } else {
          self.noticesID = try? replies.first?.decodedInteger("CLIENT ID")
        }
        done(.success(()))
      }
    }
  }

  private func noticesChanged(_ event: RedisLink.Event) {
    switch event {
    case .up: armReads()
    case .down(let failure):
      observe(.disconnected(.notices, failure))
      noticesID = nil
      guard isArmed else { return }
      isArmed = false
      if configuration.wakeup == .tracking {
        tail.disconnected(at: now)
      } else {
        perform(tail.armed(false, at: now))
      }
    }
  }

  private func armReads() {
    guard let id = noticesID, let connection = reads?.connection else { return }
    arm(connection, redirect: id) { [weak self, weak connection] isArmed in
      guard let self, isArmed, connection === self.reads?.connection else { return }
      if self.configuration.wakeup == .tracking {
        self.perform(self.tail.connected(source: .tracking, at: self.now))
      } else {
        self.perform(self.tail.armed(true, at: self.now))
      }
    }
  }

  private func tryNoticesLater() {
    attempts += 1
    nextAttempt = eventLoop.now + TailReader.attemptPause * Int(min(attempts, 20))
  }

  /// What was refused may be allowed by now.
  private func tryNoticesAgain() {
    guard refusal != nil, eventLoop.now >= nextAttempt, let connection = notices?.connection else { return }
    nextAttempt = eventLoop.now + TailReader.attemptPause
    if noticesID != nil { return armReads() }
    subscribe(connection) { [weak self] _ in self?.armReads() }
  }

  private func noticed(_ invalidation: RedisInvalidation) {
    switch invalidation {
    case .everything: tail.noticedAll()
    case .keys(let keys):
      tail.noticesCame(at: now)
      for key in keys {
        if let session = SessionName(key: key, prefix: configuration.keyPrefix) { tail.noticed(session) }
      }
    }
    perform(tail.reads())
  }

  // MARK: time

  private func tick() {
    if isStopped { return }
    (lastTick, nextTick) = (eventLoop.now, .distantFuture)
    perform(tail.tick(now: now))
    if eventLoop.now - lastProbe >= .seconds(1) {
      lastProbe = eventLoop.now
      probe()
      tryNoticesAgain()
    }
    tickLater()
  }

  /// At the tail's next turn: not more than 50 times a second, and not less than four times.
  private func tickLater() {
    let latest = lastTick + .milliseconds(250)
    let turn = tail.nextTurn.map { NIODeadline.uptimeNanoseconds(UInt64(max($0, 0)) * 1_000_000) } ?? latest
    let due = max(min(turn, latest), lastTick + .milliseconds(20))
    guard due < nextTick, !isStopped else { return }
    nextTick = due
    ticking?.cancel()
    ticking = eventLoop.assumeIsolated().scheduleTask(deadline: due) { [weak self] in self?.tick() }
  }

  /// A read, also where nobody is attached: nothing else tells that reads succeed.
  private func probe() {
    guard let connection = reads?.connection else { return }
    tail.asked(at: now)
    let probe = RedisCommand.probe(shard.probeKey(prefix: configuration.keyPrefix))
    connection.send([probe, .role], deadline: eventLoop.now + .seconds(10)) { [weak self] result in
      guard let self, case .success(let replies) = result, let reply = replies.first else { return }
      if case .replica = try? replies.last.map(RedisRole.init) { self.demoted() }
      // What is elsewhere is answered as well.
      if let error = reply.error, self.shard.redirection(error) == nil { return }
      self.perform(self.tail.succeeded(at: self.now))
      if self.tail.source == .unproven { self.provoke() }
    }
  }
}
