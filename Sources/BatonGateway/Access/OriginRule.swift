/// Which `Origin` (RFC 6454) a request may come from (PROTOCOL 3). Requests without one are no browser's, and pass.
package struct OriginRule: Sendable {
  /// Nil: only loopback origins and that of `--public-url`.
  package var allowed: [Pattern]?
  package var publicOrigin: String?

  /// What a page of another origin may read beside the safelisted headers (Fetch Standard section 2.2.2).
  package static let exposedHeaders = "Retry-After, Idempotent-Replayed, Baton-Session, Baton-Response"

  package init(allowed: Set<String>? = nil, publicOrigin: String? = nil) {
    self.allowed = allowed?.compactMap(Pattern.init)
    self.publicOrigin = publicOrigin.flatMap(OriginRule.normalized)
  }

  package func allows(_ origins: [String]) -> Bool {
    guard let origin = origins.first else { return true }
    guard origins.count == 1 else { return false }
    if let allowed { return allowed.contains { $0.matches(origin) } }
    guard let origin = OriginRule.normalized(origin) else { return false }
    return origin == publicOrigin || OriginRule.isLoopback(origin)
  }

  package func check(_ origins: [String]) throws(Problem) {
    if !allows(origins) {
      throw Problem(
        .forbidden, "origin-not-allowed",
        "Pages of this origin may not use the gateway; list it, with scheme, host and port, in --allowed-origins.")
    }
  }

  /// One entry of `--allowed-origins`: an origin of any scheme, with `*` for exactly the first label of its host if
  /// wanted, or `null` by name.
  package struct Pattern: Sendable, Equatable {
    /// In the form of `normalized`; for a wildcard what stands before and behind the label.
    private let start: String
    private let rest: String?

    /// Nil where it could match nothing.
    package init?(_ text: String) {
      if text.lowercased() == "null" {
        (start, rest) = ("null", nil)
        return
      }
      guard let star = text.firstIndex(of: "*") else {
        guard let origin = OriginRule.normalized(text) else { return nil }
        (start, rest) = (origin, nil)
        return
      }
      let before = text[..<star].lowercased()
      let behind = text[text.index(after: star)...]
      // Checked with a label in the place of the star.
      guard before.hasSuffix("://"), behind.hasPrefix("."), !behind.contains("*"),
        let example = OriginRule.normalized("\(before)x\(behind)")
      else { return nil }
      (start, rest) = (before, String(example.dropFirst(before.count + 1)))
    }

    package func matches(_ origin: String) -> Bool {
      guard let origin = origin == "null" ? origin : OriginRule.normalized(origin) else { return false }
      guard let rest else { return origin == start }
      guard origin.hasPrefix(start), origin.hasSuffix(rest), origin.count > start.count + rest.count else {
        return false
      }
      return !origin.dropFirst(start.count).dropLast(rest.count).contains(".")
    }
  }

  /// `scheme://host[:port]` in lower case without the scheme's default port; nil for anything else, `null` included.
  package static func normalized(_ text: String) -> String? {
    var text = text.lowercased()
    if text.hasSuffix("/") { text.removeLast() }
    let parts = text.split(separator: ":", maxSplits: 1, omittingEmptySubsequences: false)
    guard parts.count == 2, parts[1].hasPrefix("//"), isScheme(parts[0]) else { return nil }
    let authority = parts[1].dropFirst(2)
    guard isAuthority(authority) else { return nil }
    let suffix = ["http": ":80", "https": ":443"][parts[0]]
    return suffix.map { authority.hasSuffix($0) ? String(text.dropLast($0.count)) : text } ?? text
  }

  /// RFC 3986 section 3.1.
  private static func isScheme(_ text: Substring) -> Bool {
    guard let first = text.utf8.first, (UInt8(ascii: "a")...UInt8(ascii: "z")).contains(first) else { return false }
    return text.utf8.allSatisfy { byte in
      switch byte {
      case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "0")...UInt8(ascii: "9"): true
      default: "+-.".utf8.contains(byte)
      }
    }
  }

  /// A host and perhaps a port; an IPv6 address stands in brackets.
  static func isAuthority(_ text: Substring) -> Bool {
    var host = text
    if text.hasPrefix("[") {
      guard let end = text.firstIndex(of: "]") else { return false }
      let rest = text[text.index(after: end)...]
      let digits = text[..<end].dropFirst()
      return digits.contains(":") && digits.allSatisfy { $0.isHexDigit || $0 == ":" || $0 == "." }
        && (rest.isEmpty || isPort(rest))
    }
    if let colon = text.firstIndex(of: ":") {
      guard isPort(text[colon...]) else { return false }
      host = text[..<colon]
    }
    return !host.isEmpty && !host.hasPrefix(".") && !host.hasSuffix(".") && !host.contains("..")
      && host.utf8.allSatisfy { $0 > 0x20 && $0 != 0x7F && !"/?#@*,;\"'<>\\[]{}|^`%".utf8.contains($0) }
  }

  private static func isLoopback(_ origin: String) -> Bool {
    guard let scheme = ["http://", "https://"].first(where: origin.hasPrefix) else { return false }
    var host = origin.dropFirst(scheme.count)
    if host.hasPrefix("[") { return host.hasPrefix("[::1]") }
    if let colon = host.firstIndex(of: ":") { host = host[..<colon] }
    return host == "localhost" || host == "127.0.0.1"
  }

  private static func isPort(_ text: Substring) -> Bool {
    text.first == ":" && text.dropFirst().utf8.allSatisfy { (48...57).contains($0) } && UInt16(text.dropFirst()) != nil
  }
}
