/// Why Redis did not answer as asked, and what to do about it.
package struct RedisError: Error, Equatable, Sendable, CustomStringConvertible {
  package enum Kind: Sendable {
    /// Passes by itself: try again, on a new connection where this one is gone.
    case retry
    /// Only the operator can mend it: address, credentials, rights, certificate, server version.
    case configuration
    /// Something here or there is broken.
    case fault
  }

  package enum Reason: Equatable, Sendable {
    case connectFailed
    case connectionLost
    case timedOut
    case overloaded
    case stopped
    case server
    case protocolViolation
    case unexpectedReply
    case tls
    case url
  }

  /// What the server's refusal means. Whatever it is, a refusal is never an answer.
  package enum Meaning: Equatable, Sendable {
    /// The server said nothing: nothing was sent, or what was asked may have been done.
    case unanswered
    /// Nothing works until it passes by itself: it loads its data, has lost its master, runs a long script.
    case shutsForNow
    /// Nothing works until the operator mends it: the credentials are wrong or missing.
    case shutsUntilMended
    /// The server has no room for another client.
    case shutsNewcomers
    /// Reading goes on; what writes is refused, until it passes or is mended.
    case refusesWrites
    /// This command or key, for a moment.
    case refusesForNow
    /// This command or key: no right to it, another type, not known here.
    case refusesThis
    /// Words that have no meaning here: a refusal of what was asked.
    case refused
  }

  package let kind: Kind
  package let meaning: Meaning
  package let reason: Reason
  /// Where the key is said to be; nil where it is not elsewhere.
  package let redirection: Redirection?
  /// The server's own word, such as `WRONGTYPE` or `NOSCRIPT`; nil where the server said nothing.
  package let code: String?
  package let description: String

  init(_ kind: Kind, _ reason: Reason, _ description: String) {
    (self.kind, self.meaning, self.reason, code, redirection) = (kind, .unanswered, reason, nil, nil)
    self.description = description
  }

  /// A reply arrived too late, so the connection was closed. What was asked may have been done.
  package static let timedOut = RedisError(.retry, .timedOut, "Redis did not answer in time")
  /// What was asked may have been done.
  package static let connectionLost = RedisError(.retry, .connectionLost, "the connection to Redis was lost")
  /// Nothing was sent, and nothing has failed yet.
  package static let notYetConnected = RedisError(.retry, .connectFailed, "no connection to Redis has been made yet")
  package static let stopped = RedisError(.retry, .stopped, "the connection to Redis is being closed")
  /// Nothing was sent.
  package static let overloaded = RedisError(
    .retry, .overloaded, "too many bytes wait for Redis on this connection; send less or raise maxPipelineBytes")

  package static func connectFailed(_ why: String) -> RedisError {
    RedisError(.retry, .connectFailed, "no connection to Redis: \(why)")
  }

  /// The server is not the one to talk to: what was asked may have been done.
  package static func misplaced(_ why: String) -> RedisError {
    RedisError(.retry, .connectionLost, "another Redis server is the master: \(why)")
  }

  /// Nothing was done: the keys' slot is on its way from one master to another.
  package static let inMotion = RedisError(.retry, .overloaded, "the slot of the keys is on its way to another master")

  /// It was done, and a failover now may undo it.
  package static func notReplicated(_ have: Int64, of wanted: Int) -> RedisError {
    RedisError(.retry, .overloaded, "\(have) of the \(wanted) replicas that are to have it have it")
  }

  package static func protocolViolation(_ what: String) -> RedisError {
    RedisError(.fault, .protocolViolation, "Redis sent what is not a reply (\(what)); is it a Redis server?")
  }

  package static func unexpectedReply(_ command: String) -> RedisError {
    RedisError(.fault, .unexpectedReply, "Redis answered \(command) in an unexpected shape")
  }

  static func tls(_ why: String) -> RedisError {
    RedisError(.configuration, .tls, "no TLS to Redis: \(why)")
  }

  static func url(_ mend: String) -> RedisError { RedisError(.configuration, .url, mend) }

  /// A server's refusal, `<CODE> <words>`.
  package static func server(_ refusal: String) -> RedisError { RedisError(refusal: refusal) }

  /// Characters of a server's words that are kept.
  private static let mostWords = 500

  private init(refusal: String) {
    let cause = Self.cause(refusal)
    let isPlain = cause.utf8.count <= Self.mostWords && cause.utf8.allSatisfy { (0x20..<0x7F).contains($0) }
    let message =
      isPlain
      ? cause
      : String(
        cause.unicodeScalars.prefix(Self.mostWords).map { scalar in
          switch scalar.properties.generalCategory {
          case .control, .format, .lineSeparator, .paragraphSeparator: "\u{FFFD}"
          default: Character(scalar)
          }
        })
    let code = String(message.prefix { $0 != " " })
    meaning =
      switch code {
      case "LOADING", "MASTERDOWN", "NOMASTERLINK", "CLUSTERDOWN", "BUSY": .shutsForNow
      case "NOAUTH", "WRONGPASS", "DENIED", "NOPROTO": .shutsUntilMended
      case "READONLY", "OOM", "MISCONF", "NOREPLICAS": .refusesWrites
      case "TRYAGAIN", "UNBLOCKED": .refusesForNow
      case "NOPERM", "WRONGTYPE", "NOSCRIPT", "CROSSSLOT", "MOVED", "ASK": .refusesThis
      // No code of its own.
      case "ERR" where message.hasPrefix("ERR max number of clients"): .shutsNewcomers
      case "ERR" where message.hasPrefix("ERR unknown"): .refusesThis
      default: .refused
      }
    kind =
      switch meaning {
      case .unanswered, .shutsForNow, .shutsNewcomers, .refusesWrites, .refusesForNow: .retry
      case .shutsUntilMended: .configuration
      case .refusesThis: code == "WRONGTYPE" || code == "NOSCRIPT" ? .fault : .configuration
      case .refused: .fault
      }
    redirection = Redirection(code, message)
    let hint = redirection == nil ? "" : " (it is a node of a cluster: write redis+cluster:// in the Redis URL)"
    (reason, self.code, description) = (.server, code, "Redis refused: \(message)\(hint)")
  }

  /// Of a login's AUTH or SELECT: whatever its words, it must be mended, unless it passes.
  init(login error: RedisError, hint: String) {
    let passes = error.kind == .retry
    kind = passes ? .retry : .configuration
    meaning = passes ? error.meaning : .shutsUntilMended
    (reason, code, redirection) = (error.reason, error.code, error.redirection)
    description = error.description + (passes ? "" : hint)
  }

  /// Nothing else would be answered on this connection either. A set-up that only tries whether the server is there
  /// fails with such an error and with no other refusal.
  package var shuts: Bool {
    switch meaning {
    case .unanswered, .shutsForNow, .shutsUntilMended, .shutsNewcomers: true
    case .refusesWrites, .refusesForNow, .refusesThis, .refused: false
    }
  }

  /// The server is no master, or has lost its own: look for the master again, on a new connection.
  package var wantsMaster: Bool {
    switch code {
    case "READONLY", "MASTERDOWN", "NOMASTERLINK", "LOADING", "CLUSTERDOWN": true
    default: false
    }
  }

  /// Where a cluster says that a key is.
  package enum Redirection: Sendable, Equatable {
    /// It has another owner: the map of slots is out of date.
    case moved
    /// It may be on its way: ask there, once, with `ASKING`.
    case ask(RedisURL.Address)

    /// `MOVED slot host:port`, `ASK slot host:port`. Without a host it is the one that was asked, under another port:
    /// who is asked for the map can tell.
    init?(_ code: String, _ message: String) {
      guard code == "MOVED" || code == "ASK" else { return nil }
      self = .moved
      guard code == "ASK", let place = message.split(separator: " ").last, let colon = place.lastIndex(of: ":"),
        colon > place.startIndex, let port = Int(place[place.index(after: colon)...]), (1...65535).contains(port)
      else { return }
      self = .ask(.tcp(host: String(place[..<colon]), port: port))
    }
  }

  /// What stands behind another refusal: that of a command inside a script, or of one that kept EXEC from running.
  private static func cause(_ message: String) -> String {
    // Redis 7: `EXECABORT Transaction discarded because of: <CODE> <words>`.
    if message.hasPrefix("EXECABORT"), let mark = message.firstRange(of: "because of: ") {
      return String(message[mark.upperBound...])
    }
    // Redis 6: `ERR Error running script (…): @user_script:1: @user_script: 1: -<CODE> <words>`, also without the dash.
    if message.hasPrefix("ERR Error running script"), let script = message.firstRange(of: "@user_script:") {
      for mark in message[script.upperBound...].ranges(of: ": ") {
        let inner = message[mark.upperBound...].drop { $0 == "-" }
        let code = inner.prefix { $0 != " " }
        if code.count > 2, code.allSatisfy(\.isUppercase) { return String(inner) }
      }
    }
    // Redis 7.0, of a command in a script: `ERR <CODE> <words> script: …, on @user_script:1.`
    if message.hasPrefix("ERR "), message.utf8.contains(UInt8(ascii: "@")), message.contains(", on @user_script:") {
      let inner = message.dropFirst(4)
      let code = inner.prefix { $0 != " " }
      if code.count > 2, code.allSatisfy(\.isUppercase) { return String(inner) }
    }
    return message
  }
}
