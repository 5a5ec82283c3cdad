import Foundation

/// Where a model server is, as people write it.
package struct UpstreamAddress: Sendable, CustomStringConvertible {
  /// `user:password` of the address, percent-decoded.
  package let login: String?
  private let base: URLComponents

  /// Nil for what is no `http://` or `https://` address with a host.
  package init?(_ text: String) {
    let text = text.trimmingCharacters(in: .whitespacesAndNewlines)
    guard var parts = URLComponents(string: text), let host = parts.host, !host.isEmpty,
      let scheme = parts.scheme?.lowercased(), scheme == "http" || scheme == "https"
    else { return nil }
    parts.scheme = scheme
    login = parts.user.map { "\($0):\(parts.password ?? "")" }
    (parts.user, parts.password, parts.fragment) = (nil, nil, nil)
    base = parts
  }

  /// The address itself, as it was written, without its credentials.
  package var whole: String { base.string ?? "" }

  /// Where a chat completion is asked for. An address without a path means `/v1`; the query stays.
  package var completions: String { path("chat/completions") }
  /// Where the list of models is.
  package var models: String { path("models") }

  /// Of a resource beside these.
  /// - Parameter target: a path, perhaps with a query. Nil where it would lead elsewhere (steps `.` and `..`, slashes in
  ///   escapes) or holds what RFC 3986 does not know.
  package func target(_ target: String) -> String? {
    guard Self.isPlain(target) else { return nil }
    let parts = target.split(separator: "?", maxSplits: 1, omittingEmptySubsequences: false)
    let place = path(String(parts[0]))
    guard parts.count == 2, !parts[1].isEmpty else { return place }
    return place + (place.contains("?") ? "&" : "?") + parts[1]
  }

  private static func isPlain(_ target: String) -> Bool {
    guard target.wholeMatch(of: /(?:[A-Za-z0-9\-._~:@!$&'()*+,;=\/?]|%[0-9A-Fa-f]{2})*/) != nil else { return false }
    return target.prefix { $0 != "?" }.split(separator: "/", omittingEmptySubsequences: false).allSatisfy {
      guard let whole = $0.removingPercentEncoding else { return false }
      // Some servers leave out what follows a semicolon.
      let step = whole.prefix { $0 != ";" }
      return step != "." && step != ".." && !whole.contains("/")
    }
  }

  private func path(_ leaf: String) -> String {
    var parts = base
    var path = parts.percentEncodedPath
    while path.hasSuffix("/") { path.removeLast() }
    if path.hasSuffix("/chat/completions") { path.removeLast("/chat/completions".count) }
    let isBare = path.isEmpty && !base.percentEncodedPath.contains("chat/completions")
    parts.percentEncodedPath = (isBare ? "/v1" : path) + "/" + leaf
    return parts.string ?? ""
  }

  /// Without credentials.
  package var description: String { Self.masked(base.string ?? "") }

  /// Any text without the credentials that may stand in its addresses: user, password, and what a query says.
  package static func masked(_ text: String) -> String {
    text.replacing(/(:\/\/|^)[^\/?#\s'"]*@/) { "\($0.1)***@" }
      .replacing(/([?&][^=&\s'"]*=)[^&#\s'"]+/) { "\($0.1)***" }
  }
}
