import NIOCore

/// Keeps the map of a cluster's slots: asks nodes what they believe, over connections that are open anyway. Everything is
/// called, and calls back, on one event loop.
package final class ClusterWatch {
  package enum Event: Sendable {
    /// The masters that have slots.
    case masters([RedisURL.Address])
    /// No node tells who has which slots.
    case silent(RedisError)
  }

  private let eventLoop: any EventLoop
  private let connector: any ClusterConnecting
  private let connections: () -> [RedisConnection]
  private let observe: (Event) -> Void
  private let changed: () -> Void
  private let leaving: (String, Set<Int>) -> Void
  package private(set) var map = ClusterMap()
  /// Why there is no map.
  package private(set) var trouble = RedisError.connectFailed("no node of the cluster was asked yet")
  private var lastAsked: NIODeadline?
  private var isHurried = false
  private var isDialling = false
  private var nextDial = 0
  private var nextAsked = 0
  private var isStopped = false

  /// How often a few nodes are asked.
  static let interval = TimeAmount.milliseconds(500)
  static let patience = TimeAmount.seconds(2)
  /// Nodes that are asked at a time.
  static let atATime = 3

  /// - Parameters:
  ///   - connector: where it is a ``RedisConnector``, of a URL with the topology `cluster`.
  ///   - connections: those that are open to masters; where there are none, nodes that are known are called.
  ///   - changed: a slot has another owner, or an owner another address.
  ///   - leaving: these slots of a master are on their way to others; told again and again.
  package init(
    _ connector: any ClusterConnecting, on eventLoop: any EventLoop, connections: @escaping () -> [RedisConnection],
    observe: @escaping (Event) -> Void = { _ in }, changed: @escaping () -> Void,
    leaving: @escaping (_ master: String, Set<Int>) -> Void = { _, _ in }
  ) {
    (self.connector, self.eventLoop, self.connections) = (connector, eventLoop, connections)
    (self.observe, self.changed, self.leaving) = (observe, changed, leaving)
  }

  package func start() { tick() }

  package func stop() { isStopped = true }

  /// Something does not fit the map: nodes are asked at once, though not more often than every 100 ms.
  package func refresh() {
    guard !isHurried, !isStopped else { return }
    isHurried = true
    let due = max(eventLoop.now, (lastAsked ?? eventLoop.now - .seconds(1)) + .milliseconds(100))
    eventLoop.assumeIsolated().scheduleTask(deadline: due) { [weak self] in
      self?.isHurried = false
      self?.ask()
    }
  }

  /// The node at the other end says that a slot is not its own: it knows whose.
  package func ask(over connection: RedisConnection, done: @escaping () -> Void = {}) {
    let asked = connection.address
    connection.send([RedisCommand("CLUSTER", "NODES")], deadline: eventLoop.now + .seconds(5)) { [weak self] result in
      defer { done() }
      guard let self, !self.isStopped else { return }
      do throws(RedisError) {
        guard let reply = try result.get().first else { throw .unexpectedReply("CLUSTER NODES") }
        let view = try ClusterView(reply, asked: asked, usesTLS: self.connector.usesTLS)
        self.learn(view)
        if let master = view.teller, !view.leaving.isEmpty { self.leaving(master, view.leaving) }
      } catch {
        self.failed(error)
      }
    }
  }

  private func learn(_ view: ClusterView) {
    let before = map.masters
    guard map.learned(view) else { return }
    if map.masters != before { observe(.masters(map.masters.compactMap(map.address).sorted { "\($0)" < "\($1)" })) }
    changed()
  }

  private func failed(_ error: RedisError) {
    if error != trouble { observe(.silent(error)) }
    trouble = error
  }

  private func tick() {
    if isStopped { return }
    ask()
    eventLoop.assumeIsolated().scheduleTask(in: Self.interval) { [weak self] in self?.tick() }
  }

  private func ask() {
    if isStopped { return }
    lastAsked = eventLoop.now
    let open = connections()
    for turn in 0..<min(Self.atATime, open.count) { ask(over: open[(nextAsked + turn) % open.count]) }
    nextAsked += Self.atATime
    // Those that are open may all be to nodes that were cut off.
    if open.count < 2 { dial() }
  }

  /// The next of the nodes that are known.
  private func dial() {
    guard !isDialling else { return }
    isDialling = true
    let seeds = connector.seeds
    let places = seeds + map.known.filter { !seeds.contains($0) }
    let place = places[nextDial % places.count]
    nextDial += 1
    let loop = eventLoop.assumeIsolated()
    var isOver = false
    func over(_ connection: RedisConnection?) {
      connection?.close()
      guard !isOver else { return }
      (isOver, isDialling) = (true, false)
      if map.masters.isEmpty { refresh() }
    }
    loop.scheduleTask(in: Self.patience) { over(nil) }
    connector.connect(to: place, on: eventLoop).assumeIsolated().whenComplete { result in
      switch result {
      case .failure(let error):
        self.failed(error as? RedisError ?? .connectFailed("\(error)"))
        over(nil)
      case .success(let connection): self.ask(over: connection) { over(connection) }
      }
    }
  }
}
