import BatonProtocol
import BatonSession
import Foundation

/// Who asks, as the claims of a token say (PROTOCOL 3).
package struct Identity: Sendable, Equatable {
  package enum Scope: String, Sendable, CaseIterable {
    case read, publish, input, cancel, delete, revoke
  }

  package var subject: String
  /// Whose sessions it is about; nil where there are no tenants.
  package var tenant: String?
  /// Session names, or prefixes that end in `*`.
  package var sessions: [String]
  package var scopes: Set<Scope>
  /// Seconds since 1970.
  package var expires: Double
  /// What the app was asked with, where it said so.
  package var credentials: Credentials?
  /// The token's `jti`.
  package var tokenID: String?
  /// The token's `iat`, in seconds since 1970.
  package var issued: Double?
  var revocations: Revocations?

  package init(subject: String, sessions: [String], scopes: Set<Scope>, expires: Double) {
    self.subject = subject
    self.sessions = sessions
    self.scopes = scopes
    self.expires = expires
  }

  package static func == (one: Identity, other: Identity) -> Bool {
    one.subject == other.subject && one.tenant == other.tenant && one.sessions == other.sessions
      && one.scopes == other.scopes
      && one.expires == other.expires && one.credentials == other.credentials && one.tokenID == other.tokenID
      && one.issued == other.issued
  }

  /// It was taken back since.
  package var isRevoked: Bool {
    revocations?.refuses(subject: subject, token: tokenID, of: tenant, issued: issued) ?? false
  }

  /// The session that it means by a name.
  package func own(_ session: SessionName) -> SessionName { tenant.map(session.of) ?? session }

  /// - Parameter session: as ``own(_:)`` has it; another tenant's is refused.
  package func mayUse(_ session: SessionName) -> Bool {
    guard session.tenant == tenant, session.qualified != Revocations.session,
      revocations?.refuses(session: session, issued: issued) != true
    else { return false }
    let name = session.description
    return sessions.contains { pattern in
      pattern.hasSuffix("*") ? name.hasPrefix(pattern.dropLast()) : name == pattern
    }
  }

  /// Why a request that was let in must not go on; nil: it may.
  func objection(to scope: Scope, _ session: SessionName) -> Problem? {
    if isRevoked { return Problem.unauthenticated("The token was revoked; get a new one.").refusing(self) }
    return may(scope, session) ? nil : Problem.notAllowed(scope, session).refusing(self)
  }

  /// Its time is over, or it was taken back, wholly or for this session.
  func hasLost(_ session: SessionName) -> Bool {
    Date().timeIntervalSince1970 >= expires || isRevoked || !mayUse(session)
  }

  package func may(_ scope: Scope, _ session: SessionName) -> Bool { scopes.contains(scope) && mayUse(session) }
}
