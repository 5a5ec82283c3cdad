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

  package let kind: Kind
  package let reason: Reason
  /// The server's own word, such as `WRONGTYPE` or `NOSCRIPT`; nil where the server said nothing.
  package let code: String?
  package let description: String

  init(_ kind: Kind, _ reason: Reason, code: String? = nil, _ description: String) {
    (self.kind, self.reason, self.code, self.description) = (kind, reason, code, description)
  }

  /// A reply arrived too late, so the connection was closed. What was asked may have been done.
  package static let timedOut = RedisError(.retry, .timedOut, "Redis did not answer in time")
  /// What was asked may have been done.
  package static let connectionLost = RedisError(.retry, .connectionLost, "the connection to Redis was lost")
  package static let stopped = RedisError(.retry, .stopped, "the connection to Redis is being closed")
  /// Nothing was sent.
  package static let overloaded = RedisError(
    .retry, .overloaded, "too many bytes wait for Redis on this connection; send less or raise maxPipelineBytes")

  package static func connectFailed(_ why: String) -> RedisError {
    RedisError(.retry, .connectFailed, "no connection to Redis: \(why)")
  }

  package static func protocolViolation(_ what: String) -> RedisError {
    RedisError(.fault, .protocolViolation, "Redis sent what is not a reply (\(what)); is it a Redis server?")
  }

  package static func unexpectedReply(_ command: String) -> RedisError {
    RedisError(.fault, .unexpectedReply, "Redis answered \(command) in an unexpected shape")
  }

  static func tls(_ why: String) -> RedisError {
    RedisError(
      .configuration, .tls,
      "TLS to Redis failed: \(why); check the certificate, the host name in the URL and its cacert parameter")
  }

  static func url(_ mend: String) -> RedisError { RedisError(.configuration, .url, mend) }

  /// A server's refusal, `<CODE> <words>`.
  package static func server(_ refusal: String) -> RedisError {
    let message = unwrapped(refusal)
    let code = message.prefix { $0 != " " }
    return RedisError(kind(code: code, message: message), .server, code: String(code), "Redis refused: \(message)")
  }

  /// Redis 6 hides what it refused to a script: `ERR Error running script (…): @user_script:1: -<CODE> <words>`.
  private static func unwrapped(_ message: String) -> String {
    guard message.hasPrefix("ERR Error running script"), let mark = message.firstRange(of: ": -") else {
      return message
    }
    return String(message[mark.upperBound...])
  }

  private static func kind(code: Substring, message: String) -> Kind {
    switch code {
    case "LOADING", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN", "BUSY", "READONLY", "OOM", "MISCONF", "NOREPLICAS",
      "UNBLOCKED", "NOMASTERLINK":
      .retry
    case "NOAUTH", "WRONGPASS", "NOPERM", "NOPROTO", "DENIED", "MOVED", "ASK":
      .configuration
    case "ERR" where message.hasPrefix("ERR max number of clients"):
      .retry
    case "ERR"
    where ["ERR unknown", "ERR invalid password", "ERR AUTH", "ERR Client sent AUTH", "ERR DB index"]
      .contains { message.hasPrefix($0) }:
      .configuration
    default: .fault
    }
  }
}
