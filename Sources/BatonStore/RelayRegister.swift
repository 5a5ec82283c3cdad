import BatonProtocol
import BatonRedis

/// The answers that another node could go on with, of all nodes: which are open, and which a node that goes away has handed
/// over (PROTOCOL 9). Two hashes in one slot. All that throws throws a ``RedisError``.
package struct RelayRegister: Sendable {
  package struct Answer: Sendable, Hashable {
    package let session: SessionName
    package let response: String

    package init(session: SessionName, response: String) { (self.session, self.response) = (session, response) }

    /// Nil for any other shape.
    init?(field: String) {
      let parts = field.split(separator: " ", omittingEmptySubsequences: false)
      guard parts.count == 2, let session = SessionName(qualified: String(parts[0])),
        Shape.name(parts[1].utf8, upTo: 128)
      else { return nil }
      self.init(session: session, response: String(parts[1]))
    }

    var field: String { "\(session.qualified) \(response)" }
  }

  /// Answers that are known; of more nobody finds out that their node has died before somebody attaches.
  static let most = 10_000
  /// One node watches, and another one when it has said nothing for so long. Milliseconds.
  static let claimMs = 10_000
  /// Answers that a node takes at a time.
  package static let step = 16

  private static let addScript = """
    if redis.call('HEXISTS', KEYS[1], ARGV[1]) == 0 and redis.call('HLEN', KEYS[1]) >= tonumber(ARGV[2]) then return 0 end
    redis.call('HSET', KEYS[1], ARGV[1], '1')
    redis.call('PEXPIRE', KEYS[1], 86400000)
    return 1
    """
  private static let watchScript = """
    local time = redis.call('TIME')
    local now = time[1] * 1000 + math.floor(time[2] / 1000)
    local who, seen = string.match(redis.call('HGET', KEYS[1], '/') or '', '^(%S+) (%d+)$')
    if who and who ~= ARGV[1] and now - seen < tonumber(ARGV[2]) then return {} end
    if redis.call('HLEN', KEYS[1]) == 0 then return {} end
    redis.call('HSET', KEYS[1], '/', ARGV[1] .. ' ' .. string.format('%.0f', now))
    return redis.call('HKEYS', KEYS[1])
    """
  private static let takeScript = """
    local taken = {}
    for i, name in ipairs(redis.call('HKEYS', KEYS[1])) do
      if i > tonumber(ARGV[1]) then break end
      redis.call('HDEL', KEYS[1], name)
      taken[i] = name
    end
    return taken
    """

  private let store: any SessionStoring
  private let slot: SessionName
  private let open: String
  private let handed: String

  /// Nil never: the name is one that a session could have.
  package init?(_ store: any SessionStoring, keyPrefix: String) {
    guard let slot = SessionName("relays") else { return nil }
    (self.store, self.slot) = (store, slot)
    open = slot.key(prefix: keyPrefix) + ":open"
    handed = slot.key(prefix: keyPrefix) + ":handed"
  }

  package func add(_ answer: Answer) async throws {
    _ = try await run(Self.addScript, open, answer.field, "\(Self.most)")
  }

  package func remove(_ answer: Answer) async throws {
    try await send(RedisCommand("HDEL", .string(open), .string(answer.field)))
  }

  /// Whoever takes it first goes on with it.
  package func handOver(_ answer: Answer) async throws {
    _ = try await run(Self.addScript, handed, answer.field, "\(Self.most)")
  }

  /// What others have handed over; nobody else is given it.
  /// - Parameter most: so many of them.
  package func take(most: Int) async throws -> [Answer] {
    try await answers(run(Self.takeScript, handed, "\(min(most, Self.step))"))
  }

  /// What is open, for the one node that watches over it; nothing for the others.
  /// - Parameter token: random, one a node; no white space.
  package func watched(by token: String) async throws -> [Answer] {
    try await answers(run(Self.watchScript, open, token, "\(Self.claimMs)"))
  }

  private func answers(_ reply: RESPReply) throws(RedisError) -> [Answer] {
    guard let elements = reply.elements else { throw .unexpectedReply("EVAL") }
    return elements.compactMap { $0.text.flatMap(Answer.init(field:)) }
  }

  private func run(_ script: String, _ key: String, _ arguments: String...) async throws -> RESPReply {
    try await send(RedisCommand("EVAL", ([script, "1", key] + arguments).map { .string($0) }))
  }

  @discardableResult private func send(_ command: RedisCommand) async throws -> RESPReply {
    guard let reply = try await store.send([command], of: slot).first else { throw RedisError.unexpectedReply("EVAL") }
    return try reply.accepted()
  }
}
