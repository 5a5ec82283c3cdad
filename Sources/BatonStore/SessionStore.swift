import Atomics
import BatonProtocol
import BatonRedis
import BatonSession
import NIOCore

/// The sessions of one Redis node: four connections, whatever the number of sessions and devices. All but what says
/// otherwise is called, and calls back, on `eventLoop`.
package final class SessionStore: SessionStoring, @unchecked Sendable {
  package let eventLoop: any EventLoop
  package weak var subscriber: (any StoreSubscriber)?

  private let configuration: StoreConfiguration
  private let observe: (StoreEvent) -> Void
  private let tickets: ManagedAtomic<UInt64>
  private var followed: Set<SessionName> = []
  private var updates: [SessionUpdate] = []
  // Set once, at the end of `init`: they call back.
  private var tail: TailReader?
  private var history: HistoryReader?
  private var commands: CommandLink?
  private var leases: LeaseKeeper?
  private var servers: [StoreConnection: String] = [:]
  private let sentinels: SentinelWatch?
  private var name: NameWatch?
  let shard: ShardState
  /// Told, where the server is one of a cluster, that it is not the one to talk to.
  var misplaced: () -> Void = {}
  private var readiness: Readiness?
  private var isStopped = false

  private enum Readiness: Equatable {
    case ready
    case unready(since: NIODeadline)
  }

  /// History that this node holds in memory.
  package let budget: HistoryBudget

  /// - Parameters:
  ///   - url: of the one server, whose name may lead elsewhere one day; nil where others say where the server is.
  ///   - sentinels: who say where the server is.
  ///   - budget: shared with others; its own, of ``StoreConfiguration/historyBytes``, unless told.
  ///   - isShard: its server is one of a cluster's masters.
  ///   - tickets: counted together with others; by itself unless told.
  ///   - connector: makes the connector of one connection, which takes in no more than the limits.
  ///   - random: 0 to 1, for pauses between attempts.
  package init(
    _ configuration: StoreConfiguration, on eventLoop: any EventLoop, url: RedisURL? = nil,
    sentinels: SentinelWatch? = nil,
    budget: HistoryBudget? = nil, isShard: Bool = false, tickets: ManagedAtomic<UInt64> = ManagedAtomic(0),
    connector: (StoreConnection, RESPLimits) throws(RedisError) -> any RedisConnecting,
    random: @escaping @Sendable () -> Double = { .random(in: 0...1) },
    observe: @escaping @Sendable (StoreEvent) -> Void
  ) throws(RedisError) {
    (self.configuration, self.eventLoop, self.observe) = (configuration, eventLoop, observe)
    (self.sentinels, self.tickets) = (sentinels, tickets)
    shard = ShardState(isShard: isShard)
    var limits = RESPLimits()
    limits.maxBulkBytes = configuration.maxStringBytes
    limits.maxEntryBytes = configuration.maxStringBytes
    // XINFO's first and last entry, and what a read is for.
    limits.maxReplyBytes = 4 * configuration.maxStringBytes
    var connectors: [StoreConnection: any RedisConnecting] = [:]
    for connection in StoreConnection.allCases { connectors[connection] = try connector(connection, limits) }
    func connecting(_ connection: StoreConnection) -> any RedisConnecting { connectors[connection] ?? Unconnectable() }
    let look = LookForm(on: eventLoop)
    let budget = budget ?? HistoryBudget(limit: configuration.historyBytes)
    self.budget = budget
    let watch: (StoreEvent) -> Void = { [weak self] event in self?.noted(event) }
    func admitting(_ role: StoreConnection) -> RedisLink.SetUp { { [weak self] in self?.admit(role, $0, $1) } }
    history = HistoryReader(
      configuration, budget: budget, connector: connecting(.history), look: look, shard: shard, on: eventLoop,
      random: random, admit: admitting(.history), observe: watch)
    let commands = CommandLink(
      configuration, connector: connecting(.commands), shard: shard, on: eventLoop, random: random,
      admit: admitting(.commands), observe: watch
    ) { [weak self] error in self?.leave(because: error) }
    self.commands = commands
    tail = TailReader(
      configuration, connectors: connecting, look: look, shard: shard, on: eventLoop, random: random,
      admit: admitting(.tail), observe: watch,
      tell: { [weak self] in self?.tell($0, $1) }, flush: { [weak self] in self?.flush() },
      provoke: { commands.provokeNotice() },
      demoted: { [weak self] in self?.leave(because: SessionStore.demoted) })
    if let url {
      name = NameWatch(
        url, on: eventLoop, connection: { commands.connection },
        moved: { [weak self] in self?.leave(because: SessionStore.renamed) })
    }
    leases = LeaseKeeper(
      keyPrefix: configuration.keyPrefix, commands: commands, shard: shard, rescue: configuration.rescue, on: eventLoop,
      observe: observe,
      read: { [weak self] session in
        guard let self else { return 0 }
        let ticket = self.drawTicket()
        self.touch(session, ticket: ticket)
        return ticket
      },
      release: { [weak self] session in
        self?.tell(session, .held(false))
        self?.flush()
      })
  }

  private static let renamed = RedisError.misplaced("its name leads to another address now")

  package func start() {
    sentinels?.moved = { [weak self] in self?.restart() }
    sentinels?.start()
    name?.start()
    tail?.start()
    history?.start()
    commands?.start()
    tick()
  }

  package func stop() {
    isStopped = true
    sentinels?.stop()
    name?.stop()
    tail?.stop()
    history?.stop()
    commands?.stop()
  }

  // MARK: health

  private func noted(_ event: StoreEvent) {
    observe(event)
    switch event {
    case .up: eventLoop.assumeIsolated().execute { [weak self] in self?.leaveOtherServers() }
    case .disconnected(let role, _):
      servers[role] = nil
      if role == .commands { leases?.begunAnew() }
      if role == .tail {
        sentinels?.lost()
        misplaced()
      }
    case .refused(_, _, let error) where error.wantsMaster: leave(because: error)
    default: break
    }
  }

  private static let elsewhere = RedisError.connectFailed(
    "another server answers there than the one that is followed")

  private static let demoted = RedisError.misplaced("this one is a replica")

  /// All connections go to the server of the tail's, and where others say who is the master, to a master. Who is not told
  /// which server it is can't compare.
  private func admit(
    _ role: StoreConnection, _ connection: RedisConnection, _ done: @escaping (Result<Void, RedisError>) -> Void
  ) {
    connection.send(ServerIdentity.questions, deadline: eventLoop.now + .seconds(5)) { [weak self] result in
      guard let self else { return }
      do throws(RedisError) {
        let identity = try ServerIdentity(result.get())
        if !identity.isMaster, self.sentinels != nil || self.shard.isShard { throw SessionStore.demoted }
        if role != .tail, let id = identity.runID, let tail = self.servers[.tail], tail != id {
          throw SessionStore.elsewhere
        }
        self.servers[role] = identity.runID
        self.sentinels?.answered(identity)
        done(.success(()))
      } catch {
        done(.failure(error))
      }
    }
  }

  /// The tail may have been asked which server it is on while another connection was on its way up.
  private func leaveOtherServers() {
    guard let tail = servers[.tail] else { return }
    func isElsewhere(_ role: StoreConnection) -> Bool { servers[role].map { $0 != tail } ?? false }
    if isElsewhere(.history) { history?.leave(because: SessionStore.elsewhere) }
    if isElsewhere(.commands) { commands?.leave(because: SessionStore.elsewhere) }
  }

  private func leave(because error: RedisError) {
    // Another server of the cluster may have what this one has lost: who spreads the sessions finds out.
    if shard.isShard { return misplaced() }
    sentinels?.lost()
    tail?.leave(because: error)
    history?.leave(because: error)
    commands?.leave(because: error)
  }

  /// All connections at once: the master is another server now.
  func restart() {
    let error = RedisError.misplaced("it is to be found elsewhere now")
    servers.removeAll()
    tail?.restart(because: error)
    history?.restart(because: error)
    commands?.restart(because: error)
  }

  /// Ready is who can let devices in and write what they post.
  private func tick() {
    if isStopped { return }
    let troubles = [
      ("the tail", tail?.troubleSince, nil), ("history", history?.troubleSince, history?.trouble),
      ("commands", commands?.troubleSince, commands?.trouble),
    ].compactMap { what, since, error in since.map { (what, $0, error) } }
    // A question that is on its way is no trouble yet.
    if let (what, since, error) = troubles.min(by: { $0.1 < $1.1 }) {
      let patience = error == .notYetConnected ? TimeAmount.seconds(5) : .seconds(1)
      if eventLoop.now - since >= patience, readiness != .unready(since: since) {
        readiness = .unready(since: since)
        observe(.unready(since: since, why: error.map { "\(what): \($0)" } ?? "\(what) is not answered"))
      }
    } else if readiness != .ready {
      readiness = .ready
      observe(.ready)
    }
    eventLoop.assumeIsolated().scheduleTask(in: .milliseconds(100)) { [weak self] in self?.tick() }
  }

  // MARK: following

  /// - Returns: What somebody who follows the session from now on must be told first.
  package func follow(_ session: SessionName) -> [TailUpdate] {
    if followed.insert(session).inserted {
      observe(.following(sessions: followed.count))
      leases?.begin(session)
    }
    var standing: [TailUpdate] = []
    if leases?.holdsLive(session) == true { standing.append(.held(true)) }
    return standing + (tail?.follow(session) ?? [])
  }

  package func unfollow(_ session: SessionName) {
    guard followed.remove(session) != nil else { return }
    observe(.following(sessions: followed.count))
    tail?.unfollow(session)
    leases?.end(session)
  }

  /// What another store needs to go on with a session.
  struct Carried {
    let tail: Tail.Carried?
    let questions: [HistoryReader.Asked]
    /// A response has ended, and that is told before `live`.
    let hasEnded: Bool
  }

  /// Another store takes the session over.
  func release(_ session: SessionName) -> Carried {
    if followed.remove(session) != nil { observe(.following(sessions: followed.count)) }
    let hasEnded = leases?.end(session) ?? false
    shard.asking[session] = nil
    return Carried(
      tail: tail?.release(session), questions: history?.release(session) ?? [], hasEnded: hasEnded)
  }

  /// - Parameter isFollowed: somebody wants to be told what is new; else it is only about history.
  func adopt(_ session: SessionName, _ carried: Carried, isFollowed: Bool) {
    if isFollowed, followed.insert(session).inserted {
      observe(.following(sessions: followed.count))
      leases?.begin(session, hasEnded: carried.hasEnded)
      leases?.missed(session)
      if let known = carried.tail {
        tail?.adopt(session, known)
      } else {
        updates += (tail?.follow(session) ?? []).map { (session, $0) }
        flush()
      }
    }
    for asked in carried.questions {
      history?.read(asked.request, id: asked.id, waits: asked.waits, answer: asked.answer)
    }
  }

  /// Its slot is on its way to another server.
  func isInMotion(_ session: SessionName) { leases?.isInMotion(session) }

  /// Over which commands are sent; nil while it is down.
  var connection: RedisConnection? { commands?.connection }

  /// From anywhere. A ticket is drawn before ``touch(_:ticket:)``, and comes back in ``TailUpdate/confirmed(ticket:)``.
  package func drawTicket() -> UInt64 { tickets.wrappingIncrementThenLoad(ordering: .relaxed) }

  /// The session is to be read now.
  package func touch(_ session: SessionName, ticket: UInt64) { tail?.touch(session, ticket: ticket) }

  /// What is new in the session is read so much later, with what has come meanwhile; 0: at once. Milliseconds.
  package func pace(_ session: SessionName, milliseconds: Int64) {
    tail?.pace(session, milliseconds: milliseconds)
  }

  private func tell(_ session: SessionName, _ update: TailUpdate) {
    guard followed.contains(session) else { return }
    updates.append((session, update))
    note(session, update)
  }

  private func flush() {
    guard !updates.isEmpty else { return }
    let told = updates
    updates.removeAll(keepingCapacity: true)
    subscriber?.updated(told)
  }

  private func note(_ session: SessionName, _ update: TailUpdate) {
    switch update {
    case .appended(let segment):
      if let last = segment.entries.end { observe(.entriesRead(segment.entries.count, newest: last.id)) }
      leases?.noticed(session, segment.entries)
      if configuration.webhooks != nil { recordEnds(session, segment.entries) }
    case .opened, .rebased: leases?.missed(session)
    case .reset(let reset, _):
      leases?.missed(session)
      observe(.continuityBroken(session, reset))
    case .confirmed(let ticket):
      if leases?.confirmed(session, ticket) == true { tell(session, .held(false)) }
    case .wrongType: observe(.wrongType(session))
    default: break
    }
  }

  private func recordEnds(_ session: SessionName, _ entries: Entries) {
    for entry in entries {
      guard let end = BareEnd(entry, of: session) else { continue }
      commands?.send([end.recorded(prefix: configuration.keyPrefix)], of: session) { _ in }
    }
  }

  // MARK: history

  /// - Parameters:
  ///   - id: a ticket of its own, for ``abandon(_:session:)``.
  ///   - waits: until Redis is back, instead of `unavailable`.
  package func read(
    _ request: PageRequest, id: UInt64, waits: Bool, answer: @escaping @Sendable (PageOutcome) -> Void
  ) {
    history?.read(request, id: id, waits: waits, answer: answer)
  }

  /// Who has asked for a page has gone: it is not answered, and what nobody else waits for is not read.
  package func abandon(_ id: UInt64, session: SessionName) { history?.abandon(id, session: session) }

  // MARK: commands

  /// Runs the atomic step; answered with the reply's strings.
  package func run(
    _ call: AppendCall, _ session: SessionName, completion: @escaping (Result<[String], RedisError>) -> Void
  ) {
    commands?.run(call, session, completion: completion)
  }

  /// What is known of a response; nil where nothing is.
  package func record(
    of response: String, in session: SessionName,
    completion: @escaping (Result<ResponseRecord?, RedisError>) -> Void
  ) {
    let key = SessionKeys(session, prefix: configuration.keyPrefix).producers
    commands?.send([RedisCommand("HGET", .string(key), .string(response))], of: session) { result in
      completion(
        result.flatMap { replies in
          Result { () throws(RedisError) in
            guard let reply = replies.first else { throw .unexpectedReply("HGET") }
            return try reply.accepted().text.flatMap { ResponseRecord($0) }
          }
        })
    }
  }

  package func sessions(
    like prefix: String, from place: KeyPlace?, completion: @escaping (Result<SessionStep, RedisError>) -> Void
  ) {
    let keyPrefix = configuration.keyPrefix
    let command = RedisCommand(
      "SCAN", .string(place?.cursor ?? "0"), "MATCH", .string(SessionName.pattern(of: prefix, prefix: keyPrefix)),
      "COUNT", .integer(Int64(SessionStep.keys)))
    commands?.send([command]) { result in
      completion(
        result.flatMap { replies in
          Result { () throws(RedisError) in
            guard var parts = try replies.first?.accepted().elements, let next = parts.next()?.text,
              var keys = parts.next()?.elements
            else { throw .unexpectedReply("SCAN") }
            var step = SessionStep()
            while let key = keys.next() {
              if let session = key.text.flatMap({ SessionName(contentKey: $0, prefix: keyPrefix) }) {
                step.sessions.append(session)
              }
            }
            if next != "0" { step.next = KeyPlace(node: place?.node ?? "", cursor: next) }
            return step
          }
        })
    }
  }

  package func responses(
    in session: SessionName, completion: @escaping (Result<ResponseList, RedisError>) -> Void
  ) {
    step(
      through: SessionKeys(session, prefix: configuration.keyPrefix).producers, of: session, "0", ResponseList(),
      completion)
  }

  private func step(
    through key: String, of session: SessionName, _ cursor: String, _ list: ResponseList,
    _ completion: @escaping (Result<ResponseList, RedisError>) -> Void
  ) {
    let command = RedisCommand(
      "HSCAN", .string(key), .string(cursor), "COUNT", .integer(Int64(LeaseKeeper.step)))
    commands?.send([command], of: session) { [weak self] result in
      do throws(RedisError) {
        guard let reply = try result.get().first else { throw .unexpectedReply("HSCAN") }
        var list = list
        guard let next = try list.take(reply) else { return completion(.success(list)) }
        guard let self else { throw .stopped }
        self.step(through: key, of: session, next, list, completion)
      } catch {
        completion(.failure(error))
      }
    }
  }

  /// Longer than a lease has to stand still.
  static let leaseWatch = LeaseWatch.patience + .seconds(10)

  package func watchLeases(of session: SessionName) {
    guard !followed.contains(session), let leases, !leases.isWatching(session) else { return }
    leases.begin(session)
    leases.missed(session)
    eventLoop.assumeIsolated().scheduleTask(in: Self.leaseWatch) { [weak self] in
      if self?.followed.contains(session) == false { self?.leases?.end(session) }
    }
  }

  package func send(
    _ commands: [RedisCommand], of session: SessionName, completion: @escaping (Result<[RESPReply], RedisError>) -> Void
  ) {
    self.commands?.send(commands, of: session, completion: completion)
  }

  /// A response, and what of the session's inbox comes after `place`. An inbox of another type has nothing in it.
  package func look(
    at response: String, in session: SessionName, after place: EntryID,
    completion: @escaping (Result<InboxLook, RedisError>) -> Void
  ) {
    let keys = SessionKeys(session, prefix: configuration.keyPrefix)
    let after = RedisStreamID(place.milliseconds, place.sequence)
    let asked = [
      RedisCommand("HGET", .string(keys.producers), .string(response)),
      .xread(count: InboxLook.count, [(keys.inbox, after)]),
    ]
    commands?.send(asked, of: session) { result in
      completion(
        result.flatMap { replies in
          Result { () throws(RedisError) in
            guard replies.count == asked.count else { throw .unexpectedReply("XREAD") }
            let record = try replies[0].accepted().text.flatMap { ResponseRecord($0) }
            if let error = replies[1].error, error.code != "WRONGTYPE" { throw error }
            let read = try? replies[1].decodedStreams([keys.inbox]).first?.read
            return InboxLook(record: record, messages: read?.entries ?? [])
          }
        })
    }
  }
}

private struct Unconnectable: RedisConnecting {
  func connect(on eventLoop: any EventLoop) -> EventLoopFuture<RedisConnection> {
    eventLoop.makeFailedFuture(RedisError.stopped)
  }
}
