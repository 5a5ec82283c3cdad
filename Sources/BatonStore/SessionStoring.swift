import BatonProtocol
import BatonRedis
import BatonSession
import NIOCore

/// The sessions of a Redis, be it one server or many. All but what says otherwise is called, and calls back, on
/// `eventLoop`.
package protocol SessionStoring: AnyObject, Sendable {
  var eventLoop: any EventLoop { get }
  /// Held weakly.
  var subscriber: (any StoreSubscriber)? { get set }
  /// History that this node holds in memory.
  var budget: HistoryBudget { get }

  func start()
  func stop()

  /// - Returns: What somebody who follows the session from now on must be told first.
  func follow(_ session: SessionName) -> [TailUpdate]
  func unfollow(_ session: SessionName)

  /// From anywhere. A ticket is drawn before ``touch(_:ticket:)``, and comes back in ``TailUpdate/confirmed(ticket:)``.
  func drawTicket() -> UInt64
  /// The session is to be read now.
  func touch(_ session: SessionName, ticket: UInt64)
  /// What is new in the session is read so much later, with what has come meanwhile; 0: at once. Milliseconds.
  func pace(_ session: SessionName, milliseconds: Int64)

  /// - Parameters:
  ///   - id: a ticket of its own, for ``abandon(_:session:)``.
  ///   - waits: until Redis is back, instead of `unavailable`.
  func read(_ request: PageRequest, id: UInt64, waits: Bool, answer: @escaping @Sendable (PageOutcome) -> Void)
  /// Who has asked for a page has gone: it is not answered, and what nobody else waits for is not read.
  func abandon(_ id: UInt64, session: SessionName)

  /// Runs the atomic step; answered with the reply's strings.
  func run(_ call: AppendCall, _ session: SessionName, completion: @escaping (Result<[String], RedisError>) -> Void)
  /// What is known of a response; nil where nothing is.
  func record(
    of response: String, in session: SessionName, completion: @escaping (Result<ResponseRecord?, RedisError>) -> Void)
  /// What is known of the session's responses, at most ``ResponseList/maxFields`` of them.
  func responses(in session: SessionName, completion: @escaping (Result<ResponseList, RedisError>) -> Void)
  /// A response, and what of the session's inbox comes after `place`, at most ``InboxLook/count`` messages.
  func look(
    at response: String, in session: SessionName, after place: EntryID,
    completion: @escaping (Result<InboxLook, RedisError>) -> Void)
  /// A session that nobody may be attached to: whoever of its producers has died is found out, as for those who are.
  func watchLeases(of session: SessionName)
  /// Commands for keys in a session's slot, which may be sent more than once; answered with a reply for each, refusals
  /// among them.
  func send(
    _ commands: [RedisCommand], of session: SessionName, completion: @escaping (Result<[RESPReply], RedisError>) -> Void
  )
  /// One step of a walk through all keys: sessions whose qualified names begin so, some of them perhaps twice. What was
  /// there throughout the walk is found, but for what has moved to another server meanwhile.
  /// - Parameter place: nil: from the beginning.
  func sessions(
    like prefix: String, from place: KeyPlace?, completion: @escaping (Result<SessionStep, RedisError>) -> Void)
}

/// A place in a walk through all keys.
package struct KeyPlace: Sendable, Equatable {
  /// The server, where there are several.
  package var node: String
  package var cursor: String
}

package struct SessionStep: Sendable {
  /// Keys that Redis looks at in one step.
  static let keys = 1000

  package var sessions: [SessionName] = []
  /// Nil: the walk is over.
  package var next: KeyPlace?
}

/// The responses of a session that its state tells of.
package struct ResponseList: Sendable {
  /// Fields of the state that are looked at.
  package static let maxFields = 10_000

  /// In no order.
  package fileprivate(set) var responses: [(name: String, record: ResponseRecord)] = []
  /// There are fields that were not looked at.
  package fileprivate(set) var hasMore = false
  fileprivate var fields = 0

  package init() {}

  /// Takes one step of the walk through the hash.
  /// - Returns: where the next one begins; nil where the walk is over.
  mutating func take(_ reply: RESPReply) throws(RedisError) -> String? {
    if reply.error?.code == "WRONGTYPE" { return nil }
    guard var parts = try reply.accepted().elements, let next = parts.next()?.text, var pairs = parts.next()?.elements
    else { throw .unexpectedReply("HSCAN") }
    while let name = pairs.next()?.text, let value = pairs.next()?.text {
      fields += 1
      if let record = ResponseRecord(value) { responses.append((name, record)) }
    }
    if next != "0", fields >= Self.maxFields { hasMore = true }
    return next == "0" || hasMore ? nil : next
  }
}

/// What a producer of a response asks for again and again.
package struct InboxLook: Sendable {
  package static let count = 64

  /// Nil where nothing is known of it.
  package let record: ResponseRecord?
  /// Oldest first.
  package let messages: [RawEntry]
}

extension StoreConfiguration {
  /// The store of the Redis that a URL leads to.
  /// - Throws: where the certificates that it names can't be read.
  package static func open(
    _ configuration: StoreConfiguration, _ url: RedisURL, on eventLoop: any EventLoop,
    observe: @escaping @Sendable (StoreEvent) -> Void
  ) throws(RedisError) -> any SessionStoring {
    func connector(_ purpose: String, _ limits: RESPLimits) throws(RedisError) -> RedisConnector {
      var options = RedisConnector.Options()
      options.limits = limits
      options.clientName = "baton-\(configuration.node)-\(purpose)"
      return try RedisConnector(url, options: options)
    }
    switch url.topology {
    case .standalone:
      return try SessionStore(
        configuration, on: eventLoop, url: url,
        connector: { connection, limits throws(RedisError) in try connector(connection.rawValue, limits) },
        observe: observe)
    case .cluster:
      return try ClusterStore(
        configuration, on: eventLoop,
        connector: { connection, limits throws(RedisError) in try connector(connection.rawValue, limits) },
        observe: observe)
    case .sentinel(let master):
      let watch = SentinelWatch(
        try connector("sentinel", RESPLimits()), master: master, on: eventLoop, observe: { observe(.sentinel($0)) })
      return try SessionStore(
        configuration, on: eventLoop, sentinels: watch,
        connector: { connection, limits throws(RedisError) in
          SentinelConnector(try connector(connection.rawValue, limits), watch)
        }, observe: observe)
    }
  }
}
