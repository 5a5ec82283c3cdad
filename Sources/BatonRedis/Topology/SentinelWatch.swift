import NIOCore

/// Finds the master by its Sentinels: drives ``SentinelVote``. Each Sentinel has two connections, one that hears of
/// switches and one for questions. Everything is called, and calls back, on one event loop.
package final class SentinelWatch: @unchecked Sendable {
  package enum Event: Sendable {
    /// The master is there from now on.
    case follows(RedisURL.Address)
    /// A Sentinel does not answer, or does not know the master.
    case silent(RedisURL.Address, RedisError)
  }

  private struct Sentinel {
    let address: RedisURL.Address
    var hearing: RedisLink?
    var asking: RedisLink?
    var trouble: RedisError? = .connectFailed("not asked yet")
  }

  private let eventLoop: any EventLoop
  private let connector: RedisConnector
  private let name: String
  private let random: () -> Double
  private let observe: (Event) -> Void
  private var sentinels: [Sentinel] = []
  private var vote: SentinelVote
  private var isStopped = false
  /// Completed once there is a master, or the first question has had its time.
  private var beginning: EventLoopPromise<Void>?
  /// Called when the master is another one.
  package var moved: (() -> Void)?

  /// How often each Sentinel is asked.
  static let interval = TimeAmount.milliseconds(500)
  static let patience = TimeAmount.seconds(2)

  /// - Parameters:
  ///   - connector: of a URL with the topology `sentinel`.
  ///   - random: 0 to 1, for pauses between attempts.
  package init(
    _ connector: RedisConnector, master name: String, on eventLoop: any EventLoop,
    random: @escaping () -> Double = { .random(in: 0...1) }, observe: @escaping (Event) -> Void = { _ in }
  ) {
    (self.connector, self.name, self.eventLoop) = (connector, name, eventLoop)
    (self.random, self.observe) = (random, observe)
    vote = SentinelVote(sentinels: max(connector.url.seeds.count, 1))
    for (number, address) in connector.url.seeds.enumerated() {
      let one = connector.to(connector.url.sentinel(at: address))
      var sentinel = Sentinel(address: address)
      sentinel.hearing = RedisLink(
        one, on: eventLoop, random: random, setUp: { [weak self] in self?.hear($0, number, $1) }, report: { _ in })
      sentinel.asking = RedisLink(one, on: eventLoop, keepAlive: nil, random: random) { [weak self] event in
        switch event {
        case .up: self?.ask(number)
        case .down(let failure): self?.isSilent(number, failure.error)
        }
      }
      sentinels.append(sentinel)
    }
  }

  package func start() {
    let beginning = eventLoop.makePromise(of: Void.self)
    self.beginning = beginning
    eventLoop.scheduleTask(in: Self.patience) { beginning.succeed() }
    for sentinel in sentinels {
      sentinel.hearing?.start()
      sentinel.asking?.start()
    }
    tick()
  }

  package func stop() {
    isStopped = true
    beginning?.succeed()
    for sentinel in sentinels {
      sentinel.hearing?.stop()
      sentinel.asking?.stop()
    }
  }

  /// Completes when it makes sense to ask for the master.
  fileprivate func begun() -> EventLoopFuture<Void> { beginning?.futureResult ?? eventLoop.makeSucceededVoidFuture() }

  /// Where the master is.
  package var master: RedisURL? { vote.master.map { connector.url.server(at: $0) } }

  /// Why there is none.
  package var trouble: RedisError {
    let words = sentinels.map {
      "\($0.address) \($0.trouble.map { "(\($0))" } ?? "names one that does not answer as a master")"
    }
    return .connectFailed("no Sentinel leads to a master '\(name)': \(words.joined(separator: ", "))")
  }

  /// A connection to the master was opened, and it answered as one.
  package func answered(_ identity: ServerIdentity) { vote.answered(identity) }

  /// The master does not answer, or not as a master.
  package func lost() { perform(vote.lost(at: eventLoop.now)) }

  private func hear(
    _ connection: RedisConnection, _ number: Int, _ done: @escaping (Result<Void, RedisError>) -> Void
  ) {
    connection.onPush = { [weak self] in self?.announced($0, by: number) }
    connection.send([RedisCommand("SUBSCRIBE", "+switch-master")], deadline: eventLoop.now + Self.patience) { result in
      done(result.flatMap { $0.first?.error.map { .failure($0) } ?? .success(()) })
    }
  }

  /// `<master name> <old ip> <old port> <new ip> <new port>`
  private func announced(_ message: RESPReply, by number: Int) {
    guard let parts = message.elements.map(Array.init), parts.count == 3, parts[1].text == "+switch-master",
      let words = parts[2].text?.split(separator: " "), words.count == 5, words[0] == name, let port = Int(words[4])
    else { return }
    said(number, .tcp(host: String(words[3]), port: port))
  }

  private func ask(_ number: Int) {
    guard let connection = sentinels[number].asking?.connection else { return }
    let question = RedisCommand("SENTINEL", "GET-MASTER-ADDR-BY-NAME", .string(name))
    connection.send([question], deadline: eventLoop.now + Self.patience) { [weak self] result in
      guard let self, case .success(let replies) = result, let reply = replies.first else { return }
      if let error = reply.error { return self.isSilent(number, error) }
      guard let parts = reply.elements.map(Array.init), parts.count == 2, let host = parts[0].text,
        let port = parts[1].integer, (1...65535).contains(port)
      else {
        return self.isSilent(number, .connectFailed("it does not know a master of this name"))
      }
      self.said(number, .tcp(host: host, port: Int(port)))
    }
  }

  private func said(_ number: Int, _ address: RedisURL.Address) {
    sentinels[number].trouble = nil
    perform(vote.said(number, address, at: eventLoop.now))
  }

  private func isSilent(_ number: Int, _ error: RedisError) {
    if sentinels[number].trouble != error { observe(.silent(sentinels[number].address, error)) }
    sentinels[number].trouble = error
    perform(vote.fellSilent(number, at: eventLoop.now))
  }

  private func perform(_ actions: [SentinelVote.Action]) {
    for action in actions {
      switch action {
      case .examine(let address): examine(address)
      case .follow(let address):
        observe(.follows(address))
        beginning?.succeed()
        eventLoop.assumeIsolated().execute { self.moved?() }
      }
    }
  }

  private func examine(_ address: RedisURL.Address) {
    // The first word counts: it may be that no time is left.
    let answer = eventLoop.makePromise(of: ServerIdentity?.self)
    eventLoop.scheduleTask(in: Self.patience) { answer.succeed(ServerIdentity?.none) }
    answer.futureResult.assumeIsolated().whenSuccess { identity in
      self.perform(self.vote.examined(address, identity, at: self.eventLoop.now))
    }
    connector.to(connector.url.server(at: address)).connect(on: eventLoop).assumeIsolated().whenComplete { result in
      guard case .success(let connection) = result else { return answer.succeed(ServerIdentity?.none) }
      connection.send(ServerIdentity.questions, deadline: self.eventLoop.now + Self.patience) { result in
        answer.succeed(try? ServerIdentity(result.get()))
        connection.close()
      }
    }
  }

  private func tick() {
    if isStopped { return }
    for number in sentinels.indices { ask(number) }
    perform(vote.timePassed(now: eventLoop.now))
    eventLoop.assumeIsolated().scheduleTask(in: Self.interval) { [weak self] in self?.tick() }
  }
}

/// Connects to the master that the Sentinels name, on the watch's event loop.
package struct SentinelConnector: RedisConnecting {
  private let connector: RedisConnector
  private let watch: SentinelWatch

  package init(_ connector: RedisConnector, _ watch: SentinelWatch) {
    (self.connector, self.watch) = (connector, watch)
  }

  package func connect(on eventLoop: any EventLoop) -> EventLoopFuture<RedisConnection> {
    watch.begun().assumeIsolated().flatMap {
      guard let master = watch.master else { return eventLoop.makeFailedFuture(watch.trouble) }
      return connector.to(master).connect(on: eventLoop)
    }.nonisolated()
  }
}
