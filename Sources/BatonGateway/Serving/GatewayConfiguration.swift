import BatonProtocol
import BatonRedis
import BatonRelay
import BatonSession
import BatonStore
import BatonUpstream
import BatonWebSocket
import Foundation
import Logging
import NIOCore

/// All that a gateway is told, checked.
package struct GatewayConfiguration: Sendable {
  package var listen = ListenAddress.tcp(host: "127.0.0.1", port: 8080)
  package var redis: RedisURL
  /// As it was given.
  package var redisText: String
  /// The model server that is relayed; nil for none.
  package var relay: Relay.Options?
  /// The app's own backend that is relayed; nil for none.
  package var aiSDK: Relay.Options?
  /// Backends of whatever kind, by the path that each answers at.
  package var relayPaths: [String: Relay.Options] = [:]
  package var aiSDKGrace = Duration.seconds(30)
  package var busy = BusyRule()
  package var roles = NodeRoles.all
  /// Nil where no webhooks are sent.
  package var webhooks: WebhookSender.Options?
  package var node: String
  package var keyPrefix = "baton:"
  package var wakeup = Wakeup.auto
  package var publicURL: String?
  package var allowedOrigins: Set<String>?
  /// Nil: local names where nobody is asked for a token and only this machine is let in, else all.
  package var allowedHosts: [String]?
  package var tokenKeySources = TokenKeySources()
  package var tokenKeys: TokenKeys?
  package var jwksURL: String?
  package var app: AskedApp.Options?
  /// For an answer of `--auth-url` or `--auth-jwks-url`.
  package var authTimeout = TimeAmount.seconds(5)
  package var issuer: String?
  package var audience: String?
  /// The claim that names a token's tenant; nil: there are no tenants.
  package var tenantClaim: String?
  package var tenantQuotas = TenantQuotas.Bounds()
  /// Of one tenant, on all nodes together; nil: as many as come.
  package var maxSessionsPerTenant: Int?
  package var operators = OperatorRule()
  package var tls: ListenerTLS?
  /// Options that give up safety, and what that means where they are in effect.
  package var insecurities: [(option: String, meaning: String?)] = []
  /// Options with credentials in them that everybody on the machine can read.
  package var secretsInFlags: [String] = []
  package var drainDelay = TimeAmount.seconds(5)
  package var drainTime = TimeAmount.seconds(30)
  package var logsJSON = false
  package var auditFile: AuditFile?
  package var logLevel = Logger.Level.info
  package var maxEntryBytes = 256 << 10
  package var windowBytes = 256 << 10
  package var nodeWindowBytes = 256 << 20
  package var catchUpBytes = 32 << 20
  package var gatherBytes = 64 << 20
  package var http = HTTPLimits()
  package var maxConnections = GatewayConfiguration.mostConnections
  package var addresses = AddressLimits()
  /// Trusted proxies say first, by the PROXY protocol, whose connection each is.
  package var readsProxyHeaders = false
  package var deviceLimits = DeviceRegistry.Limits()
  package var devices = DeviceSettings()
  package var sweep = TimeAmount.seconds(30)
  package var pollInterval = TimeAmount.milliseconds(20)
  package var exitsWithStandardInput = false
  package var backlog = 1024
  package var threads = ProcessInfo.processInfo.activeProcessorCount
  package var retention = Retention(isGuests: true)

  /// - Throws: `Settings.Mistake`.
  package init(_ settings: Settings) async throws {
    guard let listen = ListenAddress(settings.text("listen") ?? "") else {
      throw settings.mistake(
        "listen", "must be HOST:PORT, such as 127.0.0.1:8080 or [::1]:8080, or unix: and an absolute path")
    }
    self.listen = listen
    redisText = settings.text("redis") ?? ""
    secretsInFlags = settings.secretsInFlags
    do {
      redis = try RedisURL(redisText)
    } catch {
      throw settings.mistake("redis", "is wrong: \(error)")
    }
    let process = ProcessInfo.processInfo
    var suffix = "-\(process.processIdentifier)"
    if case .tcp(_, let port) = listen, port != 0 { suffix = ":\(port)" }
    node = settings.text("node") ?? process.hostName + suffix
    guard Shape.name(node.utf8, upTo: 128) else {
      throw settings.mistake("node", "must be 1 to 128 characters of A-Z a-z 0-9 . _ ~ : @ -")
    }
    keyPrefix = settings.text("key-prefix") ?? keyPrefix
    if keyPrefix.contains(where: { "{} \n".contains($0) }) {
      throw settings.mistake(
        "key-prefix", "must hold no braces and no spaces: the braces around sessions decide the slot")
    }
    wakeup = settings.text("wakeup").flatMap(Wakeup.init) ?? .auto
    publicURL = settings.text("public-url")
    if let publicURL, GatewayConfiguration.origin(of: publicURL) == nil {
      throw settings.mistake("public-url", "must begin with http:// or https://")
    }
    if let origins = settings.list("allowed-origins") {
      for origin in origins where OriginRule.Pattern(origin) == nil {
        throw settings.mistake(
          "allowed-origins",
          "must list origins such as https://app.example.com, https://*.example.com, capacitor://localhost or null, "
            + "without paths; \"\(origin)\" is none")
      }
      allowedOrigins = Set(origins)
    }
    if let hosts = settings.list("allowed-hosts") {
      for host in hosts where HostRule.Pattern(host) == nil {
        throw settings.mistake(
          "allowed-hosts",
          "must list host names such as baton.example.com, *.example.com:8443 or [::1], or * for all; \"\(host)\" is none"
        )
      }
      allowedHosts = hosts
    }
    try await readCredentials(settings)
    if let url = settings.text("openai") {
      guard let address = UpstreamAddress(url) else {
        throw settings.mistake("openai", "must be an address such as http://127.0.0.1:8000/v1")
      }
      var key = ProcessInfo.processInfo.environment["OPENAI_API_KEY"]
      if let path = settings.text("openai-key-file") {
        guard let data = FileManager.default.contents(atPath: path), let text = String(data: data, encoding: .utf8)
        else {
          throw settings.mistake("openai-key-file", "can't be read")
        }
        key = text
      }
      key = key?.trimmingCharacters(in: .whitespacesAndNewlines)
      if let key, !key.utf8.allSatisfy({ (0x21...0x7E).contains($0) }) {
        throw settings.mistake("openai-key-file", "(or OPENAI_API_KEY) has a character in it that no key has")
      }
      relay = Self.bounded(Relay.Options(address, key: key?.isEmpty == false ? key : nil), settings)
      relay?.asksInBackground = settings.flag("openai-background")
    }
    if let url = settings.text("ai-sdk") {
      guard let address = UpstreamAddress(url) else {
        throw settings.mistake("ai-sdk", "must be an address such as http://127.0.0.1:3000/api/chat")
      }
      var options = Self.bounded(Relay.Options(address, key: nil), settings)
      options.isOneResource = true
      aiSDK = options
    }
    relayPaths = try Self.relayPaths(settings)
    aiSDKGrace = settings.milliseconds("ai-sdk-grace").map { .milliseconds($0) } ?? aiSDKGrace
    if let words = settings.list("roles") {
      let known = words.compactMap { NodeRoles($0) }
      guard known.count == words.count, !known.isEmpty else {
        throw settings.mistake("roles", "must be attach, relay or both, such as attach,relay")
      }
      roles = known.reduce([]) { $0.union($1) }
    }
    busy.policy = settings.text("on-busy").flatMap(BusyRule.Policy.init) ?? busy.policy
    busy.maxQueued = settings.count("max-queued") ?? busy.maxQueued
    busy.timeout = settings.milliseconds("queue-timeout").map { .milliseconds($0) } ?? busy.timeout
    busy.maxWaiting = settings.count("max-relays") ?? busy.maxWaiting
    func time(_ name: String, atLeast least: Int64 = 1) throws -> TimeAmount {
      guard let value = settings.milliseconds(name), value >= least else {
        throw settings.mistake(name, "must be at least \(least)ms")
      }
      return .milliseconds(value)
    }
    func size(_ name: String, atLeast least: Int) throws -> Int {
      guard let value = settings.bytes(name), value >= least else {
        throw settings.mistake(name, "must be at least \(least) bytes")
      }
      return value
    }
    drainDelay = try time("drain-delay", atLeast: 0)
    drainTime = try time("drain-time", atLeast: 0)
    logsJSON = settings.text("log-format") == "json"
    if let path = settings.text("audit-log") {
      do throws(AuditFile.Objection) {
        auditFile = try AuditFile(path)
      } catch {
        throw settings.mistake("audit-log", error.text)
      }
    }
    logLevel = settings.text("log-level").flatMap { Logger.Level(rawValue: $0) } ?? .info
    maxEntryBytes = try size("max-entry-bytes", atLeast: 1024)
    windowBytes = try size("window-bytes", atLeast: 1024)
    nodeWindowBytes = try size("node-window-bytes", atLeast: 1024)
    catchUpBytes = try size("catch-up-bytes", atLeast: 1 << 20)
    gatherBytes = try size(Limit.gatherBytes.rawValue, atLeast: 1 << 20)
    http.maxBodyBytes = try size("max-body-bytes", atLeast: 1024)
    http.headerTimeout = try time("header-timeout")
    http.idleTimeout = try time("idle-timeout")
    http.uploadTimeout = try time("upload-timeout")
    http.maxEntryBytes = maxEntryBytes
    http.maxBodyTime = try time("max-body-time")
    http.maxUploadTime = try time("max-upload-time")
    http.minBodyRate = try size("min-body-rate", atLeast: 1)
    http.maxUploadBytes = try size("max-upload-bytes", atLeast: 1024)
    http.maxRequests = settings.count("max-requests") ?? http.maxRequests
    maxConnections = settings.count("max-connections") ?? maxConnections
    addresses = AddressLimits(
      connections: settings.count("max-connections-per-address"),
      handshakes: settings.count("max-handshakes-per-address"),
      failures: settings.count("max-auth-failures-per-address"), proxies: try Self.proxies(settings))
    readsProxyHeaders = settings.flag("proxy-protocol")
    if readsProxyHeaders, settings.list("trusted-proxies")?.isEmpty ?? true {
      throw settings.mistake("proxy-protocol", "needs --trusted-proxies: nobody else is believed")
    }
    if readsProxyHeaders, case .unix = listen {
      throw settings.mistake("proxy-protocol", "is not read on a Unix socket: let --listen be an address")
    }
    func count(_ limit: Limit, _ standard: Int) -> Int { settings.count(limit.rawValue) ?? standard }
    deviceLimits = DeviceRegistry.Limits(
      all: count(.devices, deviceLimits.all), perSession: count(.devicesPerSession, deviceLimits.perSession),
      perSubject: count(.devicesPerSubject, deviceLimits.perSubject),
      perTenant: count(.devicesPerTenant, deviceLimits.perTenant))
    maxSessionsPerTenant = settings.count(Limit.sessionsPerTenant.rawValue)
    tenantQuotas = TenantQuotas.Bounds(
      entries: settings.count(Limit.entriesPerTenant.rawValue), bytes: settings.bytes(Limit.bytesPerTenant.rawValue))
    if let bytes = tenantQuotas.bytes, bytes < 1024 {
      throw settings.mistake(Limit.bytesPerTenant.rawValue, "must be at least 1024 bytes")
    }
    devices = DeviceSettings(
      pingInterval: try time("ping-interval", atLeast: 100), maxStall: try time("max-stall", atLeast: 100),
      retry: try time("retry"))
    devices.messages = Rate(count(.messages, 50))
    devices.pings = Rate(count(.pings, 50))
    devices.frames = Rate(count(.frames, 1000))
    sweep = try time("sweep", atLeast: 100)
    pollInterval = try time("poll-interval")
    exitsWithStandardInput = settings.flag("exit-with-stdin")
    backlog = settings.count("backlog") ?? backlog
    threads = settings.count("threads") ?? threads
    retention = Retention(
      milliseconds: UInt64(try time("retention", atLeast: 1000).nanoseconds / 1_000_000),
      entries: UInt64(settings.count("max-length") ?? 100_000), isGuests: true)
    webhooks = try webhooks(settings)
  }

  private static func proxies(_ settings: Settings) throws(Settings.Mistake) -> TrustedProxies {
    var blocks: [TrustedProxies.Block] = []
    for text in settings.list("trusted-proxies") ?? [] {
      guard let block = TrustedProxies.Block(text) else {
        throw settings.mistake(
          "trusted-proxies",
          "must list addresses and networks such as 10.0.0.0/8, fd00::/8 or 192.0.2.7; \"\(text)\" is none")
      }
      blocks.append(block)
    }
    return TrustedProxies(blocks)
  }

  private static func relayPaths(_ settings: Settings) throws(Settings.Mistake) -> [String: Relay.Options] {
    var paths: [String: Relay.Options] = [:]
    for text in settings.list("relay") ?? [] {
      let parts = text.split(separator: "=", maxSplits: 1)
      guard parts.count == 2, let address = UpstreamAddress(String(parts[1])) else {
        throw settings.mistake(
          "relay", "must be a path and an address such as /agent=http://127.0.0.1:8000/, several of them behind commas")
      }
      let path = String(parts[0])
      guard path.wholeMatch(of: /(?:\/[A-Za-z0-9._~:@\-]+)+/) != nil,
        path.split(separator: "/").allSatisfy({ $0 != "." && $0 != ".." })
      else {
        throw settings.mistake(
          "relay", "must begin with a path such as /agent or /app/agent, of A-Z a-z 0-9 . _ ~ : @ -")
      }
      if Routes.isOwn(path) { throw settings.mistake("relay", "can't have \(path): that is the gateway's own") }
      if paths[path] != nil { throw settings.mistake("relay", "has \(path) twice") }
      var options = bounded(Relay.Options(address, key: nil), settings)
      options.isOneResource = true
      paths[path] = options
    }
    return paths
  }

  private static func bounded(_ options: Relay.Options, _ settings: Settings) -> Relay.Options {
    var options = options
    options.maxOpen = settings.count("max-relays") ?? options.maxOpen
    if let limit = settings.milliseconds("relay-idle-timeout") {
      options.idleLimit = limit == 0 ? nil : .milliseconds(limit)
    }
    return options
  }

  /// As many as the process may have descriptors for, but for what else needs some: Redis, files, the log.
  private static var mostConnections: Int {
    var limit = rlimit()
    #if canImport(Glibc)
      let resource = __rlimit_resource_t(RLIMIT_NOFILE.rawValue)
    #else
      let resource = RLIMIT_NOFILE
    #endif
    guard getrlimit(resource, &limit) == 0 else { return 1024 }
    return max(16, Int(clamping: limit.rlim_cur) - 64)
  }

  /// Nil where a claim of this name can say whose a token is.
  package static func objection(toTenantClaim name: String) -> String? {
    let known = ["sub", "exp", "nbf", "iat", "iss", "aud", "jti", "sessions", "scope"]
    return known.contains(name) || name.isEmpty ? "must name a claim that says nothing else, such as tenant" : nil
  }

  /// Whether anybody is asked for credentials.
  package var asksWho: Bool { tokenKeys != nil || jwksURL != nil || app != nil }

  /// Scheme, host and port of a URL.
  package static func origin(of url: String) -> String? {
    guard let scheme = url.range(of: "://") else { return nil }
    let end = url[scheme.upperBound...].firstIndex(of: "/") ?? url.endIndex
    return OriginRule.normalized(String(url[..<end]))
  }

  package var hosts: HostRule {
    let publicHost = publicURL.flatMap(GatewayConfiguration.origin).flatMap { $0.split(separator: "/").last }
    var isLocal = false
    if case .tcp = listen { isLocal = listen.isLocal }
    guard let allowed = allowedHosts ?? (!asksWho && isLocal ? [] : nil) else { return .any }
    return HostRule(allowed: allowed, publicHost: publicHost.map(String.init))
  }

  package var origins: OriginRule {
    OriginRule(allowed: allowedOrigins, publicOrigin: publicURL.flatMap(GatewayConfiguration.origin))
  }
}
