import BatonSession
import Foundation

extension GatewayConfiguration {
  /// Who is asked for what, and by what the listener shows itself.
  mutating func readCredentials(_ settings: Settings) async throws {
    tokenKeySources = TokenKeySources(
      secretPath: settings.text("auth-secret-file"), algorithm: settings.text("auth-algorithm") ?? "HS256",
      jwksPath: settings.text("auth-jwks"))
    if tokenKeySources.secretPath == nil { tokenKeySources.secret = SecretFile.fromEnvironment() }
    if !tokenKeySources.isEmpty {
      do {
        tokenKeys = try await tokenKeySources.read()
      } catch let objection as TokenKeySources.Objection {
        throw settings.mistake(objection.option, objection.text)
      }
    }
    for option in ["auth-url", "auth-jwks-url"] {
      if let objection = settings.text(option).flatMap(AuthClient.objection) {
        throw settings.mistake(option, objection)
      }
    }
    guard let timeout = settings.milliseconds("auth-timeout"), timeout >= 1 else {
      throw settings.mistake("auth-timeout", "must be at least 1ms")
    }
    authTimeout = .milliseconds(timeout)
    jwksURL = settings.text("auth-jwks-url")
    let headers = (settings.list("auth-headers") ?? AskedApp.standardHeaders).map { $0.lowercased() }
    for header in headers where !AskedApp.mayPassOn(header) {
      throw settings.mistake("auth-headers", "must list names of headers that may be passed on; \"\(header)\" is none")
    }
    guard let cacheBytes = settings.bytes("auth-cache-bytes"), cacheBytes >= 1024 else {
      throw settings.mistake("auth-cache-bytes", "must be at least 1024 bytes")
    }
    tenantClaim = settings.text("tenant-claim")
    if let objection = tenantClaim.flatMap(Self.objection(toTenantClaim:)) {
      throw settings.mistake("tenant-claim", objection)
    }
    if let url = settings.text("auth-url") {
      app = AskedApp.Options(
        url: url, headers: headers, timeout: authTimeout, cacheBytes: cacheBytes,
        mostAsks: settings.count(Limit.authAsks.rawValue) ?? 1000, tenantClaim: tenantClaim)
    }
    (issuer, audience) = (settings.text("auth-issuer"), settings.text("auth-audience"))
    for option in ["auth-issuer", "auth-audience"]
    where tokenKeys == nil && jwksURL == nil && settings.text(option) != nil {
      throw settings.mistake(option, "needs a key: give --auth-secret-file, --auth-jwks or --auth-jwks-url, too")
    }
    if tenantClaim != nil, !asksWho {
      throw settings.mistake(
        "tenant-claim",
        "needs tokens: give --auth-secret-file, --auth-jwks, --auth-jwks-url or --auth-url, too")
    }
    if let path = settings.text("metrics-secret-file") {
      let objection = { settings.mistake("metrics-secret-file", $0) }
      operators.secret = try SecretFile.read(path, atLeast: SecretFile.leastWordBytes, objection: objection)
    }
    let asksNobody = settings.flag("insecure-no-auth") && !asksWho
    insecurities = [
      (
        "insecure-no-auth",
        asksNobody ? "nobody is asked for a token: who reaches this gateway reads and writes every session" : nil
      )
    ]
    if !asksWho, !settings.flag("insecure-no-auth"), !listen.isLocal {
      throw settings.mistake(
        "listen",
        "is open to other machines, and nobody would be asked for a token: give --auth-secret-file, --auth-jwks, --auth-jwks-url or --auth-url, listen on 127.0.0.1, "
          + "or say --insecure-no-auth")
    }
    switch (settings.text("tls-cert"), settings.text("tls-key")) {
    case (nil, nil): break
    case (let cert?, let key?):
      do {
        let clients = settings.text("tls-client-ca").map {
          ListenerTLS.Clients(path: $0, isRequired: settings.text("tls-client-auth") != "request")
        }
        tls = try ListenerTLS(certPath: cert, keyPath: key, clients: clients)
      } catch {
        throw settings.mistake(error.option, error.text)
      }
    case (_?, nil): throw settings.mistake("tls-cert", "needs --tls-key")
    case (nil, _?): throw settings.mistake("tls-key", "needs --tls-cert")
    }
    if tls == nil, settings.text("tls-client-ca") != nil {
      throw settings.mistake("tls-client-ca", "needs --tls-cert and --tls-key")
    }
  }
}
