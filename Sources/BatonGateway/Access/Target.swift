import BatonProtocol
import BatonSession
import Foundation

/// A request target, cut into what it names (PROTOCOL 3).
package struct Target: Sendable {
  package enum Resource: Sendable, Equatable {
    case session(String)
    case response(String, session: String)
    case controls(String, session: String)
    case responses(session: String)
    case input(session: String)
    case cancel(String, session: String)
    /// A name in it is no percent-encoded UTF-8.
    case malformed
    case other
  }

  package var resource: Resource
  package var query: Substring?

  /// - Parameter uri: the request target in origin or absolute form (RFC 9112 section 3.2); its path segments are
  ///   decoded.
  package init(_ uri: String) {
    let parts = Target.originForm(uri).split(separator: "?", maxSplits: 1, omittingEmptySubsequences: false)
    query = parts.count > 1 ? parts[1] : nil
    resource = .other
    let segments = (parts.first ?? "").split(separator: "/", omittingEmptySubsequences: false)
    guard segments.count >= 4, segments[0].isEmpty, Query.percentDecoded(segments[1]) == "v1",
      Query.percentDecoded(segments[2]) == "sessions"
    else { return }
    let names = segments.dropFirst(3).map { Query.percentDecoded($0) }
    func named(_ index: Int, _ resource: (String) -> Resource) -> Resource {
      names[index].map(resource) ?? .malformed
    }
    let session = { (make: @escaping (String) -> Resource) in named(0, make) }
    let response = { (make: @escaping (String, String) -> Resource) in
      named(0) { session in named(2) { response in make(response, session) } }
    }
    switch (names.count, names.count > 1 ? names[1] : nil, names.count > 3 ? names[3] : nil) {
    case (1, _, _): resource = session { .session($0) }
    case (2, "input", _): resource = session { .input(session: $0) }
    case (2, "responses", _): resource = session { .responses(session: $0) }
    case (3, "responses", _): resource = response { .response($0, session: $1) }
    case (4, "responses", "controls"): resource = response { .controls($0, session: $1) }
    case (4, "responses", "cancel"): resource = response { .cancel($0, session: $1) }
    default: break
    }
  }

  /// The host that a target in absolute form names: it counts for more than the header Host (RFC 9112 section 3.2.2).
  package static func authority(_ uri: String) -> Substring? {
    guard !uri.hasPrefix("/"), let scheme = uri.range(of: "://") else { return nil }
    return uri[scheme.upperBound...].prefix { $0 != "/" && $0 != "?" }
  }

  /// Path and query of a target; `http://host/path` is for proxies, and every server must take it.
  package static func originForm(_ uri: String) -> Substring {
    guard !uri.hasPrefix("/"), let scheme = uri.range(of: "://") else { return uri[...] }
    return uri[scheme.upperBound...].firstIndex { $0 == "/" || $0 == "?" }.map { uri[$0...] } ?? "/"
  }
}

extension SessionName {
  /// - Throws: `Problem` 400 that tells the rule.
  package init(checking text: String) throws(Problem) {
    guard let name = SessionName(text) else {
      throw .badRequest(
        "bad-session", "A session's name is 1 to 128 characters of A-Z a-z 0-9 . _ ~ : @ - and neither . nor ..")
    }
    self = name
  }
}
