import BatonProtocol
import BatonRedis
import BatonSession
import NIOCore

/// Reads pages of history on a connection of its own: drives ``PageReads``.
final class HistoryReader {
  private let budget: HistoryBudget
  private let eventLoop: any EventLoop
  private let configuration: StoreConfiguration
  private let look: LookForm
  private let shard: ShardState
  private let observe: (StoreEvent) -> Void
  private var link: RedisLink?
  private var pages: PageReads
  private var answers: [UInt64: @Sendable (PageOutcome) -> Void] = [:]
  private var isTicking = false
  private var shortSince: NIODeadline?
  private var isShort = false {
    didSet { if isShort != oldValue { budget.readerWaits(isShort) } }
  }
  /// Since when no page could be read: the connection is gone, or all of them are refused.
  private(set) var troubleSince: NIODeadline?
  private(set) var trouble = RedisError.notYetConnected

  init(
    _ configuration: StoreConfiguration, budget: HistoryBudget, connector: any RedisConnecting, look: LookForm,
    shard: ShardState, on eventLoop: any EventLoop, random: @escaping () -> Double, admit: @escaping RedisLink.SetUp,
    observe: @escaping (StoreEvent) -> Void
  ) {
    (self.eventLoop, self.configuration, self.look, self.observe) = (eventLoop, configuration, look, observe)
    (self.budget, self.shard) = (budget, shard)
    pages = PageReads()
    troubleSince = eventLoop.now
    link = RedisLink(
      connector, on: eventLoop, random: random,
      setUp: { [weak self] connection, done in
        admit(connection) { result in
          guard let self, case .success = result else { return done(result) }
          self.tryLook(connection, done)
        }
      },
      report: { [weak self] event in
        guard let self else { return }
        switch event {
        case .up:
          self.pages.connected(at: self.now)
          observe(.up(.history))
        case .down(let failure):
          observe(.disconnected(.history, failure))
          self.failed(failure.error)
          self.pages.disconnected(at: self.now)
        }
        self.pump()
      })
  }

  func start() { link?.start() }
  func stop() {
    isShort = false
    link?.stop()
  }

  func leave(because error: RedisError) {
    if let connection = link?.connection { link?.leave(connection, because: error) }
  }

  /// The server is to be found elsewhere.
  func restart(because error: RedisError) { link?.restart(because: error) }

  /// A question that another reader is to answer.
  struct Asked {
    let request: PageRequest
    let id: UInt64
    let waits: Bool
    let answer: @Sendable (PageOutcome) -> Void
  }

  func release(_ session: SessionName) -> [Asked] {
    pages.released(session).compactMap { request, id, waits in
      answers.removeValue(forKey: id).map { Asked(request: request, id: id, waits: waits, answer: $0) }
    }
  }

  private var now: Int64 { Int64(eventLoop.now.uptimeNanoseconds / 1_000_000) }

  /// - Parameters:
  ///   - id: for ``abandon(_:session:)``.
  ///   - waits: until the store is back, instead of `unavailable`.
  func read(_ request: PageRequest, id: UInt64, waits: Bool, answer: @escaping @Sendable (PageOutcome) -> Void) {
    answers[id] = answer
    perform(pages.asked(request, by: id, waits: waits, at: now))
    pump()
  }

  func abandon(_ id: UInt64, session: SessionName) {
    guard answers.removeValue(forKey: id) != nil else { return }
    pages.abandoned(id, session: session)
  }

  private func pump() {
    var isFull = false
    perform(
      pages.next(at: now) { bytes in
        isFull = !budget.fits(bytes)
        return !isFull
      })
    shortSince = isFull ? shortSince ?? eventLoop.now : nil
    isShort = shortSince.map { eventLoop.now - $0 >= .seconds(1) } ?? false
    guard !pages.isIdle, !isTicking else { return }
    isTicking = true
    eventLoop.assumeIsolated().scheduleTask(in: .milliseconds(20)) { [weak self] in
      self?.isTicking = false
      self?.pump()
    }
  }

