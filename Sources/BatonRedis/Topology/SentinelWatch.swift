import NIOCore

/// Finds the master by its Sentinels: drives ``SentinelVote``. Each listed one has a vote; while it is silent, others that it
/// knew speak for it. Everything is called, and calls back, on one event loop.
package final class SentinelWatch: @unchecked Sendable {
  package enum Event: Sendable {
    /// The master is there from now on.
    case follows(RedisURL.Address)
    /// A listed Sentinel does not answer, or does not know the master.
    case silent(RedisURL.Address, RedisError)
  }

  private struct Seat {
    let listed: SentinelPeer
    /// Nil while the listed one names a master.
    var trouble: RedisError? = .connectFailed("not asked yet")
    var deputies = SentinelDeputies()
    var isSilent = false
  }

  private let eventLoop: any EventLoop
  private let connector: RedisConnector
  private let name: String
  private let random: () -> Double
  private let observe: (Event) -> Void
  private var seats: [Seat] = []
  /// Those who speak for a listed one now; connections are made to no others.
  private var deputies: [RedisURL.Address: SentinelPeer] = [:]
  private var named: [RedisURL.Address: RedisURL.Address] = [:]
  private var vote: SentinelVote
  private var isStopped = false
  /// Completed once there is a master, or the first question has had its time.
  private var beginning: EventLoopPromise<Void>?
  /// Called when the master is another one.
  package var moved: (() -> Void)?

  /// How often each Sentinel is asked.
  static let interval = TimeAmount.milliseconds(500)

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
      seats.append(Seat(listed: peer(at: address) { [weak self] in self?.said(number, $0) }))
    }
  }

  private func peer(at address: RedisURL.Address, told: @escaping (SentinelPeer.Word) -> Void) -> SentinelPeer {
    SentinelPeer(connector, at: address, master: name, on: eventLoop, random: random, told: told)
  }

  package func start() {
    let beginning = eventLoop.makePromise(of: Void.self)
    self.beginning = beginning
    eventLoop.scheduleTask(in: SentinelPeer.patience) { beginning.succeed() }
    for seat in seats { seat.listed.start() }
    tick()
  }

  package func stop() {
    isStopped = true
    beginning?.succeed()
    for peer in seats.map(\.listed) + Array(deputies.values) { peer.stop() }
    deputies.removeAll()
  }

  /// Completes when it makes sense to ask for the master.
  fileprivate func begun() -> EventLoopFuture<Void> { beginning?.futureResult ?? eventLoop.makeSucceededVoidFuture() }

  /// Where the master is.
  package var master: RedisURL? { vote.master.map { connector.url.server(at: $0) } }

  /// Why there is none.
  package var trouble: RedisError {
    let words = seats.map {
      "\($0.listed.address) \($0.trouble.map { "(\($0))" } ?? "names one that does not answer as a master")"
    }
    return .connectFailed("no Sentinel leads to a master '\(name)': \(words.joined(separator: ", "))")
  }

  /// A connection to the master was opened, and it answered as one.
  package func answered(_ identity: ServerIdentity) { vote.answered(identity) }

  /// The master does not answer, or not as a master.
  package func lost() { perform(vote.lost(at: eventLoop.now)) }

  /// What a listed one says.
  private func said(_ number: Int, _ word: SentinelPeer.Word) {
    if isStopped { return }
    switch word {
    case .names(let address):
      (seats[number].trouble, seats[number].isSilent) = (nil, false)
      perform(vote.said(number, address, at: eventLoop.now))
    case .silent(let error):
      if seats[number].trouble != error { observe(.silent(seats[number].listed.address, error)) }
      (seats[number].trouble, seats[number].isSilent) = (error, true)
      speak(for: number)
    case .knows(let others): seats[number].deputies.appointed(unlisted(others))
    }
    callDeputies()
  }

  /// Listed ones speak for themselves alone.
  private func unlisted(_ others: [SentinelPeer.Other]) -> some Sequence<RedisURL.Address> {
    let listed = seats.map(\.listed)
    return others.lazy.filter { other in
      !listed.contains { $0.address == other.address || $0.id != nil && $0.id == other.id }
    }.map(\.address)
  }

  private func deputySaid(_ address: RedisURL.Address, _ word: SentinelPeer.Word) {
    guard deputies[address] != nil else { return }
    let principals = seats.indices.filter {
      seats[$0].isSilent && seats[$0].deputies.addresses.contains(address)
    }
    switch word {
    case .names(let master): named[address] = master
    case .silent: named[address] = nil
    case .knows(let others):
      for number in principals { seats[number].deputies.joined(unlisted(others)) }
      return callDeputies()
    }
    for number in principals { speak(for: number) }
  }

  private func speak(for number: Int) {
    if let master = seats[number].deputies.choice(named) {
      perform(vote.said(number, master, at: eventLoop.now))
    } else {
      perform(vote.fellSilent(number, at: eventLoop.now))
    }
  }

  /// Connects to those who are to speak, and leaves those who are not any more.
  private func callDeputies() {
    let needed = Set(seats.lazy.filter(\.isSilent).flatMap(\.deputies.addresses))
    for address in deputies.keys where !needed.contains(address) {
      deputies.removeValue(forKey: address)?.stop()
      named[address] = nil
    }
    for address in needed where deputies[address] == nil {
      let deputy = peer(at: address) { [weak self] in self?.deputySaid(address, $0) }
      deputies[address] = deputy
      deputy.start()
    }
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
    eventLoop.scheduleTask(in: SentinelPeer.patience) { answer.succeed(ServerIdentity?.none) }
    answer.futureResult.assumeIsolated().whenSuccess { identity in
      self.perform(self.vote.examined(address, identity, at: self.eventLoop.now))
    }
    connector.to(connector.url.server(at: address)).connect(on: eventLoop).assumeIsolated().whenComplete { result in
      guard case .success(let connection) = result else { return answer.succeed(ServerIdentity?.none) }
      connection.send(ServerIdentity.questions, deadline: self.eventLoop.now + SentinelPeer.patience) { result in
        answer.succeed(try? ServerIdentity(result.get()))
        connection.close()
      }
    }
  }

  private func tick() {
    if isStopped { return }
    for peer in seats.map(\.listed) + Array(deputies.values) { peer.ask() }
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
