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
    package var jti: String?
    package var sessions: [String]
    package var scope: [String]
    /// Of the claim that names it, whatever that is called.
    package var tenant: String?

    private enum CodingKeys: String, CodingKey { case sub, exp, nbf, iat, iss, aud, jti, sessions, scope }

    package init(sub: String, exp: Double, sessions: [String], scope: [String], tenant: String? = nil) {
      self.sub = sub
      self.exp = exp
      self.sessions = sessions
      self.scope = scope
      self.tenant = tenant
    }

    private struct Misshapen: Error {}

    /// - Parameter tenantClaim: which claim names the tenant; nil: none is looked at.
    /// - Throws: where a claim is missing, of another type or there twice (RFC 7519 section 4).
    package init(json: Data, tenantClaim: String?) throws {
      guard let members = JSONValue(ByteBuffer(bytes: json), namesOnce: true)?.members else { throw Misshapen() }
      self = try JSONDecoder().decode(Claims.self, from: json)
      if let tenantClaim { tenant = members[tenantClaim]?.text }
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
  private let tenantClaim: String?
  private let addresses: AddressLimits?
  private let remoteKeys: RemoteKeys?
  private let app: AskedApp?
  package let revocations = Revocations()

  /// - Parameters:
  ///   - issuer: what `iss` must be; nil: anything.
  ///   - audience: what must be in `aud`; nil: anything.
  ///   - tenantClaim: the claim that says which tenant's sessions a token is about, and must be there; nil: there are no
  ///     tenants.
  ///   - addresses: counts who shows invalid tokens.
  package convenience init(
    keys: TokenKeys, issuer: String? = nil, audience: String? = nil, tenantClaim: String? = nil,
    addresses: AddressLimits? = nil
  ) {
    self.init(
      keys: keys, remoteKeys: nil, app: nil, issuer: issuer, audience: audience, tenantClaim: tenantClaim,
      addresses: addresses)
  }

  /// - Parameters:
  ///   - remoteKeys: more keys.
  ///   - app: who is asked about requests without a token, and about those with one where there are no keys.
  init(
    keys: TokenKeys, remoteKeys: RemoteKeys?, app: AskedApp?, issuer: String?, audience: String?,
    tenantClaim: String?, addresses: AddressLimits?
  ) {
    self.keys = NIOLockedValueBox(keys)
    (self.issuer, self.audience, self.tenantClaim, self.addresses) = (issuer, audience, tenantClaim, addresses)
    (self.remoteKeys, self.app) = (remoteKeys, app)
  }

  /// From here on; devices that are attached stay until their tokens' ends.
  package func replaceKeys(_ keys: TokenKeys) { self.keys.withLockedValue { $0 = keys } }

  /// Fetches the keys at the URL again.
  func refreshKeys() async { await remoteKeys?.refresh(always: true) }

  private var hasKeys: Bool { remoteKeys != nil || !keys.withLockedValue { $0.isEmpty } }

  /// What a request shows.
  ///
  /// - Parameter values: of its header by the name in lower case.
  /// - Throws: `Problem` 401.
  package func credentials(
    _ values: (String) -> [String], offered: [String] = [], query: Query
  ) throws(Problem) -> Credentials {
    let authorization = values("authorization").first
    guard let app else {
      return Credentials(token: try Authenticator.token(authorization: authorization, offered: offered, query: query))
    }
    let isBearer = authorization?.lowercased().hasPrefix("bearer ") ?? true
    let token = isBearer ? try Authenticator.token(authorization: authorization, offered: offered, query: query) : nil
    if token != nil, hasKeys { return Credentials(token: token) }
    return try Credentials(passingOn: app.options.headers, of: values, token: token)
  }

  /// - Throws: `Problem` 401, 403 and 503 as `AskedApp.claims`; else as for a token.
  package func identify(_ credentials: Credentials, from address: PeerAddress? = nil) async throws -> Identity {
    guard let app, credentials.headers != nil else { return try await identify(credentials.token, from: address) }
    return try await ask(app, credentials, after: 0, from: address)
  }

  /// Who a device is from here on.
  ///
  /// - Parameter token: a newer one; nil: the app is asked anew about what the device attached with.
  /// - Throws: as `identify`.
  func renewed(
    _ identity: Identity?, token: String?, from address: PeerAddress? = nil
  ) async throws -> Identity {
    guard let app, token == nil || !hasKeys else { return try await identify(token, from: address) }
    var credentials = identity?.credentials ?? Credentials(headers: [])
    if let token {
      try credentials.present(token)
      return try await ask(app, credentials, after: 0, from: address)
    }
    return try await ask(app, credentials, after: identity?.expires ?? 0, from: address)
  }

  private func ask(
    _ app: AskedApp, _ credentials: Credentials, after latest: Double, from address: PeerAddress?
  ) async throws -> Identity {
    try addresses?.shows(address)
    let now = Date().timeIntervalSince1970
    do {
      var identity = try judged(try await app.claims(credentials, after: latest), now: now)
      identity.credentials = credentials
      return identity
    } catch {
      if (error as? Problem)?.status != .serviceUnavailable { addresses?.failed(address) }
      throw error
    }
  }

  /// - Throws: `Problem` 401, without a word of the token; 429 where the address has shown too many invalid ones; 503 where
  ///   no keys could be fetched.
  package func identify(
    _ token: String?, from address: PeerAddress? = nil, now: Double = Date().timeIntervalSince1970
  ) async throws -> Identity {
    guard let token else {
      throw Problem.unauthenticated(
        "A token is needed: as Authorization: Bearer TOKEN, as a second subprotocol bearer.TOKEN, or as ?token=TOKEN.")
    }
    try addresses?.shows(address)
    do {
      return try await check(token, now: now)
    } catch {
      if (error as? Problem)?.status != .serviceUnavailable { addresses?.failed(address) }
      throw error
    }
  }

  private func check(_ token: String, now: Double) async throws -> Identity {
    let payload = try await payload(token)
    guard let claims = try? Claims(json: payload, tenantClaim: tenantClaim) else {
      throw Problem.unauthenticated(
        "The token lacks one of the claims sub, exp, sessions, scope, or has one of another type, or a claim twice.")
    }
    guard issuer == nil || claims.iss == issuer else {
      throw Problem.unauthenticated("The token is of another issuer than --auth-issuer.")
    }
    guard audience == nil || claims.aud?.names.contains(audience ?? "") == true else {
      throw Problem.unauthenticated("The token is for another audience than --auth-audience.")
    }
    return try judged(claims, now: now)
  }

  private func judged(_ claims: Claims, now: Double) throws(Problem) -> Identity {
    guard claims.exp + Authenticator.leeway > now else {
      throw .unauthenticated("The token has expired; get a new one.")
    }
    guard [claims.nbf, claims.iat].allSatisfy({ $0 ?? now <= now + Authenticator.leeway }) else {
      throw .unauthenticated("The token is not valid yet (nbf, iat); check the clocks.")
    }
    if let tenantClaim, !(claims.tenant.map(SessionName.isTenant) ?? false) {
      throw .unauthenticated(
        "The token lacks the claim \(tenantClaim), the name of a tenant: 1 to 128 characters of A-Z a-z 0-9 . _ ~ : @ -"
      )
    }
    guard !revocations.refuses(subject: claims.sub, token: claims.jti, of: claims.tenant, issued: claims.iat, now: now)
    else {
      throw .unauthenticated("The token was revoked; get a new one.")
    }
    var identity = Identity(
      subject: claims.sub, sessions: claims.sessions, scopes: Set(claims.scope.compactMap(Identity.Scope.init)),
      expires: claims.exp > now ? claims.exp : claims.exp + Authenticator.leeway)
    identity.tenant = claims.tenant
    (identity.tokenID, identity.issued) = (claims.jti, claims.iat)
    identity.revocations = revocations
    return identity
  }

  /// What was signed (RFC 7515 sections 4.1 and 5.2).
  private func payload(_ token: String) async throws -> Data {
    guard token.utf8.count <= Authenticator.longestToken else {
      throw Problem.unauthenticated("The token is longer than \(Authenticator.longestToken) bytes.")
    }
    let parts = token.split(separator: ".", omittingEmptySubsequences: false)
    let decoded = parts.compactMap { $0.isEmpty ? nil : Data(base64URL: $0) }
    guard parts.count == 3, decoded.count == 3,
      let header = JSONValue(ByteBuffer(bytes: decoded[0]), namesOnce: true)?.members
    else {
      throw Problem.unauthenticated("The token is not a JWT: three parts in base64url without padding (RFC 7515).")
    }
    guard header["crit"] == nil else {
      throw Problem.unauthenticated("The token's header asks for extensions (crit); none is known here.")
    }
    let signed = Data(token.utf8.prefix(token.utf8.count - parts[2].utf8.count - 1))
    var keys: TokenKeys { self.keys.withLockedValue { $0 }.joined(remoteKeys?.current()) }
    func verdict() -> TokenKeys.Verdict {
      keys.verify(decoded[2], of: signed, algorithm: header["alg"]?.text ?? "", id: header["kid"]?.text)
    }
    var judged = verdict()
    if judged == .noKey, let remoteKeys {
      await remoteKeys.refresh()
      if remoteKeys.current() == nil { throw Problem.authUnavailable }
      judged = verdict()
    }
    switch judged {
    case .signed: return decoded[1]
    case .forged: throw Problem.unauthenticated("The token is not signed with this gateway's key.")
    case .noKey:
      throw Problem.unauthenticated(
        "The gateway has no key for the alg and kid of the token's header; its keys are for \(keys.known.joined(separator: ", "))."
      )
    }
  }

  /// What the claim is called that names a token's tenant, unless told.
  package static let standardTenantClaim = "tenant"

  package static func sign(
    _ claims: Claims, secret: [UInt8], tenantClaim: String = standardTenantClaim
  ) async throws -> String {
    let keys = JWTKeyCollection()
    await keys.add(hmac: HMACKey(from: secret), digestAlgorithm: .sha256)
    return try await keys.sign(NamedClaims(claims: claims, tenantClaim: tenantClaim))
  }

  /// Claims with the tenant's by its name.
  private struct NamedClaims: JWTPayload {
    let claims: Claims
    let tenantClaim: String

    private struct Key: CodingKey {
      let stringValue: String
      var intValue: Int? { nil }

      init(stringValue: String) { self.stringValue = stringValue }
      init?(intValue: Int) { nil }
    }

    init(claims: Claims, tenantClaim: String) { (self.claims, self.tenantClaim) = (claims, tenantClaim) }

    init(from decoder: any Decoder) throws {
      try self.init(claims: Claims(from: decoder), tenantClaim: Authenticator.standardTenantClaim)
    }

    func encode(to encoder: any Encoder) throws {
      try claims.encode(to: encoder)
      var others = encoder.container(keyedBy: Key.self)
      try others.encodeIfPresent(claims.tenant, forKey: Key(stringValue: tenantClaim))
    }

    func verify(using algorithm: some JWTAlgorithm) throws {}
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