  private func perform(_ actions: [PageReads.Action]) {
    for action in actions {
      switch action {
      case .send(let request): send(request)
      case .answer(let ids, let outcome): for id in ids { answers.removeValue(forKey: id)?(outcome) }
      }
    }
  }

  private func send(_ request: PageRequest) {
    guard let connection = link?.connection else { return }
    let (sent, form) = (eventLoop.now, look.now)
    let commands = request.commands(key: request.session.key(prefix: configuration.keyPrefix), form)
    let isAsking = shard.asking[request.session] != nil
    connection.send((isAsking ? [.asking] : []) + commands, deadline: sent + .seconds(10)) { [weak self] result in
      // What was lost with its connection is asked for again once there is another one.
      guard let self, case .success(let replies) = result else { return }
      self.observe(.answered(.history, after: self.eventLoop.now - sent))
      self.take(request, form, Array(replies.dropFirst(isAsking ? 1 : 0)))
      self.pump()
    }
  }

  private func take(_ request: PageRequest, _ form: Look, _ replies: [RESPReply]) {
    var decoder = StreamDecoder(maxEntryBytes: configuration.maxEntryBytes)
    do throws(RedisError) {
      let reply = try request.reply(replies, form, budget, &decoder)
      troubleSince = nil
      if case .outcome(.page(let page), _, _) = reply, shard.doubts(request.session, exists: page.info?.exists) {
        pages.redirected(request)
        return shard.redirected(request.session, .moved)
      }
      switch reply {
      case .outcome(let outcome, let entries, let bytes):
        perform(pages.arrived(request, outcome, entries: entries, bytes: bytes))
      case .cut: pages.cut(request)
      case .moved: pages.moved(request)
      }
    } catch {
      if let redirection = shard.redirection(error) {
        pages.redirected(request)
        return shard.redirected(request.session, redirection)
      }
      observe(.refused(.history, request.session, error))
      if request.look, look.refused(form, replies[...], error) {
        pages.moved(request)
      } else if error.shuts {
        failed(error)
        pages.shut(request)
      } else {
        perform(pages.refused(request, error.description))
      }
    }
  }

  private func failed(_ error: RedisError) {
    troubleSince = troubleSince ?? eventLoop.now
    trouble = error
  }

  // MARK: set-up

  /// A look at a key that is never there: what it takes to let devices in.
  private func tryLook(_ connection: RedisConnection, _ done: @escaping (Result<Void, RedisError>) -> Void) {
    let form = look.now
    let key = shard.probeKey(prefix: configuration.keyPrefix)
    let commands = form.commands(key: key, "XRANGE", [.string(key), "-", "+", "COUNT", 1])
    connection.send(commands, deadline: eventLoop.now + .seconds(5)) { [weak self] result in
      guard let self else { return }
      switch result {
      case .failure(let error): done(.failure(error))
      case .success(let replies):
        do throws(RedisError) {
          if let (_, read) = try form.results(replies[...]) { try read.accepted() }
          self.troubleSince = nil
          done(.success(()))
        } catch {
          if error.shuts { return done(.failure(error)) }
          if self.shard.redirection(error) != nil {
            self.troubleSince = nil
            return done(.success(()))
          }
          if self.look.refused(form, replies[...], error) { return self.tryLook(connection, done) }
          // The connection is good; no device can be let in over it for now.
          self.observe(.refused(.history, nil, error))
          self.failed(error)
          done(.success(()))
        }
      }
    }
  }
}

/// Succeeds on a server that would answer something.
func ping(_ connection: RedisConnection, _ done: @escaping (Result<Void, RedisError>) -> Void) {
  connection.send([.ping], deadline: connection.eventLoop.now + .seconds(5)) { result in
    done(
      result.flatMap { replies in
        if let error = replies.first?.error, error.shuts { return .failure(error) }
        return .success(())
      })
  }
}
