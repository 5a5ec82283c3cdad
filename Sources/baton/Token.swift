import ArgumentParser
import BatonGateway
import BatonProtocol
import BatonSession
import Foundation

struct Token: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    abstract: "Print a token for devices and producers, signed with the gateways' key (HS256).",
    discussion: """
      Devices send it as Authorization: Bearer TOKEN, as a second subprotocol bearer.TOKEN, or as ?token=TOKEN. \
      A key is made by: openssl rand -base64 48 > secret
      """)

  @Option(help: "The file that the gateways were given with --auth-secret-file.")
  var secretFile: String?

  @Option(help: "Whom the token is for.")
  var subject: String

  @Option(help: "Comma-separated session names, or prefixes that end in *.")
  var sessions: String

  @Option(help: "Comma-separated: read, publish, input, cancel, delete, revoke.")
  var scope = "read"

  @Option(help: "Whose sessions these are, where the gateways were given --tenant-claim.")
  var tenant: String?

  @Option(help: "What the gateways' --tenant-claim is.")
  var tenantClaim = Authenticator.standardTenantClaim

  @Option(help: "How long it is valid: 30s, 5m, 24h.")
  var expires = "1h"

  func validate() throws {
    if list(sessions).isEmpty { throw ValidationError("--sessions must name at least one session, or *.") }
    for session in list(sessions) where SessionName(session) == nil {
      let prefix = session.hasSuffix("*") ? session.dropLast() : session[...]
      guard session.hasSuffix("*"), prefix.isEmpty || Shape.name(prefix.utf8, upTo: 128) else {
        throw ValidationError(
          "'\(session)' is no session: 1 to 128 characters of A-Z a-z 0-9 . _ ~ : @ - and, for a prefix, * at its end.")
      }
    }
    for scope in list(scope) where Identity.Scope(rawValue: scope) == nil {
      let known = Identity.Scope.allCases.map(\.rawValue).joined(separator: ", ")
      throw ValidationError("The scope '\(scope)' is unknown; \(known) are known.")
    }
    if let tenant, !SessionName.isTenant(tenant) {
      throw ValidationError("The tenant '\(tenant)' must be 1 to 128 characters of A-Z a-z 0-9 . _ ~ : @ -")
    }
    if let objection = GatewayConfiguration.objection(toTenantClaim: tenantClaim) {
      throw ValidationError("--tenant-claim \(objection)")
    }
    guard let milliseconds = Quantity.milliseconds(expires), milliseconds >= 1000 else {
      throw ValidationError("--expires must be a time of at least 1s, such as 30s, 5m or 24h.")
    }
  }

  func run() async throws {
    // The gateways' own variable will do, too.
    let path = secretFile ?? ProcessInfo.processInfo.environment["BATON_AUTH_SECRET_FILE"]
    let secret: [UInt8]
    do {
      if let path {
        secret = try SecretFile.read(path) { Settings.Mistake.value("--secret-file \($0)") }
      } else if let given = SecretFile.fromEnvironment() {
        secret = try SecretFile.read(given, of: SecretFile.variable) { Settings.Mistake.value($0) }
      } else {
        throw ValidationError(
          "Give --secret-file, or the environment variable BATON_SECRET_FILE, BATON_AUTH_SECRET_FILE or BATON_AUTH_SECRET."
        )
      }
    } catch let error as Settings.Mistake {
      say("token", "\(error)")
      throw ExitCode(error.exitStatus)
    }
    let claims = Authenticator.Claims(
      sub: subject, exp: (Date().timeIntervalSince1970 + Double(Quantity.milliseconds(expires) ?? 0) / 1000).rounded(),
      sessions: list(sessions), scope: list(scope), tenant: tenant)
    let token = try await Authenticator.sign(claims, secret: secret, tenantClaim: tenantClaim)
    do {
      try StandardOutput.write(token + "\n")
    } catch {
      throw ExitCode(Baton.unwritten(error, by: "baton token"))
    }
  }

  private func list(_ text: String) -> [String] {
    text.split(separator: ",").map { $0.trimmingCharacters(in: .whitespaces) }
  }
}
