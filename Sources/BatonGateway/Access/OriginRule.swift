import Foundation

/// Which `Origin` a request may come from (PROTOCOL 3). Requests without one are no browser's, and pass.
package struct OriginRule: Sendable {
  /// Exact scheme, host and port; nil: only loopback origins and that of `--public-url`.
  package var allowed: Set<String>?
  package var publicOrigin: String?

  package init(allowed: Set<String>? = nil, publicOrigin: String? = nil) {
    self.allowed = allowed.map { Set($0.compactMap(OriginRule.normalized)) }
    self.publicOrigin = publicOrigin.flatMap(OriginRule.normalized)
  }

  package func allows(_ origins: [String]) -> Bool {
    guard let origin = origins.first else { return true }
    guard origins.count == 1, let origin = OriginRule.normalized(origin) else { return false }
    if let allowed { return allowed.contains(origin) }
    return origin == publicOrigin || OriginRule.isLoopback(origin)
  }

  package func check(_ origins: [String]) throws(Problem) {
    if !allows(origins) {
      throw Problem(
        .forbidden, "origin-not-allowed",
        "Pages of this origin may not use the gateway; list it, with scheme, host and port, in --allowed-origins.")
    }
  }

  /// `scheme://host[:port]` in lower case without the scheme's default port; nil for anything else, `null` included.
  package static func normalized(_ text: String) -> String? {
    var text = text.lowercased()
    if text.hasSuffix("/") { text.removeLast() }
    guard let scheme = ["http", "https"].first(where: { text.hasPrefix($0 + "://") }) else { return nil }
    let authority = text.dropFirst(scheme.count + 3)
    guard !authority.isEmpty, !authority.contains(where: { "/?#@ ".contains($0) }) else { return nil }
    let suffix = scheme == "http" ? ":80" : ":443"
    return authority.hasSuffix(suffix) ? String(text.dropLast(suffix.count)) : text
  }

  private static func isLoopback(_ origin: String) -> Bool {
    guard let start = origin.range(of: "://")?.upperBound else { return false }
    var host = origin[start...]
    if host.hasPrefix("[") {
      guard let end = host.firstIndex(of: "]") else { return false }
      let rest = host[host.index(after: end)...]
      return host[...end] == "[::1]" && (rest.isEmpty || isPort(rest))
    }
    if let colon = host.firstIndex(of: ":") {
      guard isPort(host[colon...]) else { return false }
      host = host[..<colon]
    }
    return host == "localhost" || host == "127.0.0.1"
  }

  private static func isPort(_ text: Substring) -> Bool {
    text.first == ":" && UInt16(text.dropFirst()) != nil
  }
}
