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

  /// Where a chat completion is asked for. An address without a path means `/v1`; the query stays.
  package var completions: String { path("chat/completions") }
  /// Where the list of models is.
  package var models: String { path("models") }

  /// - Parameter path: of a resource beside these, perhaps with a query.
  package func target(_ target: String) -> String {
    let parts = target.split(separator: "?", maxSplits: 1)
    guard parts.count == 2 else { return path(target) }
    let place = path(String(parts[0]))
    return place + (place.contains("?") ? "&" : "?") + parts[1]
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
