import NIOCore

/// Where Redis is and as whom to log in.
///
///     redis://[user[:password]@]host[:port][/db]    also valkey://
///     rediss://…                                    TLS, the certificate is always checked; also valkeys:// and tls://
///     unix:///path                                  also redis+unix:// and valkey+unix://[user[:password]@]/path
///     redis+sentinel://…@a[:26379],b,c/master[/db]  Sentinels, and the name of the master that they watch; rediss+sentinel://
///     redis+cluster://…@a[:6379],b,c                nodes of a Redis Cluster, any of them; rediss+cluster://
///
/// User and password are percent-decoded; `redis://:password@host` and `redis://password@host` log in the default user,
/// `redis://user:@host` a user without a password. Blanks and line breaks around the URL are no part of it.
///
/// Parameters, `?name=value&…`, with what other programs call them:
/// - `db`, `database`: the database, for a unix socket
/// - `cacert`, `ssl_ca_certs`: a PEM file of the authorities to trust instead of the system's
/// - `cert`, `ssl_certfile` and `key`, `ssl_keyfile`: PEM files of the client certificate and its private key
/// - `timeout`, `connect_timeout`, `socket_connect_timeout`, `dial_timeout`: for connecting and the login, in seconds
///   or with the unit `ms` or `s`; up to an hour
/// - `sentinel_user`, `sentinel_username` and `sentinel_password`: as whom to log in at the Sentinels
/// - `ssl_cert_reqs=required`, `ssl_check_hostname=true`, `protocol=2`: what is done anyway
package struct RedisURL: Sendable, Equatable, CustomStringConvertible {
  package enum Address: Sendable, Hashable, CustomStringConvertible {
    case tcp(host: String, port: Int)
    case unix(path: String)

    package var description: String {
      switch self {
      case .tcp(let host, let port): host.contains(":") ? "[\(host)]:\(port)" : "\(host):\(port)"
      case .unix(let path): path
      }
    }
  }

  /// How the masters are found.
  package enum Topology: Sendable, Equatable {
    /// The master is at the URL's address.
    case standalone
    /// The Sentinels at ``seeds`` say where the master of this name is.
    case sentinel(master: String)
    /// The nodes at ``seeds`` say which master has which slots.
    case cluster
  }

  package var topology = Topology.standalone
  /// Of the server; the first of ``seeds``, where there are any.
  package var address: Address
  /// Who is asked where the masters are; none where that is known.
  package private(set) var seeds: [Address] = []
  package var usesTLS = false
  /// PEM file of the authorities to trust instead of the system's.
  package var caFile: String?
  /// PEM file of the client's certificate, with what leads to its authority.
  package var certificateFile: String?
  /// PEM file of the private key for `certificateFile`; never without it.
  package var keyFile: String?
  /// Nil logs in the default user, where there is a password.
  package var username: String?
  package var password: String?
  /// It stood alone before the `@`, so it may have been meant as a user.
  package private(set) var isPasswordAlone = false
  /// 0 and up.
  package var database = 0
  /// For the connection, TLS and the login together; nil leaves it to the program.
  package var connectTimeout: TimeAmount?

  /// As whom to log in at Sentinels; nil logs nobody in.
  package private(set) var sentinelUsername: String?
  package private(set) var sentinelPassword: String?

  package init(address: Address) { self.address = address }

  /// One of the servers that this URL leads to.
  package func server(at address: Address) -> RedisURL {
    var url = self
    (url.topology, url.address, url.seeds) = (.standalone, address, [])
    return url
  }

  /// One of the Sentinels.
  package func sentinel(at address: Address) -> RedisURL {
    var url = server(at: address)
    (url.username, url.password, url.database) = (sentinelUsername, sentinelPassword, 0)
    return url
  }

  package init(_ url: String) throws(RedisError) {
    let url = url.drop(while: \.isWhitespace)
    let text = url.prefix(url.count - url.reversed().prefix(while: \.isWhitespace).count)
    do {
      try self.init(trimmed: text)
    } catch {
      throw Self.rawCharacter(text).map { .url($0) } ?? error
    }
  }

  private init(trimmed url: Substring) throws(RedisError) {
    let schemes = "redis://, rediss://, valkey://, valkeys://, unix://, redis+sentinel:// or redis+cluster://"
    guard let schemeEnd = url.firstRange(of: "://") else { throw .url("the Redis URL must begin with \(schemes)") }
    if url.contains(where: \.isNewline) { throw .url("the Redis URL must be one line; write %0A for a line break") }
    if url.contains("#") { throw .url("the Redis URL must not contain '#'; write %23") }
    var rest = url[schemeEnd.upperBound...]
    var query = Substring()
    if let mark = rest.firstIndex(of: "?") {
      query = rest[rest.index(after: mark)...]
      rest = rest[..<mark]
    }
    let pathStart = rest.firstIndex(of: "/") ?? rest.endIndex
    var authority = rest[..<pathStart]
    let path = rest[pathStart...]
    var login = Substring?.none
    if let at = authority.lastIndex(of: "@") {
      login = authority[..<at]
      authority = authority[authority.index(after: at)...]
    }

    let scheme = url[..<schemeEnd.lowerBound].lowercased()
    switch scheme {
    case "redis", "valkey", "rediss", "valkeys", "tls":
      if authority.contains(",") {
        throw .url(
          "the Redis URL names several servers: write redis+sentinel:// or redis+cluster://, whichever they are")
      }
      address = try Self.hostAndPort(authority)
      usesTLS = scheme != "redis" && scheme != "valkey"
      let name = path.dropFirst()
      let number = name.hasSuffix("/") ? name.dropLast() : name
      if !number.isEmpty { database = try Self.database(number) }
    case "redis+sentinel", "rediss+sentinel", "valkey+sentinel", "valkeys+sentinel":
      let parts = path.split(separator: "/")
      guard (1...2).contains(parts.count), let name = Self.decoded(parts[0]), !name.contains(where: \.isWhitespace)
      else {
        throw .url("the Redis URL must name the master that the Sentinels watch: redis+sentinel://HOST:26379/MASTER/0")
      }
      seeds = try Self.hostsAndPorts(authority, port: 26379)
      (address, topology, usesTLS) = (
        seeds[0], .sentinel(master: name), scheme.hasPrefix("rediss") || scheme.hasPrefix("valkeys")
      )
      if parts.count == 2 { database = try Self.database(parts[1]) }
    case "redis+cluster", "rediss+cluster", "valkey+cluster", "valkeys+cluster":
      seeds = try Self.hostsAndPorts(authority, port: 6379)
      (address, topology, usesTLS) = (seeds[0], .cluster, scheme.hasPrefix("rediss") || scheme.hasPrefix("valkeys"))
      let number = path.drop { $0 == "/" }
      if !number.isEmpty { database = try Self.database(number) }
    case "unix", "redis+unix", "valkey+unix":
      guard authority.isEmpty, path.count > 1, let path = Self.decoded(path) else {
        throw .url("a unix socket's Redis URL needs three slashes and an absolute path: unix:///run/redis.sock")
      }
      address = .unix(path: path)
    default: throw .url("the Redis URL must begin with \(schemes)")
    }
    if let login { try take(login) }
    for parameter in query.split(separator: "&") { try take(parameter: parameter) }
    if topology == .cluster, database != 0 {
      throw .url("a Redis Cluster has no databases: leave out the \(database) in the Redis URL, or write 0")
    }
    if case .sentinel = topology {
    } else if sentinelUsername != nil || sentinelPassword != nil {
      throw .url("the Redis URL's parameters sentinel_user and sentinel_password need redis+sentinel://")
    }
    if sentinelUsername != nil, sentinelPassword == nil {
      throw .url("the Redis URL's parameter sentinel_user needs sentinel_password")
    }
    if !usesTLS, caFile != nil || certificateFile != nil || keyFile != nil {
      throw .url("the Redis URL's parameters cacert, cert and key need rediss://")
    }
    if (certificateFile == nil) != (keyFile == nil) {
      throw .url("the Redis URL's parameters cert and key need each other: the files of a certificate and of its key")
    }
  }

  /// Without the password.
  package var description: String {
    let user = username ?? (password == nil ? nil : "")
    let login = user.map { "\($0)\(password == nil ? "" : ":***")@" } ?? ""
    let scheme = usesTLS ? "rediss" : "redis"
    let hosts = seeds.map(\.description).joined(separator: ",")
    switch topology {
    case .sentinel(let master): return "\(scheme)+sentinel://\(login)\(hosts)/\(master)/\(database)"
    case .cluster: return "\(scheme)+cluster://\(login)\(hosts)"
    case .standalone: break
    }
    switch address {
    case .tcp: return "\(scheme)://\(login)\(address)/\(database)"
    case .unix(let path):
      return "\(login.isEmpty ? "unix" : "redis+unix")://\(login)\(path)?db=\(database)"
    }
  }

  private mutating func take(_ login: Substring) throws(RedisError) {
    let parts = login.split(separator: ":", maxSplits: 1, omittingEmptySubsequences: false)
    guard let first = Self.decoded(parts[0]), let last = Self.decoded(parts[parts.count - 1]) else {
      throw .url("the Redis URL's user and password must be percent-encoded ('%' itself is %25)")
    }
    isPasswordAlone = parts.count == 1
    username = isPasswordAlone || first.isEmpty ? nil : first
    if username == nil, last.isEmpty {
      throw .url("the Redis URL's password must not be empty: leave out what is before '@'")
    }
    password = last
  }

  private mutating func take(parameter: Substring) throws(RedisError) {
    let pair = parameter.split(separator: "=", maxSplits: 1, omittingEmptySubsequences: false)
    guard pair.count == 2, let value = Self.decoded(pair[1]), !value.isEmpty else {
      throw .url("the Redis URL's parameters must be written name=value, percent-encoded")
    }
    func only(_ accepted: [String], _ why: String) throws(RedisError) {
      if !accepted.contains(value.lowercased()) { throw .url("\(why); leave out the Redis URL's parameter \(pair[0])") }
    }
    switch pair[0] {
    case "db", "database": database = try Self.database(value[...])
    case "cacert", "ssl_ca_certs": caFile = value
    case "cert", "ssl_certfile": certificateFile = value
    case "key", "ssl_keyfile": keyFile = value
    case "sentinel_user", "sentinel_username": sentinelUsername = value
    case "sentinel_password": sentinelPassword = value
    case "timeout", "connect_timeout", "socket_connect_timeout", "dial_timeout":
      connectTimeout = try Self.duration(value)
    case "ssl_cert_reqs": try only(["required", "cert_required", "2"], "a certificate is always checked")
    case "ssl_check_hostname": try only(["true", "1", "yes"], "the name in a certificate is always checked")
    case "protocol": try only(["2"], "RESP2 is spoken")
    default:
      let isName = pair[0].count <= 40 && pair[0].allSatisfy { $0.isASCII && ($0.isLetter || $0.isNumber || $0 == "_") }
      throw .url(
        "the Redis URL has a parameter that is not known here\(isName ? ", \(pair[0])" : ""); "
          + "the known ones are db, cacert, cert, key, timeout, sentinel_user and sentinel_password")
    }
  }

  /// What to write for a character of the user or password that is taken for a part of the URL, if there is one.
  private static func rawCharacter(_ url: Substring) -> String? {
    guard let schemeEnd = url.firstRange(of: "://"), let at = url.lastIndex(of: "@"), at > schemeEnd.upperBound else {
      return nil
    }
    let encoded: [Character: String] = ["/": "%2F", "?": "%3F", "#": "%23"]
    guard let raw = url[schemeEnd.upperBound..<at].first(where: { encoded[$0] != nil }), let code = encoded[raw],
      url[schemeEnd.upperBound] != "/"
    else { return nil }
    return
      "the user and password in the Redis URL must be percent-encoded: write \(code) for '\(raw)' (and %40 for '@')"
  }

  private static func duration(_ text: String) throws(RedisError) -> TimeAmount {
    let unit = text.hasSuffix("ms") ? "ms" : text.hasSuffix("s") ? "s" : ""
    guard let number = Double(text.dropLast(unit.count)), number.isFinite else {
      throw .url("the Redis URL's timeout must be a number of seconds, such as 5, 0.5 or 500ms")
    }
    let seconds = unit == "ms" ? number / 1000 : number
    guard (0.001...3600).contains(seconds) else { throw .url("the Redis URL's timeout must be 1 ms to 1 hour") }
    return .nanoseconds(Int64(seconds * 1_000_000_000))
  }

  private static func hostsAndPorts(_ text: Substring, port: Int) throws(RedisError) -> [Address] {
    var addresses: [Address] = []
    for part in text.split(separator: ",", omittingEmptySubsequences: false) {
      let address = try hostAndPort(part, port: port)
      if !addresses.contains(address) { addresses.append(address) }
    }
    return addresses
  }

  private static func hostAndPort(_ text: Substring, port standard: Int = 6379) throws(RedisError) -> Address {
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
    // A mark that joins the "@" before it makes another character of it.
    guard host.unicodeScalars.allSatisfy({ $0 != "@" && $0.value > 0x20 && $0.value != 0x7F }) else {
      throw .url("the Redis URL's host has a character that none has; the user and password must be percent-encoded")
    }
    guard let port else { return .tcp(host: String(host), port: standard) }
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
    let decoded = String(decoding: bytes, as: UTF8.self)
    return decoded.utf8.elementsEqual(bytes) ? decoded : nil
  }
}
