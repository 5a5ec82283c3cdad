import BatonRedis
import NIOCore

/// Tries everything that a gateway does in Redis, on keys that no session has, and leaves nothing there.
package enum StoreCheck {
  /// A command, key or channel that Redis refuses to this user.
  package struct Refusal: Sendable, Equatable, CustomStringConvertible {
    /// As in `XADD baton:{}:inbox`.
    package let what: String
    package let error: RedisError

    package var description: String { "\(what): \(error)" }
  }

  /// - Parameter tag: what the server's own keys have between their braces, where it is one of a cluster's masters.
  /// - Returns: What is refused; nothing where all is well.
  /// - Throws: ``RedisError`` where Redis does not answer, or answers nobody.
  package static func run(
    _ configuration: StoreConfiguration, tag: String = "", on connection: RedisConnection
  ) async throws -> [Refusal] {
    let stream = "\(configuration.keyPrefix){\(tag)}"
    let (producers, inbox, keys) = (stream + ":producers", stream + ":inbox", stream + ":keys")
    func command(_ words: String...) -> (what: String, RedisCommand) {
      let name = words.count > 1 && ["XINFO", "CLIENT", "CLUSTER"].contains(words[0]) ? 2 : 1
      let key = words.dropFirst(name).first { $0.hasPrefix(stream) || $0.hasPrefix("__") }
      return (
        (words.prefix(name) + [key].compactMap { $0 }).joined(separator: " "),
        RedisCommand(words[0], words.dropFirst().map { .string($0) })
      )
    }
    var tried = [stream, inbox].map { command("XADD", $0, "*", "-", "-") }
    tried += [producers, keys].map { command("HSET", $0, "-", "-") }
    tried += [
      command("XREAD", "COUNT", "1", "STREAMS", stream, "0-0"), command("XRANGE", stream, "-", "+", "COUNT", "1"),
      command("XREVRANGE", stream, "+", "-", "COUNT", "1"), command("XREVRANGE", inbox, "+", "-", "COUNT", "1"),
      command("XINFO", "STREAM", stream), command("INFO", "server"), command("TIME"), command("TYPE", stream),
      command("PTTL", stream),
      command("HGET", producers, "-"), command("HMGET", producers, "-"), command("HSCAN", producers, "0"),
      command("HLEN", producers), command("HEXISTS", producers, "-"), command("HKEYS", producers),
      command("HDEL", producers, "-"), command("HGET", keys, "-"), command("HINCRBY", keys, "#", "1"),
      command("HDEL", keys, "-"), command("EVAL", "return 1", "0"),
      command("EVALSHA", RedisScript(AppendScript.source).hash, "0"),
      command("MULTI"), command("EXEC"),
    ]
    tried += [stream, producers, inbox, keys].map { command("PEXPIRE", $0, "60000") }
    tried += [stream, producers, inbox, keys].map { command("DEL", $0) }
    let channel = WebhookSlot.channel(prefix: configuration.keyPrefix)
    if configuration.webhooks != nil {
      let (pending, sender) = ("\(stream):pending", "\(stream):sender")
      tried += [
        command("HSET", pending, "-", "-"), command("HLEN", pending), command("HGETALL", pending),
        command("HEXISTS", pending, "-"), command("HDEL", pending, "-"), command("PEXPIRE", pending, "60000"),
        command("SET", sender, "-", "NX", "PX", "60000"), command("GET", sender), command("DEL", pending),
        command("DEL", sender), (what: "PUBLISH \(channel)", RedisCommand("PUBLISH", .string(channel), "-")),
      ]
    }
    if configuration.countsSessions {
      let sessions = "\(stream):sessions"
      tried += [
        command("ZADD", sessions, "0", "-"), command("ZSCORE", sessions, "-"), command("ZCOUNT", sessions, "0", "0"),
        command("ZRANGEBYSCORE", sessions, "0", "0", "LIMIT", "0", "1"), command("ZREM", sessions, "-"),
        command("PEXPIRE", sessions, "60000"), command("DEL", sessions),
      ]
    }
    if !tag.isEmpty { tried += [command("CLUSTER", "NODES"), command("ASKING"), command("PING")] }
    if configuration.wakeup != .poll {
      // The last one makes the connection good for nothing else.
      tried += [
        command("CLIENT", "ID"), command("CLIENT", "TRACKING", "OFF"), command("SUBSCRIBE", "__redis__:invalidate"),
      ]
      if configuration.webhooks != nil {
        tried.append((what: "SUBSCRIBE \(channel)", RedisCommand.subscribe(channel)))
      }
    }
    let replies = try await connection.send(tried.map(\.1), timeout: .seconds(10))
    var refusals: [Refusal] = []
    for ((what, _), reply) in zip(tried, replies) {
      guard let error = reply.error else { continue }
      if error.shuts { throw error }
      // The step is not known yet, and without arguments it fails: both show that it may be run.
      if what == "EVALSHA", error.meaning != .refusesThis || error.code == "NOSCRIPT" { continue }
      // The key is not there where XADD was refused.
      if what.hasPrefix("XINFO"), error.meaning == .refused { continue }
      // EXEC after a MULTI that was refused.
      if what == "EXEC", refusals.last?.what == "MULTI" { continue }
      refusals.append(Refusal(what: what, error: error))
    }
    return refusals
  }
}
