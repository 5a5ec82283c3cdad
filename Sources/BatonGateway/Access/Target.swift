import BatonProtocol
import BatonSession
import Foundation

/// A request target, cut into what it names (PROTOCOL 3).
package struct Target: Sendable {
  package enum Resource: Sendable, Equatable {
    case session(String)
    case response(String, session: String)
    case controls(String, session: String)
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
    let ofControls = segments.count == 7 && Query.percentDecoded(segments[6]) == "controls"
    guard segments.count == 4 || segments.count == 6 || ofControls,
      segments.count == 4 || Query.percentDecoded(segments[4]) == "responses"
    else { return }
    guard let session = Query.percentDecoded(segments[3]) else {
      resource = .malformed
      return
    }
    guard segments.count > 4 else {
      resource = .session(session)
      return
    }
    resource =
      Query.percentDecoded(segments[5]).map {
        ofControls ? .controls($0, session: session) : .response($0, session: session)
      } ?? .malformed
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
