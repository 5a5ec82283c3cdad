import Atomics
import BatonProtocol
import BatonRedis
import BatonSession
import NIOCore

/// The sessions of a Redis Cluster: a ``SessionStore`` for each master that has slots, and the sessions spread over them. A
/// session whose slot moves is carried over: the last entry that was known must come back from its new master.
package final class ClusterStore: SessionStoring, @unchecked Sendable {
  package let eventLoop: any EventLoop
  package let budget: HistoryBudget
  package weak var subscriber: (any StoreSubscriber)? {
    didSet { for store in stores { store.subscriber = subscriber } }
  }

  /// Makes the connector of one connection, which takes in no more than the limits.
  package typealias Connector = (StoreConnection, RESPLimits) throws(RedisError) -> any ClusterConnecting

  private final class Shard {
    let node: String
    let store: SessionStore
    /// Where its connections go.
    var address: RedisURL.Address?
    var readiness: StoreEvent?
    /// The node is being asked for its map.
    var isAsked = false
    var unusedSince: NIODeadline?

    init(node: String, store: SessionStore) { (self.node, self.store) = (node, store) }
  }

  private struct Placed {
    let slot: Int
    var shard: Shard
    /// It is there because it was said to be on its way: its slot still belongs to another master.
    var isVisiting = false
    /// When it was last sent back from where it was said to be on its way to.
    var returnedAt: NIODeadline?
    var isFollowed = false
    /// Questions and commands that are under way.
    var users = 0
    /// Moves in a row, the last of them then.
    var moves = 0
    var movedAt: NIODeadline?
  }

  private let configuration: StoreConfiguration
  private let connector: Connector
  private let random: @Sendable () -> Double
  private let observe: (StoreEvent) -> Void
  private let tickets = ManagedAtomic<UInt64>(0)
  private var watch: ClusterWatch?
  private var shards: [String: Shard] = [:]
  /// For sessions whose slots nobody has, as far as is known: Redis is down for them.
  private let nowhere: Shard
  private var sessions: [SessionName: Placed] = [:]
  private var followed = 0 { didSet { observe(.following(sessions: followed)) } }
  /// Those who wait for pages.
  private var readers: Set<UInt64> = []
  private var isStopped = false

  /// A command is sent again for so long while its slot is in motion.
  private static let patience = TimeAmount.seconds(5)
  private static let pause = TimeAmount.milliseconds(50)

  /// - Parameters:
  ///   - connector: makes ``RedisConnector``s of a URL with the topology `cluster`.
  ///   - random: 0 to 1, for pauses between attempts.
  package init(
    _ configuration: StoreConfiguration, on eventLoop: any EventLoop, connector: @escaping Connector,
    random: @escaping @Sendable () -> Double = { .random(in: 0...1) },
    observe: @escaping @Sendable (StoreEvent) -> Void
  ) throws(RedisError) {
    (self.configuration, self.eventLoop, self.connector) = (configuration, eventLoop, connector)
    (self.random, self.observe) = (random, observe)
    let budget = HistoryBudget(limit: configuration.historyBytes)
    self.budget = budget
    let mapped = try connector(.commands, RESPLimits())
    let trouble = NIOLoopBoundBox<RedisError?>.makeEmptyBox(valueType: RedisError.self, eventLoop: eventLoop)
    nowhere = Shard(
      node: "",
      store: try SessionStore(
        configuration, on: eventLoop, budget: budget, isShard: true, tickets: tickets,
        connector: { _, _ in Nowhere(trouble: trouble) }, random: random, observe: { _ in }))
    watch = ClusterWatch(
      mapped, on: eventLoop, connections: { [weak self] in self?.stores.compactMap(\.connection) ?? [] },
      observe: { [weak self] event in
        self?.observe(.cluster(event))
        guard case .silent(let error) = event else { return }
        trouble.value = error
        // Before there is a master, nobody else can say why the node is not ready.
        if self?.shards.isEmpty == true {
          self?.observe(.unready(since: eventLoop.now, why: "\(error)"))
        }
      },
      changed: { [weak self] in self?.mapChanged() },
      leaving: { [weak self] master, slots in self?.look(for: slots, leaving: master) })
  }

  private var stores: [SessionStore] { shards.values.map(\.store) + [nowhere.store] }

  package func start() {
    nowhere.store.start()
    watch?.start()
    sweepLater()
  }

  package func stop() {
    isStopped = true
    watch?.stop()
    for store in stores { store.stop() }
  }

  // MARK: masters

  /// The shard of a master, made when it is first needed.
  private func shard(_ node: String) -> Shard? {
    if let shard = shards[node] { return shard }
    guard let watch, watch.map.address(of: node) != nil, !isStopped else { return nil }
    let address: NIOLoopBound<() -> RedisURL.Address?> = NIOLoopBound(
      { [weak self] in self?.watch?.map.address(of: node) }, eventLoop: eventLoop)
    let noted: NIOLoopBound<(StoreEvent) -> Void> = NIOLoopBound(
      { [weak self] event in self?.noted(event, by: node) }, eventLoop: eventLoop)
    let store: SessionStore
    do {
      store = try SessionStore(
        configuration, on: eventLoop, budget: budget, isShard: true, tickets: tickets,
        connector: { connection, limits throws(RedisError) in
          ShardConnector(connector: try connector(connection, limits), address: address)
        }, random: random, observe: { noted.value($0) })
    } catch {
      // Files that could be read when this began.
      observe(.refused(.commands, nil, error))
      return nil
    }
    let shard = Shard(node: node, store: store)
    store.subscriber = subscriber
    store.misplaced = { [weak self] in self?.watch?.refresh() }
    store.shard.redirected = { [weak self, weak shard] session, redirection in
      // Not inside the reading that has found it.
      self?.eventLoop.assumeIsolated().execute {
        if let self, let shard { self.redirected(session, redirection, by: shard) }
      }
    }
    shards[node] = shard
    shard.address = watch.map.address(of: node)
    tag(shard)
    store.start()
    return shard
  }

  /// A tag whose keys are the master's own.
  private func tag(_ shard: Shard) {
    guard let map = watch?.map else { return }
    let (tag, prefix) = (shard.store.shard.tag, configuration.keyPrefix)
    if map.has(shard.node, RedisSlot.of("\(prefix){\(tag)}")) { return }
    shard.store.shard.tag = map.tag(of: shard.node, prefix: prefix) ?? tag
  }

  private func mapChanged() {
    guard let map = watch?.map, !isStopped else { return }
    for node in map.masters { _ = shard(node) }
    for shard in shards.values {
      tag(shard)
      if let address = map.address(of: shard.node), address != shard.address {
        shard.address = address
        shard.store.restart()
      }
    }
    for (session, placed) in sessions {
      guard let owner = owner(of: placed.slot) else { continue }
      if owner === placed.shard {
        sessions[session]?.isVisiting = false
        owner.store.shard.asking[session] = nil
      } else if !placed.isVisiting || !map.isMaster(placed.shard.node) {
        move(session, to: owner)
      }
    }
  }

  /// A key that is made while its slot is on its way is made where the slot goes, and no notice tells of it here: the next
  /// read is sent there.
  private func look(for slots: Set<Int>, leaving master: String) {
    for (session, placed) in sessions
    where placed.shard.node == master && slots.contains(placed.slot) {
      if placed.isFollowed { placed.shard.store.touch(session, ticket: drawTicket()) }
      placed.shard.store.isInMotion(session)
    }
  }

  private func owner(of slot: Int) -> Shard? { watch?.map.owner(of: slot).flatMap(shard) }

  private static let sweep = TimeAmount.seconds(5)

  /// Masters that have no slots any more, and no session, are let go of, when what is under way there has had time to
  /// end; sessions that came before their slot and stayed are settled, or sent back from where nobody answers.
  private func sweepLater() {
    eventLoop.assumeIsolated().scheduleTask(in: Self.sweep) { [weak self] in
      guard let self, let map = self.watch?.map, !self.isStopped else { return }
      let now = self.eventLoop.now
      for (session, placed) in self.sessions where placed.isVisiting {
        guard let movedAt = placed.movedAt, now - movedAt >= Self.sweep, let owner = self.owner(of: placed.slot) else {
          continue
        }
        if owner === placed.shard {
          self.sessions[session]?.isVisiting = false
          owner.store.shard.asking[session] = nil
        } else if placed.shard.store.connection == nil {
          self.move(session, to: owner)
        }
      }
      let used = Set(self.sessions.values.map { ObjectIdentifier($0.shard) })
      for shard in self.shards.values {
        let isNeeded = map.masters.contains(shard.node) || used.contains(ObjectIdentifier(shard))
        shard.unusedSince = isNeeded ? nil : shard.unusedSince ?? now
        guard let since = shard.unusedSince, now - since >= Self.sweep else { continue }
        self.shards[shard.node] = nil
        shard.store.stop()
        self.tellReadiness()
      }
      self.sweepLater()
    }
  }

  // MARK: health

  private func noted(_ event: StoreEvent, by node: String) {
    guard let shard = shards[node] else { return }
    switch event {
    // A session is counted here, wherever it is.
    case .following: break
    case .ready, .unready:
      shard.readiness = event
      tellReadiness()
    default: observe(event)
    }
  }

  /// Ready is a node that serves some of the sessions: behind a load balancer, the others are served by none.
  private func tellReadiness() {
    var unready: (since: NIODeadline, why: String)?
    for shard in shards.values {
      switch shard.readiness {
      case .ready: return observe(.ready)
      case .unready(let since, let why) where unready.map { since < $0.since } ?? true: unready = (since, why)
      default: break
      }
    }
    if let unready { observe(.unready(since: unready.since, why: unready.why)) }
  }

  // MARK: where sessions are

  /// - Parameter change: who needs it to be placed.
  private func use(_ session: SessionName, _ change: (inout Placed) -> Void) -> Shard {
    var placed = sessions[session] ?? place(session)
    change(&placed)
    sessions[session] = placed
    return placed.shard
  }

  private func place(_ session: SessionName) -> Placed {
    let slot = RedisSlot.of(session.key(prefix: configuration.keyPrefix))
    return Placed(slot: slot, shard: owner(of: slot) ?? nowhere)
  }

  private func unuse(_ session: SessionName, _ change: (inout Placed) -> Void) {
    guard var placed = sessions[session] else { return }
    change(&placed)
    sessions[session] = placed
    guard !placed.isFollowed, placed.users == 0 else { return }
    placed.shard.store.shard.asking[session] = nil
    sessions[session] = nil
  }

  private func move(_ session: SessionName, to shard: Shard, isVisiting: Bool = false) {
    guard var placed = sessions[session], !isStopped else { return }
    let (now, old) = (eventLoop.now, placed.shard)
    placed.moves = placed.movedAt.map { now - $0 < .seconds(1) } == true ? placed.moves + 1 : 0
    if placed.isVisiting, !isVisiting { placed.returnedAt = now }
    (placed.shard, placed.isVisiting, placed.movedAt) = (shard, isVisiting, now)
    sessions[session] = placed
    let carried = old === shard ? nil : old.store.release(session)
    if isVisiting {
      // Sent here twice, without its stream being here: its owner does not have it either.
      shard.store.shard.asking[session] = placed.returnedAt.map { now - $0 < .seconds(5) } ?? false
    }
    if let carried { shard.store.adopt(session, carried, isFollowed: placed.isFollowed) }
  }

  /// A master has said that a session is elsewhere.
  private func redirected(
    _ session: SessionName, _ redirection: RedisError.Redirection, by shard: Shard, done: @escaping () -> Void = {}
  ) {
    guard let placed = sessions[session], placed.shard === shard else { return done() }
    // Masters that send it to and fro are asked less and less often: its reads are repeated where it is.
    if placed.moves > 4, let last = placed.movedAt, eventLoop.now - last < .milliseconds(500) { return done() }
    if case .ask(let address) = redirection, let map = watch?.map, let node = map.node(at: address) {
      // A replica by now: there is nothing to be had before the slot is somewhere else.
      guard map.isMaster(node), let target = self.shard(node) else { return done() }
      move(session, to: target, isVisiting: true)
      return done()
    }
    if placed.isVisiting, let owner = owner(of: placed.slot), owner !== shard {
      move(session, to: owner)
      return done()
    }
    // The master that sends it away knows to whom.
    guard let connection = shard.store.connection, !shard.isAsked else {
      watch?.refresh()
      return done()
    }
    shard.isAsked = true
    watch?.ask(over: connection) { [weak shard] in
      shard?.isAsked = false
      done()
    }
  }

  // MARK: following

  package func drawTicket() -> UInt64 { tickets.wrappingIncrementThenLoad(ordering: .relaxed) }

  package func follow(_ session: SessionName) -> [TailUpdate] {
    if sessions[session]?.isFollowed != true { followed += 1 }
    return use(session) { $0.isFollowed = true }.store.follow(session)
  }

  package func unfollow(_ session: SessionName) {
    guard let placed = sessions[session], placed.isFollowed else { return }
    placed.shard.store.unfollow(session)
    followed -= 1
    unuse(session) { $0.isFollowed = false }
  }

  package func touch(_ session: SessionName, ticket: UInt64) {
    sessions[session]?.shard.store.touch(session, ticket: ticket)
  }

  package func pace(_ session: SessionName, milliseconds: Int64) {
    sessions[session]?.shard.store.pace(session, milliseconds: milliseconds)
  }

  // MARK: history and commands

  package func read(
    _ request: PageRequest, id: UInt64, waits: Bool, answer: @escaping @Sendable (PageOutcome) -> Void
  ) {
    let session = request.session
    readers.insert(id)
    use(session) { $0.users += 1 }.store.read(request, id: id, waits: waits) { outcome in
      self.finished(id, session)
      answer(outcome)
    }
  }

  package func abandon(_ id: UInt64, session: SessionName) {
    sessions[session]?.shard.store.abandon(id, session: session)
    finished(id, session)
  }

  private func finished(_ id: UInt64, _ session: SessionName) {
    if readers.remove(id) != nil { unuse(session) { $0.users -= 1 } }
  }

  package func run(
    _ call: AppendCall, _ session: SessionName, completion: @escaping (Result<[String], RedisError>) -> Void
  ) {
    attempt(session, { $0.run(call, session, completion: $1) }, completion)
  }

  package func record(
    of response: String, in session: SessionName,
    completion: @escaping (Result<ResponseRecord?, RedisError>) -> Void
  ) {
    attempt(session, { $0.record(of: response, in: session, completion: $1) }, completion)
  }

  /// One master after the other.
  package func sessions(
    like prefix: String, from place: KeyPlace?, completion: @escaping (Result<SessionStep, RedisError>) -> Void
  ) {
    let masters = (watch?.map.masters ?? []).sorted()
    guard let node = place?.node ?? masters.first, let shard = shard(node) else {
      return eventLoop.assumeIsolated().execute {
        completion(.failure(.connectFailed("a master of the cluster is not there any more; begin again")))
      }
    }
    let cursor = KeyPlace(node: node, cursor: place?.cursor ?? "0")
    shard.store.sessions(like: prefix, from: cursor) { result in
      completion(
        result.map { step in
          guard step.next == nil, let other = masters.first(where: { $0 > node }) else { return step }
          return SessionStep(sessions: step.sessions, next: KeyPlace(node: other, cursor: "0"))
        })
    }
  }

  package func responses(
    in session: SessionName, completion: @escaping (Result<ResponseList, RedisError>) -> Void
  ) {
    attempt(session, { $0.responses(in: session, completion: $1) }, completion)
  }

  package func look(
    at response: String, in session: SessionName, after place: EntryID,
    completion: @escaping (Result<InboxLook, RedisError>) -> Void
  ) {
    attempt(session, { $0.look(at: response, in: session, after: place, completion: $1) }, completion)
  }

  package func watchLeases(of session: SessionName) {
    use(session) { $0.users += 1 }.store.watchLeases(of: session)
    eventLoop.assumeIsolated().scheduleTask(in: SessionStore.leaseWatch) { [weak self] in
      self?.unuse(session) { $0.users -= 1 }
    }
  }

  package func send(
    _ commands: [RedisCommand], of session: SessionName, completion: @escaping (Result<[RESPReply], RedisError>) -> Void
  ) {
    attempt(
      session,
      { store, answer in
        store.send(commands, of: session) { result in
          answer(
            result.flatMap { replies in
              replies.lazy.compactMap(\.error).first(where: \.isOfMotion).map { .failure($0) } ?? .success(replies)
            })
        }
      }, completion)
  }

  /// Once more and again while the session's slot is in motion, up to a deadline.
  private func attempt<Value>(
    _ session: SessionName, _ send: @escaping (SessionStore, @escaping (Result<Value, RedisError>) -> Void) -> Void,
    _ completion: @escaping (Result<Value, RedisError>) -> Void
  ) {
    let deadline = eventLoop.now + Self.patience
    func end(_ result: Result<Value, RedisError>) {
      unuse(session) { $0.users -= 1 }
      completion(result)
    }
    func attempt(on shard: Shard) {
      send(shard.store) { result in
        guard case .failure(let error) = result, error.isOfMotion else { return end(result) }
        func again() {
          guard self.eventLoop.now < deadline, !self.isStopped, let now = self.sessions[session]?.shard else {
            return end(.failure(error.redirection == nil ? error : .inMotion))
          }
          if now !== shard { return attempt(on: now) }
          self.eventLoop.assumeIsolated().scheduleTask(in: Self.pause) {
            attempt(on: self.sessions[session]?.shard ?? shard)
          }
        }
        guard let redirection = error.redirection else { return again() }
        self.redirected(session, redirection, by: shard, done: again)
      }
    }
    attempt(on: use(session) { $0.users += 1 })
  }
}

extension RedisError {
  /// Said of a slot that moves, or has no master just now.
  var isOfMotion: Bool { redirection != nil || code == "TRYAGAIN" || code == "CLUSTERDOWN" }
}

/// Where there is no master.
private struct Nowhere: RedisConnecting {
  let trouble: NIOLoopBoundBox<RedisError?>

  func connect(on eventLoop: any EventLoop) -> EventLoopFuture<RedisConnection> {
    eventLoop.makeFailedFuture(trouble.value ?? .connectFailed("no master of the cluster has this slot"))
  }
}

/// To where a master of a cluster is now, on the loop of the map.
private struct ShardConnector: RedisConnecting {
  let connector: any ClusterConnecting
  let address: NIOLoopBound<() -> RedisURL.Address?>

  func connect(on eventLoop: any EventLoop) -> EventLoopFuture<RedisConnection> {
    guard let address = address.value() else {
      return eventLoop.makeFailedFuture(RedisError.connectFailed("the cluster does not say where this master is"))
    }
    return connector.connect(to: address, on: eventLoop)
  }
}
