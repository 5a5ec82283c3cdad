import BatonProtocol
import BatonSession

/// Who asks, as the claims of a token say (PROTOCOL 3).
package struct Identity: Sendable, Equatable {
  package enum Scope: String, Sendable, CaseIterable {
    case read, publish, input, cancel, delete
  }

  package var subject: String
  /// Session names, or prefixes that end in `*`.
  package var sessions: [String]
  package var scopes: Set<Scope>
  /// Seconds since 1970.
  package var expires: Double
  /// What the app was asked with, where it said so.
  package var credentials: Credentials?

  package init(subject: String, sessions: [String], scopes: Set<Scope>, expires: Double) {
    self.subject = subject
    self.sessions = sessions
    self.scopes = scopes
    self.expires = expires
  }

  package func mayUse(_ session: SessionName) -> Bool {
    sessions.contains { pattern in
      pattern.hasSuffix("*")
        ? session.description.hasPrefix(pattern.dropLast()) : session.description == pattern
    }
  }

  package func may(_ scope: Scope, _ session: SessionName) -> Bool { scopes.contains(scope) && mayUse(session) }
}
