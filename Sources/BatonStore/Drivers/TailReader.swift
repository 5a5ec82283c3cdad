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
  private let observe: (StoreEvent) -> Void
  /// Takes what there is to tell, in order; `flush` follows.
  private let tell: (SessionName, TailUpdate) -> Void
  private let flush: () -> Void

  private var tail: Tail
  private var decoder: StreamDecoder
  private var notices: RedisLink?
  private var reads: RedisLink?
  private var noticesID: Int64?
  private var source: Tail.Source
  private var unansweredSince: Int64?
  private var lastPing: Int64 = 0
  private var isStopped = false

  init(
    _ configuration: StoreConfiguration, notices: RedisConnector, reads: RedisConnector, look: LookForm,
    on eventLoop: any EventLoop, observe: @escaping (StoreEvent) -> Void,
    tell: @escaping (SessionName, TailUpdate) -> Void, flush: @escaping () -> Void
  ) {
    (self.eventLoop, self.configuration, self.look) = (eventLoop, configuration, look)
    (self.observe, self.tell, self.flush) = (observe, tell, flush)
    var tuning = Tail.Configuration()
    tuning.sweepMs = configuration.sweep.nanoseconds / 1_000_000
    tuning.pollMs = configuration.pollInterval.nanoseconds / 1_000_000
    source = configuration.wakeup == .poll ? .poll : .tracking
    tail = Tail(tuning, source: source)
    decoder = StreamDecoder(maxEntryBytes: configuration.maxEntryBytes)
    self.notices = RedisLink(
      notices, on: eventLoop, keepAlive: nil, setUp: { [weak self] in self?.setUpNotices($0, $1) },
      report: { [weak self] in self?.noticesChanged($0) })
    self.reads = RedisLink(
      reads, on: eventLoop, keepAlive: nil, setUp: { [weak self] in self?.setUpReads($0, $1) },
      report: { [weak self] in self?.readsChanged($0) })
  }

  func start() {
    if source == .tracking { notices?.start() } else { reads?.start() }
    tick()
  }

  func stop() {
    isStopped = true
    notices?.stop()
    reads?.stop()
  }

  var isUp: Bool { reads?.connection != nil }

  func follow(_ session: SessionName) -> Place? {
    let end = tail.end(of: session)
    perform(tail.follow(session))
    return end
  }

  func unfollow(_ session: SessionName) { tail.unfollow(session) }

  func touch(_ session: SessionName, ticket: UInt64) { perform(tail.touch(session, ticket: ticket)) }

  private var now: Int64 { Int64(eventLoop.now.uptimeNanoseconds / 1_000_000) }

  // MARK: what the tail decides

  private func perform(_ actions: [Tail.Action]) {
    for action in actions {
      switch action {
      case .read(let round): send(round)
      case .tell(let session, let update): tell(session, update)
      case .probeNotices(let token):
        notices?.connection?.send([.ping], deadline: eventLoop.now + .seconds(10)) { [weak self] result in
          guard let self, case .success = result else { return }
          self.observe(.sweepFound)
          self.perform(self.tail.noticesAnswered(token))
        }
      case .sourceChanged:
        if configuration.wakeup == .auto {
          source = .poll
          observe(.wakeupChanged(.poll, nil))
        } else {
          observe(.wakeupChanged(.tracking, nil))
          reads?.connection?.close()
        }
      }
    }
    flush()
  }

  private func send(_ round: [TailRead]) {
    guard let connection = reads?.connection else { return }
    var commands: [RedisCommand] = []
    commands.reserveCapacity(round.count)
    let form = look.now
    for read in round { commands += read.commands(key: key(read.session), form) }
    let sent = eventLoop.now
    unansweredSince = unansweredSince ?? now
    connection.send(commands, deadline: sent + .seconds(10)) { [weak self] result in
      guard let self else { return }
      guard case .success(let replies) = result else { return }
      self.unansweredSince = nil
      self.observe(.answered(.tail, after: self.eventLoop.now - sent))
      self.take(round, form, replies, connection)
    }
  }

  private func take(_ round: [TailRead], _ form: Look, _ replies: [RESPReply], _ connection: RedisConnection) {
    var next = 0
    let misshapen = decoder.misshapen
    for read in round {
      let slice = replies[min(next, replies.count)..<min(next + read.commandCount(form), replies.count)]
      next += read.commandCount(form)
      do throws(RedisError) {
        let outcome = try read.outcome(slice, key: key(read.session), form, &decoder)
        perform(tail.completed(read.session, outcome))
      } catch {
        observe(.refused(.tail, read.session, error))
        if look.refused(form, error) {
          perform(tail.completed(read.session, .again))
          continue
        }
        if error.kind == .retry {
          connection.close()
          return
        }
        perform(tail.completed(read.session, .failed))
      }
    }
    if decoder.misshapen > misshapen { observe(.misshapenFields(decoder.misshapen - misshapen)) }
    perform(tail.answered())
  }

  private func key(_ session: SessionName) -> String { session.key(prefix: configuration.keyPrefix) }

  // MARK: connections

  private func setUpNotices(_ connection: RedisConnection, _ done: @escaping (Result<Void, RedisError>) -> Void) {
    connection.onPush = { [weak self] message in
      guard let self, let invalidation = RedisInvalidation(message) else { return }
      self.noticed(invalidation)
    }
    connection.send([.clientID, .subscribeInvalidate], deadline: eventLoop.now + .seconds(5)) { [weak self] result in
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
    case .down(let failure):
      let error = failure.error
      noticesID = nil
      observe(.disconnected(.notices, error))
      if error.kind == .configuration, configuration.wakeup == .auto, reads?.connection == nil { reads?.start() }
      reads?.connection?.close()
    }
  }

  private func noticed(_ invalidation: RedisInvalidation) {
    switch invalidation {
    case .everything: tail.noticedAll()
    case .keys(let keys):
      for key in keys {
        if let session = SessionName(key: key, prefix: configuration.keyPrefix) { tail.noticed(session) }
      }
    }
    perform(tail.reads())
  }

  private func setUpReads(_ connection: RedisConnection, _ done: @escaping (Result<Void, RedisError>) -> Void) {
    connection.send(.ping, deadline: eventLoop.now + .seconds(5)) { [weak self] result in
      guard let self else { return }
      if case .failure(let error) = result { return done(.failure(error)) }
      guard self.configuration.wakeup != .poll, let id = self.noticesID else {
        self.source = .poll
        return done(self.configuration.wakeup == .tracking ? .failure(.connectionLost) : .success(()))
      }
      connection.send(.trackingOn(redirect: id), deadline: self.eventLoop.now + .seconds(5)) { result in
        switch result {
        case .success:
          self.source = .tracking
          done(.success(()))
        case .failure(let error):
          guard self.configuration.wakeup == .auto, error.reason == .server, error.kind != .retry else {
            return done(.failure(error))
          }
          self.observe(.wakeupChanged(.poll, error))
          self.source = .poll
          done(.success(()))
        }
      }
    }
  }

  private func readsChanged(_ event: RedisLink.Event) {
    switch event {
    case .up:
      unansweredSince = nil
      observe(.connected(wakeup: source == .tracking ? .tracking : .poll))
      perform(tail.connected(source: source))
    case .down(let failure):
      let error = failure.error
      observe(.disconnected(.tail, error))
      observe(.lost(at: eventLoop.now))
      unansweredSince = nil
      tail.disconnected(at: now)
    }
  }

  private func tick() {
    if isStopped { return }
    let now = now
    if let since = unansweredSince { perform(tail.hanging(since: since, now: now)) }
    perform(tail.tick(now: now))
    if now - lastPing >= 1000, let connection = reads?.connection {
      lastPing = now
      unansweredSince = unansweredSince ?? now
      connection.send([.ping], deadline: eventLoop.now + .seconds(10)) { [weak self] result in
        guard let self, case .success = result else { return }
        self.unansweredSince = nil
        self.perform(self.tail.answered())
      }
      notices?.connection?.send([.ping], deadline: eventLoop.now + .seconds(10)) { _ in }
    }
    eventLoop.assumeIsolated().scheduleTask(in: tail.source == .poll ? .milliseconds(20) : .milliseconds(250)) {
      [weak self] in self?.tick()
    }
  }
}
