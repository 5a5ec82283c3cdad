import BatonProtocol
import BatonRedis
import BatonSession
import NIOCore
import Synchronization

/// The sessions of one Redis node: four connections, whatever the number of sessions and devices. All but what says
/// otherwise is called, and calls back, on `eventLoop`.
package final class SessionStore: @unchecked Sendable {
  package let eventLoop: any EventLoop
  package weak var subscriber: (any StoreSubscriber)?

  private let configuration: StoreConfiguration
  private let observe: (StoreEvent) -> Void
  private let tickets = Atomic<UInt64>(0)
  private var followed: Set<SessionName> = []
  private var updates: [SessionUpdate] = []
  // Set once, at the end of `init`: they call back.
  private var tail: TailReader?
  private var history: HistoryReader?
  private var commands: CommandLink?
  private var leases: LeaseKeeper?

  /// - Parameter connector: makes the connector of one connection, which takes in no more than the limits.
  package init(
    _ configuration: StoreConfiguration, on eventLoop: any EventLoop,
    connector: (StoreConnection, RESPLimits) throws(RedisError) -> RedisConnector,
    observe: @escaping @Sendable (StoreEvent) -> Void
  ) throws(RedisError) {
    (self.configuration, self.eventLoop, self.observe) = (configuration, eventLoop, observe)
    var limits = RESPLimits()
    limits.maxBulkBytes = configuration.maxStringBytes
    limits.maxEntryBytes = configuration.maxStringBytes
    // XINFO's first and last entry, and what a read is for.
    limits.maxReplyBytes = 4 * configuration.maxStringBytes
    let look = LookForm(on: eventLoop)
    let noteReached = { [weak self] in if self?.isReady == true { observe(.reached) } }
    let commands = CommandLink(configuration, connector: try connector(.commands, limits), on: eventLoop) {
      [weak self] isUp in
      if isUp { noteReached() } else { self?.leases?.connectionLost() }
    }
    self.commands = commands
    history = HistoryReader(
      configuration, connector: try connector(.history, limits), look: look, on: eventLoop, observe: observe,
      changed: noteReached)
    tail = TailReader(
      configuration, notices: try connector(.notices, limits), reads: try connector(.tail, limits), look: look,
      on: eventLoop,
      observe: { event in
        observe(event)
        if case .connected = event { noteReached() }
      },
      tell: { [weak self] in self?.tell($0, $1) }, flush: { [weak self] in self?.flush() })
    leases = LeaseKeeper(
      keyPrefix: configuration.keyPrefix, commands: commands, on: eventLoop, observe: observe
    ) { [weak self] session in
      self?.tell(session, .held(false))
      self?.flush()
    }
  }

  package func start() {
    tail?.start()
    history?.start()
    commands?.start()
  }

  package func stop() {
    tail?.stop()
    history?.stop()
    commands?.stop()
  }

  /// Ready is who can let devices in: all connections are up.
  private var isReady: Bool { tail?.isUp == true && history?.isUp == true && commands?.isUp == true }

  // MARK: following

  /// - Returns: What somebody who follows the session from now on must be told first.
  package func follow(_ session: SessionName) -> [TailUpdate] {
    if followed.insert(session).inserted {
      observe(.following(sessions: followed.count))
      leases?.begin(session)
    }
    var standing: [TailUpdate] = []
    if leases?.holdsLive(session) == true { standing.append(.held(true)) }
    if let end = tail?.follow(session) { standing.append(.opened(base: end)) }
    return standing
  }

  package func unfollow(_ session: SessionName) {
    guard followed.remove(session) != nil else { return }
    observe(.following(sessions: followed.count))
    tail?.unfollow(session)
    leases?.end(session)
  }

  /// From anywhere. A ticket is drawn before ``touch(_:ticket:)``, and comes back in ``TailUpdate/confirmed(ticket:)``.
  package func drawTicket() -> UInt64 { tickets.wrappingAdd(1, ordering: .relaxed).newValue }

  /// The session is to be read now.
  package func touch(_ session: SessionName, ticket: UInt64) { tail?.touch(session, ticket: ticket) }

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
      if let last = segment.entries.last { observe(.entriesRead(segment.entries.count, newest: last.id)) }
      if segment.entries.contains(where: { $0.response != nil && !$0.endsResponse }) { leases?.noticed(session) }
    case .reset(let reset, _): observe(.continuityBroken(session, reset))
    case .wrongType: observe(.wrongType(session))
    default: break
    }
  }

  // MARK: history

  /// - Parameter waits: until Redis is back, instead of `unavailable`.
  package func read(
    _ request: PageRequest, waits: Bool, answer: @escaping @Sendable (PageOutcome) -> Void
  ) {
    history?.read(request, waits: waits, answer: answer)
  }

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
    commands?.send([RedisCommand("HGET", .string(key), .string(response))]) { result in
      completion(
        result.flatMap { replies in
          Result { () throws(RedisError) in
            guard let reply = replies.first else { throw .unexpectedReply("HGET") }
            return try reply.accepted().text.flatMap { ResponseRecord($0) }
          }
        })
    }
  }
}
