import BatonProtocol
import BatonSession
import Foundation
import JWTKit
import NIOConcurrencyHelpers
import NIOCore
import NIOHTTP1

/// Checks tokens (RFC 7519, RFC 8725) for the claims of PROTOCOL 3. What a token's header says decides nothing: it has to
/// say what the gateway was told.
package final class Authenticator: Sendable {
  package struct Claims: JWTPayload {
    package var sub: String
    package var exp: Double
    package var nbf: Double?
    package var iat: Double?
    package var iss: String?
    package var aud: Audience?
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

  /// One name, or several (RFC 7519 section 4.1.3).
  package struct Audience: Codable, Sendable {
    package var names: [String]

    package init(from decoder: any Decoder) throws {
      let container = try decoder.singleValueContainer()
      if let name = try? container.decode(String.self) {
        names = [name]
      } else {
        names = try container.decode([String].self)
      }
    }

    package func encode(to encoder: any Encoder) throws {
      var container = encoder.singleValueContainer()
      try container.encode(names)
    }
  }

  /// In bytes.
  package static let longestToken = 16 << 10
  /// How far clocks may be apart, in seconds.
  package static let leeway = 60.0

  private let keys: NIOLockedValueBox<TokenKeys>
  private let issuer: String?
  private let audience: String?
  private let addresses: AddressLimits?

  /// - Parameters:
  ///   - issuer: what `iss` must be; nil: anything.
  ///   - audience: what must be in `aud`; nil: anything.
  ///   - addresses: counts who shows invalid tokens.
  package init(
    keys: TokenKeys, issuer: String? = nil, audience: String? = nil, addresses: AddressLimits? = nil
  ) {
    self.keys = NIOLockedValueBox(keys)
    (self.issuer, self.audience, self.addresses) = (issuer, audience, addresses)
  }

  /// From here on; devices that are attached stay until their tokens' ends.
  package func replaceKeys(_ keys: TokenKeys) { self.keys.withLockedValue { $0 = keys } }

  /// - Throws: `Problem` 401, without a word of the token; 429 where the address has shown too many invalid ones.
  package func identify(
    _ token: String?, from address: PeerAddress? = nil, now: Double = Date().timeIntervalSince1970
  ) async throws -> Identity {
    guard let token else {
      throw Problem.unauthenticated(
        "A token is needed: as Authorization: Bearer TOKEN, as a second subprotocol bearer.TOKEN, or as ?token=TOKEN.")
    }
    try addresses?.shows(address)
    do {
      return try check(token, now: now)
    } catch {
      addresses?.failed(address)
      throw error
    }
  }

  private func check(_ token: String, now: Double) throws(Problem) -> Identity {
    let payload = try payload(token)
    guard let claims = try? JSONDecoder().decode(Claims.self, from: payload) else {
      throw .unauthenticated("The token lacks one of the claims sub, exp, sessions, scope, or has one of another type.")
    }
    guard claims.exp + Authenticator.leeway > now else {
      throw .unauthenticated("The token has expired; get a new one.")
    }
    guard [claims.nbf, claims.iat].allSatisfy({ $0 ?? now <= now + Authenticator.leeway }) else {
      throw .unauthenticated("The token is not valid yet (nbf, iat); check the clocks.")
    }
    guard issuer == nil || claims.iss == issuer else {
      throw .unauthenticated("The token is of another issuer than --auth-issuer.")
    }
    guard audience == nil || claims.aud?.names.contains(audience ?? "") == true else {
      throw .unauthenticated("The token is for another audience than --auth-audience.")
    }
    return Identity(
      subject: claims.sub, sessions: claims.sessions, scopes: Set(claims.scope.compactMap(Identity.Scope.init)),
      expires: claims.exp > now ? claims.exp : claims.exp + Authenticator.leeway)
  }

  /// What was signed (RFC 7515 sections 4.1 and 5.2).
  private func payload(_ token: String) throws(Problem) -> Data {
    guard token.utf8.count <= Authenticator.longestToken else {
      throw .unauthenticated("The token is longer than \(Authenticator.longestToken) bytes.")
    }
    let parts = token.split(separator: ".", omittingEmptySubsequences: false)
    let decoded = parts.compactMap { $0.isEmpty ? nil : Data(base64URL: $0) }
    guard parts.count == 3, decoded.count == 3, let header = JSONValue(ByteBuffer(bytes: decoded[0]))?.members else {
      throw .unauthenticated("The token is not a JWT: three parts in base64url without padding (RFC 7515).")
    }
    guard header["crit"] == nil else {
      throw .unauthenticated("The token's header asks for extensions (crit); none is known here.")
    }
    let keys = keys.withLockedValue { $0 }
    let algorithm = header["alg"]?.text ?? ""
    let verdict = keys.verify(
      decoded[2], of: Data(token.utf8.prefix(token.utf8.count - parts[2].utf8.count - 1)), algorithm: algorithm,
      id: header["kid"]?.text)
    switch verdict {
    case .signed: return decoded[1]
    case .forged: throw .unauthenticated("The token is not signed with this gateway's key.")
    case .noKey:
      throw .unauthenticated(
        "The gateway has no key for the alg and kid of the token's header; its keys are for \(keys.known.joined(separator: ", "))."
      )
    }
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
