import BatonProtocol
import BatonSession

/// A request target, cut into what it names (PROTOCOL 3).
package struct Target: Sendable {
  package enum Resource: Sendable, Equatable {
    case session(String)
    case response(String, session: String)
    case other
  }

  package var resource: Resource
  package var query: Substring?

  /// - Parameter uri: the request target in origin form (RFC 9112 section 3.2.1); its path segments are decoded.
  package init(_ uri: String) {
    let parts = uri.split(separator: "?", maxSplits: 1, omittingEmptySubsequences: false)
    query = parts.count > 1 ? parts[1] : nil
    resource = .other
    let segments = (parts.first ?? "").split(separator: "/", omittingEmptySubsequences: false)
    guard segments.count >= 4, segments[0].isEmpty, segments[1] == "v1", segments[2] == "sessions",
      let session = Query.percentDecoded(segments[3])
    else { return }
    switch segments.count {
    case 4:
      resource = .session(session)
    case 6 where segments[4] == "responses":
      guard let response = Query.percentDecoded(segments[5]) else { return }
      resource = .response(response, session: session)
    default: break
    }
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
