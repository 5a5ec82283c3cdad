import NIOCore

extension RedisCommand {
  package static let ping = RedisCommand("PING")
  package static let clientID = RedisCommand("CLIENT", "ID")
  package static let role = RedisCommand("ROLE")
  /// The next command, or MULTI and all that it queues, is answered although the slot is only on its way to the server.
  package static let asking = RedisCommand("ASKING")
  /// See ``RESPReply/decodedTime()``.
  package static let time = RedisCommand("TIME")
  package static let multi = RedisCommand("MULTI")
  package static let exec = RedisCommand("EXEC")
  /// After it the connection's ``RedisConnection/onPush`` gets the notices; see ``RedisInvalidation``.
  package static let subscribeInvalidate = RedisCommand("SUBSCRIBE", "__redis__:invalidate")

  package static func subscribe(_ channel: String) -> RedisCommand { RedisCommand("SUBSCRIBE", .string(channel)) }
  package static func info(_ section: String) -> RedisCommand { RedisCommand("INFO", .string(section)) }

  /// Sends notices for keys that this connection reads to the subscriber with the given `CLIENT ID`.
  package static func trackingOn(redirect clientID: Int64) -> RedisCommand {
    RedisCommand("CLIENT", "TRACKING", "ON", "REDIRECT", .integer(clientID))
  }

  package static func exists(_ keys: String...) -> RedisCommand { RedisCommand("EXISTS", keys.map { .string($0) }) }
  package static func delete(_ keys: [String]) -> RedisCommand { RedisCommand("DEL", keys.map { .string($0) }) }
  /// Like ``delete(_:)``, with the memory given back in the background.
  package static func unlink(_ keys: [String]) -> RedisCommand { RedisCommand("UNLINK", keys.map { .string($0) }) }
  /// Answered with a status: `none`, `stream`, `string`, …
  package static func type(_ key: String) -> RedisCommand { RedisCommand("TYPE", .string(key)) }

  package static func expire(_ key: String, seconds: Int64) -> RedisCommand {
    RedisCommand("EXPIRE", .string(key), .integer(seconds))
  }

  package static func pexpire(_ key: String, milliseconds: Int64) -> RedisCommand {
    RedisCommand("PEXPIRE", .string(key), .integer(milliseconds))
  }
}

/// A notice of `CLIENT TRACKING`.
package enum RedisInvalidation: Equatable, Sendable {
  case keys([String])
  /// FLUSHALL, FLUSHDB, or the server's table was full.
  case everything

  /// Nil where the message is none.
  package init?(_ message: RESPReply) {
    guard var elements = message.elements, elements.count == 3, elements.next()?.text == "message",
      elements.next()?.text == "__redis__:invalidate", let payload = elements.next()
    else { return nil }
    if payload.isNull || message.isCut {
      self = .everything
    } else if let keys = payload.elements {
      // A key too long to be kept is none of ours.
      self = .keys(keys.compactMap(\.text))
    } else {
      return nil
    }
  }
}

/// A message of a channel that the connection has subscribed to.
package struct RedisMessage: Equatable, Sendable {
  package let channel: String
  package let text: String

  /// Nil where it is none, or not text.
  package init?(_ message: RESPReply) {
    guard var elements = message.elements, elements.count == 3, elements.next()?.text == "message",
      let channel = elements.next()?.text, let text = elements.next()?.text
    else { return nil }
    (self.channel, self.text) = (channel, text)
  }
}

extension RESPReply {
  /// `INFO`'s lines, by name.
  package func decodedInfo() throws(RedisError) -> [String: String] {
    guard let text = try accepted().text else { throw .unexpectedReply("INFO") }
    var lines: [String: String] = [:]
    for line in text.split(whereSeparator: \.isNewline) where !line.hasPrefix("#") {
      let pair = line.split(separator: ":", maxSplits: 1, omittingEmptySubsequences: false)
      if pair.count == 2 { lines[String(pair[0])] = String(pair[1]) }
    }
    return lines
  }

  /// Microseconds since 1970 on the server's clock.
  package func decodedTime() throws(RedisError) -> Int64 {
    guard var elements = try accepted().elements, let seconds = elements.next()?.integer,
      let micros = elements.next()?.integer
    else { throw .unexpectedReply("TIME") }
    return seconds * 1_000_000 + micros
  }

  package func decodedInteger(_ command: String) throws(RedisError) -> Int64 {
    guard let integer = try accepted().integer else { throw .unexpectedReply(command) }
    return integer
  }
}

/// ROLE's answer.
package enum RedisRole: Equatable, Sendable {
  case master(offset: Int64)
  /// `link` is `connect`, `connecting`, `sync` or `connected`.
  case replica(host: String, port: Int, link: String, offset: Int64)
  case sentinel

  package init(_ reply: RESPReply) throws(RedisError) {
    let parts = try reply.accepted().elements.map(Array.init) ?? []
    switch parts.first?.text {
    case "master" where parts.count > 1: self = .master(offset: parts[1].integer ?? 0)
    case "slave" where parts.count > 4:
      self = .replica(
        host: parts[1].text ?? "", port: Int(parts[2].integer ?? 0), link: parts[3].text ?? "",
        offset: parts[4].integer ?? 0)
    case "sentinel": self = .sentinel
    default: throw .unexpectedReply("ROLE")
    }
  }
}
