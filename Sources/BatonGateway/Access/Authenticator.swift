import BatonProtocol
import BatonSession
import Foundation
import JWTKit
import NIOHTTP1

/// Checks tokens: HS256 (RFC 7519) with the claims of PROTOCOL 3.
package final class Authenticator: Sendable {
  package struct Claims: JWTPayload {
    package var sub: String
    package var exp: Double
    package var nbf: Double?
    package var sessions: [String]
    package var scope: [String]

    package init(sub: String, exp: Double, sessions: [String], scope: [String]) {
      self.sub = sub
      self.exp = exp
      self.sessions = sessions
      self.scope = scope
    }

    package func verify(using algorithm: some JWTAlgorithm) throws {}
  }

  private let keys: JWTKeyCollection

  /// - Parameter secret: at least `SecretFile.leastBytes`; the library traps in debug builds on shorter ones.
  package init(secret: [UInt8]) async {
    keys = JWTKeyCollection()
    await keys.add(hmac: HMACKey(from: secret), digestAlgorithm: .sha256)
  }

  /// - Throws: `Problem` 401, without a word of the token.
  package func identify(_ token: String?, now: Double = Date().timeIntervalSince1970) async throws -> Identity {
    guard let token else {
      throw Problem.unauthenticated(
        "A token is needed: as Authorization: Bearer TOKEN, as a second subprotocol bearer.TOKEN, or as ?token=TOKEN.")
    }
    guard let claims = try? await keys.verify(token, as: Claims.self) else {
      throw Problem.unauthenticated(
        "The token is not signed with this gateway's key (HS256), or lacks one of the claims sub, exp, sessions, scope."
      )
    }
    guard claims.exp > now else { throw Problem.unauthenticated("The token has expired; get a new one.") }
    if let nbf = claims.nbf, nbf > now {
      throw Problem.unauthenticated("The token is not valid yet; check the clocks.")
    }
    return Identity(
      subject: claims.sub, sessions: claims.sessions, scopes: Set(claims.scope.compactMap(Identity.Scope.init)),
      expires: claims.exp)
  }

  package static func sign(_ claims: Claims, secret: [UInt8]) async throws -> String {
    let keys = JWTKeyCollection()
    await keys.add(hmac: HMACKey(from: secret), digestAlgorithm: .sha256)
    return try await keys.sign(claims)
  }

  /// The first credentials that a request brings (PROTOCOL 3).
  package static func token(authorization: String?, offered: [String] = [], query: Query) throws(Problem) -> String? {
    if let authorization {
      let parts = authorization.split(separator: " ", maxSplits: 1)
      guard parts.count == 2, parts[0].lowercased() == "bearer" else {
        throw .unauthenticated("The Authorization header must be: Bearer TOKEN.")
      }
      return parts[1].trimmingCharacters(in: .whitespaces)
    }
    if let bearer = offered.first(where: { $0.hasPrefix("bearer.") }) { return String(bearer.dropFirst(7)) }
    return try query.one("token")
  }
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
