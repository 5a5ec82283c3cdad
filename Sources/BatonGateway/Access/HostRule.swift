import NIOHTTP1

/// Which names a request may ask for a gateway by (RFC 9112 section 3.2). A page whose own name is made to lead here, by
/// DNS, is of the same origin as the gateway for its browser: only the name gives it away.
package struct HostRule: Sendable {
  /// Nil: whatever leads here.
  private let patterns: [Pattern]?

  package static let any = HostRule(patterns: nil)

  private init(patterns: [Pattern]?) { self.patterns = patterns }

  /// - Parameters:
  ///   - allowed: entries of `--allowed-hosts`, beside the names of this machine's loopback.
  ///   - publicHost: the authority of `--public-url`.
  package init(allowed: [String], publicHost: String?) {
    let own = publicHost.flatMap { Pattern(HostRule.split($0).host) }
    patterns = [.loopback] + allowed.compactMap(Pattern.init) + (own.map { [$0] } ?? [])
  }

  package enum Pattern: Sendable, Equatable {
    case every, loopback
    /// `isWild`: with one more label in front. Without a port any will do.
    case name(Substring, port: Substring?, isWild: Bool)

    /// Nil where it could match nothing.
    package init?(_ text: some StringProtocol) {
      let text = text.lowercased()
      if text == "*" {
        self = .every
        return
      }
      let isWild = text.hasPrefix("*.")
      let rest = isWild ? String(text.dropFirst(2)) : text
      guard !rest.contains("*"), OriginRule.isAuthority(rest[...]) else { return nil }
      let (host, port) = HostRule.split(rest)
      self = .name(host, port: port, isWild: isWild)
    }

    fileprivate func matches(_ host: Substring, _ port: Substring?) -> Bool {
      switch self {
      case .every: return true
      case .loopback: return HostRule.isLoopback(host)
      case .name(let name, let wanted, let isWild):
        guard wanted == nil || wanted == port else { return false }
        guard isWild else { return host == name }
        guard let dot = host.firstIndex(of: ".") else { return false }
        return dot > host.startIndex && host[host.index(after: dot)...] == name
      }
    }
  }

  /// - Throws: `Problem` 400, 403.
  package func check(_ head: HTTPRequestHead) throws(Problem) {
    let hosts = head.headers["Host"]
    guard hosts.count == 1 || hosts.isEmpty && !head.knowsChunks else { throw .badHost }
    for authority in [hosts.first, Target.authority(head.uri).map(String.init)] {
      guard let authority else { continue }
      let (host, port) = HostRule.split(authority.lowercased())
      guard OriginRule.isAuthority(port.map { "\(host):\($0)" } ?? host) else { throw .badHost }
      guard let patterns else { continue }
      guard patterns.contains(where: { $0.matches(host, port) }) else { throw .hostNotAllowed }
    }
  }

  /// The host without the dot that ends an absolute name, and the port.
  private static func split(_ authority: String) -> (host: Substring, port: Substring?) {
    var host = authority[...]
    var port: Substring?
    if let colon = authority.lastIndex(of: ":"), !authority[colon...].contains("]") {
      (host, port) = (authority[..<colon], authority[authority.index(after: colon)...])
    }
    if host.hasSuffix(".") { host.removeLast() }
    return (host, port)
  }

  private static func isLoopback(_ host: Substring) -> Bool {
    if host == "localhost" || host.hasSuffix(".localhost") || host == "[::1]" { return true }
    let parts = host.split(separator: ".", omittingEmptySubsequences: false)
    return parts.count == 4 && parts[0] == "127"
      && parts.allSatisfy { part in part.utf8.allSatisfy { (48...57).contains($0) } && UInt8(part) != nil }
  }
}

extension Problem {
  static let hostNotAllowed = Problem(
    .forbidden, "host-not-allowed",
    "The gateway is not reached by this host name. It asks for no tokens, so only local names are accepted: list others in "
      + "--allowed-hosts.")
}
