import BatonProducer
import BatonProtocol
import BatonRelay
import BatonSession
import BatonStore
import Logging
import NIOConcurrencyHelpers
import NIOCore
import NIOPosix
import ServiceLifecycle

/// What connects the front to Redis.
package struct GatewayBackend: Sendable {
  let devices: any DeviceAttaching
  let sessions: any SessionOperations
  let rescue: ResponseRescue
  let webhooks: StoredWebhooks?
  let register: RelayRegister?
  /// Runs until it is cancelled.
  let run: @Sendable () async throws -> Void

  package init(
    devices: any DeviceAttaching, sessions: any SessionOperations, rescue: ResponseRescue = ResponseRescue(),
    webhooks: StoredWebhooks? = nil, register: RelayRegister? = nil, run: @escaping @Sendable () async throws -> Void
  ) {
    (self.devices, self.sessions, self.rescue, self.run) = (devices, sessions, rescue, run)
    (self.webhooks, self.register) = (webhooks, register)
  }
}

/// A gateway node: the HTTP front, its devices, and how it goes away (PROTOCOL 11).
package final class Gateway: Service {
  private let configuration: GatewayConfiguration
  private let backend: GatewayBackend
  private let parts: GatewayParts
  private let onListening: @Sendable (SocketAddress) -> Void
  /// Nil where nobody wants one.
  private let audit: AuditLog?
  private let authenticator = NIOLockedValueBox<Authenticator?>(nil)

  /// - Parameter onListening: called once, with the address that devices reach.
  package init(
    configuration: GatewayConfiguration, parts: GatewayParts, backend: GatewayBackend,
    onListening: @escaping @Sendable (SocketAddress) -> Void = { _ in }
  ) {
    self.configuration = configuration
    self.parts = parts
    self.backend = backend
    self.onListening = onListening
    audit = configuration.auditFile.map { file in
      AuditLog(node: configuration.node, lost: { file.output.dropped }, write: { file.output.write($0) })
    }
  }

  /// Reads the keys of tokens and the listener's certificate again; what is in use stays where they can't be read.
  package func reload() async {
    let authenticator = authenticator.withLockedValue { $0 }
    if let file = configuration.auditFile {
      do {
        try file.reopen()
        parts.logger.notice("the audit log was opened again")
      } catch {
        parts.logger.error("the audit log stays as it was", metadata: ["error": "\(error.text)"])
      }
    }
    if authenticator == nil, configuration.tls == nil, configuration.auditFile == nil {
      parts.logger.notice("ignored a signal: nobody is asked for a token, and there is no TLS: nothing is read again")
    }
    if let authenticator { await reloadKeys(authenticator) }
    guard let tls = configuration.tls else { return }
    do {
      try tls.reload()
      parts.logger.notice("the certificate was read again")
      audit?.acted("certificate-read")
    } catch {
      audit?.acted("certificate-kept", AuditLog.Facts(), [("option", error.option)])
      parts.logger.error("the certificate stays as it was", metadata: ["error": "--\(error.option) \(error.text)"])
    }
  }

  private func reloadKeys(_ authenticator: Authenticator) async {
    do {
      let keys = try await configuration.tokenKeySources.read()
      authenticator.replaceKeys(keys)
      await authenticator.refreshKeys()
      parts.logger.notice(
        "the keys of tokens were read again", metadata: ["for": "\(keys.known.joined(separator: " "))"])
      audit?.acted("keys-read")
    } catch {
      audit?.acted("keys-kept")
      let text = (error as? TokenKeySources.Objection).map { "--\($0.option) \($0.text)" } ?? "\(error)"
      parts.logger.error("the keys of tokens stay as they were", metadata: ["error": "\(text)"])
    }
  }

  package func run() async throws {
    let addresses = configuration.addresses
    let authenticator = await makeAuthenticator()
    self.authenticator.withLockedValue { $0 = authenticator }
    let quotas = TenantQuotas(configuration.tenantQuotas)
    var sessions = backend.sessions
    if configuration.tenantClaim != nil { sessions = TenantSessions(sessions: sessions, quotas: quotas) }
    let audit = audit
    let refusals = Refusals(metrics: parts.metrics, logger: parts.logger, audit: audit)
    let front = DeviceFront(
      attaching: backend.devices, registry: parts.registry, origins: configuration.origins,
      hosts: configuration.hosts, addresses: addresses, settings: configuration.devices, state: parts.state,
      metrics: parts.metrics, refusals: refusals, authenticator: authenticator, quotas: quotas,
      readsProxyHeaders: configuration.readsProxyHeaders, asksForCertificates: configuration.tls?.clients != nil,
      audit: audit, logger: parts.logger)
    let relays = try makeRelays()
    var watch: RelayWatch?
    if let relay = relays.openAI, configuration.roles.contains(.relay) {
      let takeOver = OpenAITakeOver(store: sessions, relay: relay)
      backend.rescue.current = { await takeOver.goOn(with: $1, in: $0) }
      if let register = backend.register {
        relay.register = RegisteredAnswers(register: register)
        watch = RelayWatch(
          register: register, store: sessions, takeOver: takeOver, state: parts.state, logger: parts.logger)
      }
    }
    var webhooks: WebhookSender?
    if let options = configuration.webhooks, let stored = backend.webhooks {
      webhooks = try WebhookSender(options, stored: stored, metrics: parts.metrics.webhooks, logger: parts.logger)
    }
    let routes = Routes(
      store: sessions, front: front, origins: configuration.origins, operators: configuration.operators,
      authenticator: authenticator, state: parts.state, metrics: parts.metrics, refusals: refusals,
      limits: configuration.http, relays: relays, gathering: GatherBudget(limit: configuration.gatherBytes),
      logger: parts.logger)
    let listener = Listener(
      front: front, tls: configuration.tls, limits: configuration.http, responder: routes.respond,
      logger: parts.logger.quieted)

    // The tasks are detached: the server must not hear of a shutdown before the drain's first part is over.
    let (backend, watched, configuration, parts, onListening) = (backend, sessions, configuration, parts, onListening)
    let backing = Task.detached { try await backend.run() }
    let serving = Task.detached { [webhooks] in
      await webhooks?.recorded(within: .seconds(5))
      try await listener.run(
        on: configuration.listen, backlog: configuration.backlog, parts.acceptLoop,
        connectionsOn: parts.eventLoopGroup,
        accepting: {
          AcceptGuard(
            most: configuration.maxConnections, addresses: addresses, metrics: parts.metrics, audit: audit,
            logger: parts.logger)
        }, onListening: onListening)
    }
    defer {
      backing.cancel()
      serving.cancel()
    }
    try await withThrowingTaskGroup { group in
      group.addTask {
        try await withTaskCancellationHandler {
          try await serving.value
        } onCancel: {
          serving.cancel()
        }
        // The server ends with its last request; devices are the drain's.
        if parts.state.drainingFor != nil { try await Task.sleep(for: .seconds(1 << 30)) }
      }
      group.addTask {
        try await withTaskCancellationHandler {
          try await backing.value
        } onCancel: {
          backing.cancel()
        }
      }
      if let audit { group.addTask { await audit.run() } }
      if let authenticator {
        let watch = RevocationWatch(
          store: watched, revocations: authenticator.revocations, registry: parts.registry,
          logger: parts.logger)
        group.addTask { await watch.run() }
      }
      if let webhooks { group.addTask { await webhooks.run() } }
      if let watch { group.addTask { await watch.run() } }
      group.addTask { [webhooks] in
        // Ends when a shutdown is asked for.
        try? await gracefulShutdown()
        if Task.isCancelled { return }
        async let handedOver: Void? = webhooks?.stop()
        try await self.drain(listener, relays)
        await handedOver
      }
      try await group.next()
      group.cancelAll()
    }
  }

  private func makeRelays() throws -> Relays {
    let (group, logger) = (parts.eventLoopGroup, parts.logger)
    var writing = Producer.Configuration()
    writing.keyPrefix = configuration.keyPrefix
    let producer = SharedProducer { [redis = configuration.redisText, writing] () throws(ProducerError) in
      try Producer(redis: redis, writing, eventLoopGroup: group, logger: logger)
    }
    let made = { (options: Relay.Options) in
      try Relay(options, producer: try producer.current(), logger: logger)
    }
    var relays = Relays()
    relays.openAI = try configuration.relay.map(made)
    relays.aiSDK = try configuration.aiSDK.map(made)
    relays.paths = try configuration.relayPaths.mapValues(made)
    relays.grace = configuration.aiSDKGrace
    relays.busy = configuration.busy
    relays.producer = producer
    return relays
  }

  private func makeAuthenticator() async -> Authenticator? {
    guard configuration.asksWho else { return nil }
    let client = AuthClient(on: parts.eventLoopGroup)
    let remoteKeys = configuration.jwksURL.map {
      RemoteKeys($0, timeout: configuration.authTimeout, client: client, logger: parts.logger)
    }
    await remoteKeys?.refresh()
    let app = configuration.app.map {
      AskedApp($0, client: client, metrics: parts.metrics, logger: parts.logger)
    }
    return Authenticator(
      keys: configuration.tokenKeys ?? TokenKeys(), remoteKeys: remoteKeys, app: app, issuer: configuration.issuer,
      audience: configuration.audience, tenantClaim: configuration.tenantClaim, addresses: configuration.addresses)
  }

  private func drain(_ listener: Listener, _ relays: Relays) async throws {
    let wait = configuration.drainDelay + configuration.drainTime
    parts.state.beginDraining(retryAfter: max(1, min(30, wait.nanoseconds / 1_000_000_000)))
    parts.logger.info("draining", metadata: ["devices": "\(parts.registry.count)"])
    try await Task.sleep(for: .nanoseconds(configuration.drainDelay.nanoseconds))
    let deadline = ContinuousClock.now + .nanoseconds(configuration.drainTime.nanoseconds)
    listener.stop()
    parts.registry.drain(over: configuration.drainTime)
    try await waitForDevicesAndRequests(for: configuration.drainTime)
    // Answers that are relayed have the same time.
    while relays.open > 0, ContinuousClock.now < deadline { try await Task.sleep(for: .milliseconds(50)) }
    await relays.drain()
    // Uploads are answered now; what has not left after the closing handshake's patience is not waited for.
    parts.state.endUploads()
    try await waitForDevicesAndRequests(for: .seconds(6))
    await relays.producer?.shutdown()
    parts.logger.info("drained", metadata: ["left": "\(parts.registry.count)"])
  }

  private func waitForDevicesAndRequests(for time: TimeAmount) async throws {
    let deadline = ContinuousClock.now + .nanoseconds(time.nanoseconds)
    while parts.registry.count > 0 || parts.state.busyConnections > 0, ContinuousClock.now < deadline {
      try await Task.sleep(for: .milliseconds(50))
    }
  }
}

/// What the front and the backend share.
package struct GatewayParts: Sendable {
  package let eventLoopGroup: MultiThreadedEventLoopGroup
  /// What else the two do besides connections, two of them where there are as many.
  package let storeLoop: any EventLoop
  package let acceptLoop: any EventLoop
  package let registry: DeviceRegistry
  package let state: NodeState
  package let metrics: GatewayMetrics
  package let logger: Logger

  package init(configuration: GatewayConfiguration, metrics: GatewayMetrics = GatewayMetrics(), logger: Logger) {
    eventLoopGroup = MultiThreadedEventLoopGroup(numberOfThreads: configuration.threads)
    (storeLoop, acceptLoop) = (eventLoopGroup.next(), eventLoopGroup.next())
    registry = DeviceRegistry(limits: configuration.deviceLimits, settings: configuration.devices)
    state = NodeState(roles: configuration.roles)
    self.metrics = metrics
    self.logger = logger
  }
}

extension Logger {
  /// For parts of others that say at `info` what we say ourselves.
  fileprivate var quieted: Logger {
    var logger = self
    logger.logLevel = max(logLevel, .critical)
    return logger
  }
}
