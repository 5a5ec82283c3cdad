/// Where Redis is and as whom to log in.
///
///     redis://[user[:password]@]host[:port][/db]
///     rediss://…[?cacert=PATH]                  TLS, the certificate is always checked
///     unix:///path[?db=N]                       also redis+unix://[user[:password]@]/path[?db=N]
///
/// User and password are percent-decoded; `redis://:password@host` and `redis://password@host` log in the default user.
package struct RedisURL: Sendable, Equatable, CustomStringConvertible {
  package enum Address: Sendable, Equatable {
    case tcp(host: String, port: Int)
    case unix(path: String)
  }

  package var address: Address
  package var usesTLS = false
  /// PEM file of the authorities to trust instead of the system's.
  package var caFile: String?
  package var username: String?
  package var password: String?
  /// 0 and up.
  package var database = 0

  package init(address: Address) { self.address = address }

  package init(_ url: String) throws(RedisError) {
    guard let schemeEnd = url.firstRange(of: "://") else {
      throw .url("the Redis URL must begin with redis://, rediss:// or unix://")
    }
    var rest = url[schemeEnd.upperBound...]
    if rest.contains("#") { throw .url("the Redis URL must not contain '#'; write %23") }
    var query: [(name: Substring, value: String)] = []
    if let mark = rest.firstIndex(of: "?") {
      for part in rest[rest.index(after: mark)...].split(separator: "&") {
        let pair = part.split(separator: "=", maxSplits: 1, omittingEmptySubsequences: false)
        guard pair.count == 2, let value = Self.decoded(pair[1]) else {
          throw .url("the Redis URL's parameters must be written name=value")
        }
        query.append((pair[0], value))
      }
      rest = rest[..<mark]
    }
    let pathStart = rest.firstIndex(of: "/") ?? rest.endIndex
    var authority = rest[..<pathStart]
    let path = rest[pathStart...]
    var login: (username: String?, password: String?) = (nil, nil)
    if let at = authority.lastIndex(of: "@") {
      login = try Self.login(authority[..<at])
      authority = authority[authority.index(after: at)...]
    }

    switch url[..<schemeEnd.lowerBound].lowercased() {
    case "redis", "rediss":
      address = try Self.hostAndPort(authority)
      usesTLS = url.prefix(6).lowercased() == "rediss"
      let name = path.dropFirst()
      if !name.isEmpty { database = try Self.database(name) }
    case "unix", "redis+unix":
      guard authority.isEmpty, path.count > 1, let path = Self.decoded(path) else {
        throw .url("a unix socket's Redis URL needs three slashes and an absolute path: unix:///run/redis.sock")
      }
      address = .unix(path: path)
    default:
      throw .url("the Redis URL must begin with redis://, rediss:// or unix://")
    }
    (username, password) = login

    for (name, value) in query {
      switch name {
      case "db": database = try Self.database(value[...])
      case "cacert":
        guard usesTLS else { throw .url("the Redis URL's parameter cacert needs rediss://") }
        caFile = value
      default: throw .url("the Redis URL knows the parameters db and cacert, and no other")
      }
    }
  }

  /// Without the password.
  package var description: String {
    let user = username ?? (password == nil ? nil : "")
    let login = user.map { "\($0)\(password == nil ? "" : ":***")@" } ?? ""
    switch address {
    case .tcp(let host, let port):
      let host = host.contains(":") ? "[\(host)]" : host
      return "\(usesTLS ? "rediss" : "redis")://\(login)\(host):\(port)/\(database)"
    case .unix(let path):
      return "\(login.isEmpty ? "unix" : "redis+unix")://\(login)\(path)?db=\(database)"
    }
  }

  private static func login(_ text: Substring) throws(RedisError) -> (username: String?, password: String?) {
    let parts = text.split(separator: ":", maxSplits: 1, omittingEmptySubsequences: false)
    guard let first = decoded(parts[0]), let last = decoded(parts[parts.count - 1]), !last.isEmpty else {
      throw .url("the Redis URL's user and password must be percent-encoded and the password not empty")
    }
    return (parts.count == 1 || first.isEmpty ? nil : first, last)
  }

  private static func hostAndPort(_ text: Substring) throws(RedisError) -> Address {
    var host = text
    var port: Substring?
    if text.hasPrefix("["), let bracket = text.firstIndex(of: "]") {
      host = text[text.index(after: text.startIndex)..<bracket]
      let after = text[text.index(after: bracket)...]
      if after.hasPrefix(":") { port = after.dropFirst() } else if !after.isEmpty { port = "" }
    } else if let colon = text.lastIndex(of: ":") {
      (host, port) = (text[..<colon], text[text.index(after: colon)...])
      if host.contains(":") { throw .url("the Redis URL's IPv6 address must be in brackets: redis://[::1]:6379") }
    }
    if host.isEmpty { throw .url("the Redis URL has no host: redis://HOST:PORT/DB") }
    guard let port else { return .tcp(host: String(host), port: 6379) }
    guard port.allSatisfy(\.isNumber), let number = Int(port), (1...65535).contains(number) else {
      throw .url(
        "the Redis URL's port must be 1 to 65535; special characters in the password must be percent-encoded ('/' is %2F)"
      )
    }
    return .tcp(host: String(host), port: number)
  }

  private static func database(_ text: Substring) throws(RedisError) -> Int {
    guard let number = Int(text), number >= 0 else {
      throw .url("the Redis URL's database must be a number from 0: redis://HOST:PORT/0")
    }
    return number
  }

  private static func decoded(_ text: Substring) -> String? {
    guard text.contains("%") else { return String(text) }
    var bytes: [UInt8] = []
    var rest = text.utf8[...]
    while let byte = rest.popFirst() {
      guard byte == UInt8(ascii: "%") else {
        bytes.append(byte)
        continue
      }
      guard rest.count >= 2, let value = UInt8(Substring(rest.prefix(2)), radix: 16) else { return nil }
      bytes.append(value)
      rest = rest.dropFirst(2)
    }
    return String(validating: bytes, as: UTF8.self)
  }
}
