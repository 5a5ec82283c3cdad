import BatonSession
import NIOHTTP1

/// Finds and checks the token of a request.
package protocol Authenticator: Sendable {
  /// - Throws: `Problem` 401.
  func identify(_ headers: HTTPHeaders, offered: [String], query: Query) throws(Problem) -> Identity
}

extension Problem {
  static func unauthenticated(_ detail: String) -> Problem {
    Problem(.unauthorized, "unauthenticated", detail).with(header: "WWW-Authenticate", "Bearer")
  }

  static func notAllowed(_ scope: Identity.Scope, _ session: SessionName) -> Problem {
    Problem(
      .forbidden, "not-allowed",
      "The token does not allow \(scope.rawValue) in session \(session); its claims sessions and scope must both.")
  }
}
