import BatonProtocol
import BatonRedis
import BatonSession
import BatonStore
import NIOCore

/// What webhooks need of Redis. All that throws throws a `RedisError`.
package struct StoredWebhooks: Sendable {
  /// So long the node that sends is taken for alive after its last word. Milliseconds.
  static let claimMs = 6000

  /// A producer that has said nothing for so long may have died.
  static let patienceMs = LeaseWatch.patience.nanoseconds / 1_000_000

  private static let claimScript = """
    if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('PEXPIRE', KEYS[1], ARGV[2]) end
    return redis.call('SET', KEYS[1], ARGV[1], 'NX', 'PX', ARGV[2]) and 2 or 0
    """
  /// What was removed meanwhile stays removed.
  private static let keepScript = """
    return redis.call('HEXISTS', KEYS[1], ARGV[1]) == 1 and redis.call('HSET', KEYS[1], ARGV[1], ARGV[2]) or 0
    """
  /// More may have been counted meanwhile.
  private static let countedScript = """
    local left = redis.call('HINCRBY', KEYS[1], ARGV[1], -ARGV[2])
    return left > 0 and left or redis.call('HDEL', KEYS[1], ARGV[1])
    """
  private static let releaseScript =
    "return redis.call('GET', KEYS[1]) == ARGV[1] and redis.call('DEL', KEYS[1]) or 0"

  let store: any SessionStoring
  let notices: WebhookNotices
  let keyPrefix: String

  // MARK: who sends

  enum Claim: Sendable { case others, kept, begun }

  /// - Parameter token: random, one a node.
  /// - Returns: whether this node is the one that sends; `begun`: it was nobody, as far as Redis knows.
  func claim(_ token: String) async throws -> Claim {
    switch try await ask(Self.claimScript, token, "\(Self.claimMs)").integer {
    case 1: .kept
    case 2: .begun
    default: .others
    }
  }

  func release(_ token: String) async throws { _ = try await ask(Self.releaseScript, token) }

  private func ask(_ script: String, _ arguments: String...) async throws -> RESPReply {
    guard let session = SessionName("webhooks") else { throw RedisError.stopped }
    let words = [script, "1", "\(keyPrefix){\(session)}:sender"] + arguments
    let replies = try await store.send([RedisCommand("EVAL", words.map { .string($0) })], of: session)
    guard let reply = replies.first else { throw RedisError.unexpectedReply("EVAL") }
    return try reply.accepted()
  }

  // MARK: what is recorded

  /// Has the step record there, for so long.
  /// - Returns: the number of records.
  func arm(_ slot: WebhookSlot, milliseconds: Int64) async throws -> Int {
    let key = RedisCommand.Argument.string(slot.key(prefix: keyPrefix))
    return try await count(
      slot,
      [
        RedisCommand("HSET", key, .string(WebhookSlot.armed), "1"),
        RedisCommand("PEXPIRE", key, .integer(milliseconds)),
        RedisCommand("HLEN", key),
      ]) - 1
  }

  /// - Returns: the number of records; −1 where nothing is recorded there any more.
  func count(_ slot: WebhookSlot) async throws -> Int {
    try await count(slot, [RedisCommand("HLEN", .string(slot.key(prefix: keyPrefix)))]) - 1
  }

  private func count(_ slot: WebhookSlot, _ commands: [RedisCommand]) async throws -> Int {
    let replies = try await send(commands, slot)
    for reply in replies { try reply.accepted() }
    return try Int(clamping: replies.last?.decodedInteger("HLEN") ?? 0)
  }

  struct Records: Sendable {
    var ended: [WebhookRecord] = []
    var open: [WebhookWatch] = []
    /// What was not recorded because there was no room.
    var missing = 0
  }

  func records(_ slot: WebhookSlot) async throws -> Records {
    let replies = try await send([RedisCommand("HGETALL", .string(slot.key(prefix: keyPrefix)))], slot)
    var found = Records()
    var others: [RedisCommand.Argument] = []
    guard var fields = try replies.first?.accepted().elements else { return found }
    while let name = fields.next()?.bytes, let value = fields.next()?.text {
      let field = String(buffer: name)
      if let record = WebhookRecord(field: field, value: value) {
        found.ended.append(record)
      } else if let response = WebhookWatch(field: field) {
        found.open.append(response)
      } else if field == WebhookSlot.full {
        found.missing = Int(value) ?? 0
      } else if field != WebhookSlot.armed {
        others.append(.bytes(name))
      }
    }
    // Of names that no session has: whoever runs the step may give it any.
    if !others.isEmpty {
      let key = RedisCommand.Argument.string(slot.key(prefix: keyPrefix))
      try await send([RedisCommand("HDEL", [key] + others)], slot).first?.accepted()
    }
    if found.missing > 0 {
      let words = [Self.countedScript, "1", slot.key(prefix: keyPrefix), WebhookSlot.full, "\(found.missing)"]
      try await send([RedisCommand("EVAL", words.map { .string($0) })], slot).first?.accepted()
    }
    return found
  }

  /// Who produces a response may have died while nobody was attached: that is found out, and it ends by `producer_lost`.
  /// - Returns: false where there is nothing to watch any more.
  func watch(_ response: WebhookWatch, now: Int64) async throws -> Bool {
    guard let record = try await store.record(of: response.response, in: response.session), record.isLeased else {
      let slot = WebhookSlot(of: response.session)
      _ = try await send([RedisCommand("HDEL", .string(slot.key(prefix: keyPrefix)), .string(response.field))], slot)
      return false
    }
    if now - Int64(clamping: record.time) >= Self.patienceMs {
      store.eventLoop.execute { store.watchLeases(of: response.session) }
    }
    return true
  }

  /// With who has been told by now.
  func keep(_ record: WebhookRecord) async throws {
    let words = [Self.keepScript, "1", record.slot.key(prefix: keyPrefix), record.field, record.value]
    try await send([RedisCommand("EVAL", words.map { .string($0) })], record.slot).first?.accepted()
  }

  func remove(_ record: WebhookRecord) async throws {
    let key = RedisCommand.Argument.string(record.slot.key(prefix: keyPrefix))
    try await send([RedisCommand("HDEL", key, .string(record.field))], record.slot).first?.accepted()
  }

  private func send(_ commands: [RedisCommand], _ slot: WebhookSlot) async throws -> [RESPReply] {
    guard let session = slot.session else { throw RedisError.stopped }
    return try await store.send(commands, of: session)
  }

  // MARK: what it is about

  /// - Returns: nil where the session is no more.
  func message(about record: WebhookRecord) async throws -> WebhookMessage? {
    let request = PageRequest(session: record.session, span: .after(record.id), limit: 1, look: true)
    guard case .page(let page) = await store.read(request) else { throw RedisError.unexpectedReply("XRANGE") }
    guard page.info?.exists == true else { return nil }
    var message = WebhookMessage(record: record)
    // It may have been trimmed; the session goes on without it.
    guard let entry = page.entries.first, entry.id == record.id else { return message }
    message.entry = entry
    if let response = record.response, record.event != "input" {
      message.text = try await text(of: response, record)
    }
    return message
  }

  /// Bytes of an answer's text that a body holds.
  static let textLimit = 64 << 10
  /// Entries that are looked through for it.
  private static let textEntries = 10_000

  /// All of the text of a response; nil where that is too long, or not there any more.
  ///
  /// - Parameter end: the entry that ended it.
  private func text(of response: String, _ end: WebhookRecord) async throws -> ByteBuffer? {
    var (place, looked, limit) = (end.id, 0, 64)
    var text = ResponseText(response, upTo: end.n)
    while looked < Self.textEntries {
      let request = PageRequest(session: end.session, span: .before(place), limit: limit, look: true)
      guard case .page(let page) = await store.read(request) else { throw RedisError.unexpectedReply("XREVRANGE") }
      for entry in page.entries where entry.id < place {
        place = entry.id
        looked += 1
        switch text.take(entry) {
        case .more: break
        case .whole: return text.joined
        case .none: return nil
        }
      }
      if !page.more { return page.info.map { $0.entriesAdded == $0.length } == true ? text.wholeAtTheBeginning : nil }
      limit = min(limit * 2, 1000)
    }
    return nil
  }

  /// Whether a producer may have taken an input: it lived then, or one has begun since.
  func isTaken(_ input: WebhookRecord) async throws -> Bool {
    let list = try await store.responses(in: input.session)
    return list.responses.contains { _, record in
      let time = record.isLeased ? record.time &+ UInt64(Self.patienceMs) : record.time
      return time >= input.id.milliseconds
    }
  }
}
