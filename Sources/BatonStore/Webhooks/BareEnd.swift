import BatonProtocol
import BatonRedis

/// The end of a response as who follows its session reads it. The step has recorded it for webhooks, unless it was written by
/// a bare XADD: then it is recorded now.
struct BareEnd {
  private static let script = """
    local id = string.match(redis.call('HGET', KEYS[1], ARGV[1]) or '', '^%d+ %d+ %a+ %S+ (%S+)')
    local count = redis.call('HLEN', KEYS[2])
    if id == ARGV[2] or count == 0 or count >= 1000 or redis.call('HEXISTS', KEYS[2], ARGV[3]) == 1 then return 0 end
    redis.call('HSET', KEYS[2], ARGV[3], ARGV[4])
    redis.pcall('PUBLISH', ARGV[5], ARGV[6])
    return 1
    """

  private let session: SessionName
  private let entry: Entry
  private let response: String

  /// Nil for any other entry.
  init?(_ entry: Entry, of session: SessionName) {
    guard entry.endsResponse, let response = entry.response else { return nil }
    (self.session, self.entry, self.response) = (session, entry, response)
  }

  func recorded(prefix: String) -> RedisCommand {
    let slot = WebhookSlot(of: session)
    let words = [
      Self.script, "2", SessionKeys(session, prefix: prefix).producers, slot.key(prefix: prefix),
      response, "\(entry.id)", "\(session.qualified) \(entry.id)", "\(entry.event) \(response) 0",
      WebhookSlot.channel(prefix: prefix), slot.letters,
    ]
    return RedisCommand("EVAL", words.map { .string($0) })
  }
}
