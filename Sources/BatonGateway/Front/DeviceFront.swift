import BatonProtocol
import BatonSession
import BatonWebSocket
import Logging
import NIOCore
import NIOHTTP1

/// Judges attach requests before the gateway proper sees them (PROTOCOL 3), and puts up the device's handlers.
package final class DeviceFront: Sendable {
  private let attaching: any DeviceAttaching
  private let registry: DeviceRegistry
  private let origins: OriginRule
  private let hosts: HostRule
  private let addresses: AddressLimits
  let settings: DeviceSettings
  private let socketLimits: WebSocketLimits
  private let state: NodeState
  let metrics: GatewayMetrics
  private let refusals: Refusals
  let authenticator: Authenticator?
  let quotas: TenantQuotas
  let audit: AuditLog?
  private let readsProxyHeaders: Bool
  private let asksForCertificates: Bool
  private let proxied = ProxiedConnections()
  private let logger: Logger

  package init(
    attaching: any DeviceAttaching, registry: DeviceRegistry, origins: OriginRule, hosts: HostRule,
    addresses: AddressLimits, settings: DeviceSettings, state: NodeState, metrics: GatewayMetrics, refusals: Refusals,
    authenticator: Authenticator?, quotas: TenantQuotas, readsProxyHeaders: Bool,
    asksForCertificates: Bool, audit: AuditLog?, logger: Logger
  ) {
    self.attaching = attaching
    self.registry = registry
    self.origins = origins
    self.hosts = hosts
    self.addresses = addresses
    self.settings = settings
    socketLimits = WebSocketLimits(frames: settings.frames, pings: settings.pings)
    self.state = state
    self.metrics = metrics
    self.refusals = refusals
    self.authenticator = authenticator
    self.quotas = quotas
    self.audit = audit
    self.readsProxyHeaders = readsProxyHeaders
    self.asksForCertificates = asksForCertificates
    self.logger = logger
  }

  enum Door {
    /// Hummingbird answers: all that don't ask for a WebSocket or an event stream of a session.
    case control
    case device(DeviceRequest.Wire)
    case refused(Problem)
  }

  func door(for head: HTTPRequestHead) -> Door {
    do {
      try hosts.check(head)
    } catch {
      return .refused(error)
    }
    let codings = head.headers["Transfer-Encoding"]
    guard codings.allSatisfy({ $0.lowercased() == "chunked" }), codings.count <= 1 else {
      return .refused(.unknownTransferCoding)
    }
    // RFC 9110 section 10.1.1.
    if head.headers["Expect"].contains(where: { $0.lowercased() != "100-continue" }) {
      return .refused(.unknownExpectation)
    }
    switch Target(head.uri).resource {
    case .session, .malformed: break
    case .response, .responses, .controls, .input, .cancel, .other: return .control
    }
    if let wire = DeviceRequest.wire(of: head) {
      // It would be waited for.
      let isWithoutBody = codings.isEmpty && head.headers["Content-Length"].allSatisfy { $0 == "0" }
      return isWithoutBody ? .device(wire) : .refused(.unexpectedBody)
    }
    return head.headers["Sec-WebSocket-Key"].isEmpty ? .control : .refused(.lostUpgrade)
  }

  var retry: TimeAmount { settings.retry }

  /// How long an answer may lie there and nobody takes a byte of it.
  var maxStall: TimeAmount { attaching.isShortOfMemory ? StallWatch.limitWhenShort : settings.maxStall }

  var isDraining: Bool { state.drainingFor != nil }

  func connectionIsBusy(_ isBusy: Bool) { state.connectionIsBusy(isBusy) }

  /// Whose request it is.
  func client(_ channel: any Channel, _ values: (String) -> [String]) -> PeerAddress? {
    addresses.proxies.client(proxied.peer(of: channel), values)
  }

  func client(_ channel: any Channel, _ head: HTTPRequestHead) -> PeerAddress? {
    client(channel) { head.headers[$0] }
  }

  /// Where the connection is a trusted proxy's, which says first whose it is.
  func proxyHeader(of channel: any Channel) -> ProxyHeaderHandler? {
    guard readsProxyHeaders, addresses.proxies.contains(channel.remoteAddress) else { return nil }
    return ProxyHeaderHandler { [addresses, proxied, metrics, audit] header in
      guard let client = header.client else { return true }
      let address = PeerAddress(client)
      guard addresses.opened(address) else {
        metrics.exceeded(.connectionsPerAddress)
        audit?.refused(.tooManyConnections, AuditLog.Facts(address: address))
        return false
      }
      channel.closeFuture.whenComplete { _ in addresses.closed(address) }
      proxied.began(channel, for: client)
      return true
    } refused: { [refusals] problem in
      refusals.note(
        .badProxyHeader(problem), uri: "", origin: nil, from: PeerAddress(channel.remoteAddress))
    }
  }

  /// Nil where nothing is left to be sent.
  func admit(
    _ head: HTTPRequestHead, _ wire: DeviceRequest.Wire, from address: PeerAddress?, on eventLoop: any EventLoop,
    until gone: EventLoopFuture<Void>
  ) -> EventLoopFuture<NIOLoopBound<Admitted?>> {
    let asked: Asked
    let place: DeviceRegistry.Place
    do {
      try addresses.attaches(address)
      asked = try check(head, wire)
      place = try registry.reserve()
    } catch {
      return eventLoop.makeFailedFuture(error)
    }
    let admitted: EventLoopFuture<NIOLoopBound<Admitted?>>
    if let authenticator {
      admitted = eventLoop.makeFutureWithTask {
        let identity = try await authenticator.identify(asked.credentials, from: address)
        let session = identity.own(asked.request.attach.session)
        guard identity.may(.read, session) else { throw Problem.notAllowed(.read, session).refusing(identity) }
        var request = asked.request
        request.attach.session = session
        (request.identity, request.address) = (identity, address)
        return request
      }.flatMap { request in self.admit(asked, request, place, on: eventLoop, until: gone) }
    } else {
      admitted = admit(asked, asked.request, place, on: eventLoop, until: gone)
    }
    return admitted.flatMapErrorThrowing { error in
      place.leave()
      throw error
    }
  }

  /// Succeeds when there is something after `offset`, after `time`, and where the connection or the node goes away. What it
  /// is tells a page of history. Who waits takes a place until then.
  func entry(
    of session: SessionName, after offset: Offset, _ time: TimeAmount, _ place: DeviceRegistry.Place,
    _ channel: any Channel
  ) -> EventLoopFuture<Void> {
    let eventLoop = channel.eventLoop
    if isDraining { return eventLoop.makeSucceededVoidFuture() }
    let request = DeviceRequest(
      attach: AttachRequest(
        session: session, start: .after(offset), rollup: .auto, untilEnd: false, device: DeviceFront.randomName(),
        onlyResponse: nil),
      wire: .events)
    return eventLoop.flatSubmit { [attaching, registry] in
      let gone = DeviceFront.ending(channel)
      return attaching.attach(request, on: eventLoop, until: gone.futureResult).flatMap { admission in
        guard case .admitted(let driver) = admission else { return eventLoop.makeSucceededVoidFuture() }
        let wait = EntryWait(eventLoop)
        registry.insert(driver, on: eventLoop)
        driver.start(wait)
        let timer = eventLoop.assumeIsolated().scheduleTask(in: time) { wait.end() }
        gone.futureResult.assumeIsolated().whenSuccess { wait.end() }
        return wait.over.map {
          timer.cancel()
          registry.remove(driver, on: eventLoop)
          driver.closed()
        }
      }.always { _ in gone.fail(NoMore()) }
    }.always { _ in place.leave() }
  }

  /// Nobody waits for the end of a connection any more.
  struct NoMore: Error {}

  private static func ending(_ channel: any Channel) -> EventLoopPromise<Void> {
    if let gate = try? channel.pipeline.syncOperations.handler(type: Gate.self) {
      return gate.ending(channel.eventLoop)
    }
    let ended = channel.eventLoop.makePromise(of: Void.self)
    ended.succeed()
    return ended
  }

  /// The device has gone.
  func left(_ place: DeviceRegistry.Place) {
    place.leave()
    metrics.deviceLeft()
  }

  /// Tokens were revoked: who is attached by one is closed.
  func judgeAgain() { registry.judgeAgain() }

  /// The place of a device, for who follows a session without being one: given back with its last use.
  /// - Throws: `Problem` 503, 429 where there is none.
  func place(in session: SessionName, for identity: Identity?) throws(Problem) -> DeviceRegistry.Place {
    let place = try registry.reserve()
    do throws(Problem) {
      try place.take(session, subject: identity?.subject)
    } catch {
      throw error.refusing(identity)
    }
    return place
  }

  /// Follows a session as a device does, without a wire of its own.
  func tap(
    _ asked: ResponseTap.Request, in session: SessionName, _ place: DeviceRegistry.Place, _ channel: any Channel
  ) -> EventLoopFuture<ResponseTap> {
    let eventLoop = channel.eventLoop
    let request = DeviceRequest(
      attach: AttachRequest(
        session: session, start: asked.start, rollup: asked.rollup, untilEnd: asked.response != nil,
        device: DeviceFront.randomName(), onlyResponse: asked.response),
      wire: .entries)
    return eventLoop.flatSubmit { [attaching, registry] in
      let gone = DeviceFront.ending(channel)
      return attaching.attach(request, on: eventLoop, until: gone.futureResult).flatMapThrowing { admission in
        guard case .admitted(let driver) = admission else { throw Problem.storeUnavailable }
        let tap = ResponseTap(driver, on: eventLoop) {
          registry.remove(driver, on: eventLoop)
          gone.fail(NoMore())
          withExtendedLifetime(place) {}
        }
        registry.insert(driver, on: eventLoop)
        driver.start(tap)
        gone.futureResult.assumeIsolated().whenSuccess { tap.gone(ChannelError.ioOnClosedChannel) }
        return tap
      }.flatMapErrorThrowing { error in
        gone.fail(NoMore())
        throw error
      }
    }
  }

  private struct Asked {
    var request: DeviceRequest
    /// Of the response that accepts it.
    var responseHead: String
    var isChunked: Bool
    var credentials: Credentials
  }

  private func admit(
    _ asked: Asked, _ request: DeviceRequest, _ place: DeviceRegistry.Place, on eventLoop: any EventLoop,
    until gone: EventLoopFuture<Void>
  ) -> EventLoopFuture<NIOLoopBound<Admitted?>> {
    do {
      try place.take(request.attach.session, subject: request.identity?.subject)
    } catch {
      return eventLoop.makeFailedFuture(error)
    }
    return attaching.attach(request, on: eventLoop, until: gone).map { admission in
      switch admission {
      case .finished:
        place.leave()
        return NIOLoopBound(nil, eventLoop: eventLoop)
      case .admitted(let driver):
        return NIOLoopBound(
          Admitted(self, request, driver, place, eventLoop, asked.responseHead, isChunked: asked.isChunked),
          eventLoop: eventLoop)
      }
    }
  }

  private func check(_ head: HTTPRequestHead, _ wire: DeviceRequest.Wire) throws(Problem) -> Asked {
    if let retry = state.drainingFor { throw .draining(retryAfter: retry) }
    try origins.check(head.headers["Origin"])
    guard state.roles.contains(.attach) else { throw .attachesNobody }
    let target = Target(head.uri)
    guard case .session(let text) = target.resource else { throw .badEncoding }
    var headers: HTTPHeaders
    var offered: [String] = []
    switch wire {
    case .webSocket:
      switch ServerHandshake.validate(head, supported: ["baton.v1"]) {
      case .success(let accepted):
        headers = accepted.headers
        offered = accepted.offered
      case .failure(let refusal): throw Problem(refusal)
      }
    case .events, .text, .entries:
      headers = DeviceFront.eventStreamHeaders(head)
    }
    let session = try SessionName(checking: text)
    let query = try Query(target.query)
    let credentials =
      try authenticator?.credentials({ head.headers[$0] }, offered: offered, query: query) ?? Credentials()
    if wire != .webSocket {
      headers.add(contentsOf: sharing(head))
      headers.add(name: "Date", value: HTTPDate.now())
    }
    let request = try DeviceRequest(
      session: session, query: query, wire: wire,
      lastEventID: wire == .webSocket ? nil : head.headers["Last-Event-ID"].first,
      identity: nil, randomDevice: DeviceFront.randomName())
    headers.add(name: "Baton-Session", value: session.description)
    if let response = request.attach.onlyResponse { headers.add(name: "Baton-Response", value: response) }
    var response = wire == .webSocket ? "HTTP/1.1 101 Switching Protocols\r\n" : "HTTP/1.1 200 OK\r\n"
    for (name, value) in headers { response += "\(name): \(value)\r\n" }
    return Asked(
      request: request, responseHead: response + "\r\n", isChunked: head.knowsChunks, credentials: credentials)
  }

  static func eventStreamHeaders(_ head: HTTPRequestHead) -> HTTPHeaders {
    var headers: HTTPHeaders = [
      "Content-Type": "text/event-stream", "Cache-Control": "no-store, no-transform", "X-Accel-Buffering": "no",
      "Connection": "close",
    ]
    if head.knowsChunks { headers.add(name: "Transfer-Encoding", value: "chunked") }
    return headers
  }

  /// Lets a page of an allowed origin read the answer, and a refusal too: it says what to mend.
  func sharing(_ head: HTTPRequestHead) -> HTTPHeaders {
    let origins = head.headers["Origin"]
    guard let origin = origins.first, self.origins.allows(origins) else { return [:] }
    return [
      "Access-Control-Allow-Origin": origin, "Access-Control-Expose-Headers": OriginRule.exposedHeaders,
      "Vary": "Origin",
    ]
  }

  /// A page can't read why its WebSocket was refused: it is opened, told, and closed. What passes stays a status, so that a
  /// proxy may ask another node. Nil where it is no browser's.
  func refusalForPages(_ problem: Problem, _ head: HTTPRequestHead) -> (accepted: HTTPHeaders, frames: ByteBuffer)? {
    guard problem.status != .serviceUnavailable, !head.headers["Origin"].isEmpty,
      head.headers["User-Agent"].first?.hasPrefix("Mozilla/") == true,
      case .success(let accepted) = ServerHandshake.validate(head, supported: ["baton.v1"])
    else { return nil }
    var frames = ByteBuffer()
    frames.writeWebSocketText { bytes in
      bytes.writeImmutableBuffer(
        ControlFrame.error(
          code: problem.name.replacing("-", with: "_"), message: problem.detail, key: nil
        ).encoded())
    }
    frames.writeWebSocketClose(CloseCode(problem.status), reason: problem.type)
    return (accepted.headers, frames)
  }

  static func randomName() -> String { "d-" + String(UInt64.random(in: .min ... .max), radix: 36) }

  /// A TLS handshake that may have wanted a certificate of the client.
  func handshakeFailed(_ channel: any Channel) {
    guard asksForCertificates else { return }
    refusals.note(.badCertificate, uri: "", origin: nil, from: PeerAddress(proxied.peer(of: channel)))
  }

  func problem(for error: any Error) -> Problem {
    if let problem = error as? Problem { return problem }
    logger.error("an attach failed", metadata: ["error": "\(error)"])
    return Problem(.internalServerError, "internal", "The gateway failed; this is logged. Try again.")
  }

  func refused(_ problem: Problem, _ head: HTTPRequestHead, _ channel: any Channel) {
    refusals.note(problem, uri: head.uri, origin: head.headers["Origin"].first, from: client(channel, head))
  }

  /// A device that was let in, on its event loop.
  final class Admitted {
    private let front: DeviceFront
    private let request: DeviceRequest
    private let driver: any DeviceDriver
    private let place: DeviceRegistry.Place
    private let eventLoop: any EventLoop
    let responseHead: String
    private let isChunked: Bool
    private var begin: () -> Void = {}
    private var read: (NIOAny) -> Void = { _ in }

    init(
      _ front: DeviceFront, _ request: DeviceRequest, _ driver: any DeviceDriver, _ place: DeviceRegistry.Place,
      _ eventLoop: any EventLoop, _ responseHead: String, isChunked: Bool
    ) {
      self.front = front
      self.isChunked = isChunked
      self.request = request
      self.driver = driver
      self.place = place
      self.eventLoop = eventLoop
      self.responseHead = responseHead
    }

    /// Adds the handlers of the device's wire in front of the gate.
    func install(_ channel: any Channel, before gate: Gate) throws {
      let pipeline = channel.pipeline.syncOperations
      let life = DeviceLife(
        request, driver, place, front: front, ticker: front.registry.ticker(eventLoop))
      switch request.wire {
      case .webSocket:
        let device = WebSocketDevice(life, limits: front.socketLimits)
        try pipeline.addHandler(device, position: .before(gate))
        let context = try pipeline.context(handler: device)
        read = { device.channelRead(context: context, data: $0) }
        begin = { device.start() }
      case .events, .text, .entries:
        let device = EventStreamDevice(life, isChunked: isChunked)
        try pipeline.addHandler(device, position: .before(gate))
        begin = { device.start() }
      }
    }

    func start() {
      front.registry.starts(driver, on: eventLoop)
      front.metrics.deviceAttached()
      begin()
    }

    /// Bytes that came with the request.
    func replay(_ bytes: NIOAny) { read(bytes) }

    /// The connection went away before it could be handed over.
    func abandon() {
      place.leave()
      driver.closed()
    }
  }
}

extension HTTPRequestHead {
  /// HTTP/1.1 (RFC 9112 section 7.1).
  var knowsChunks: Bool { version.major == 1 && version.minor >= 1 }
}

extension CloseCode {
  /// Of a refusal (PROTOCOL 5).
  init(_ status: HTTPResponseStatus) { self.init(rawValue: 4000 + UInt16(truncatingIfNeeded: status.code % 1000)) }
}

extension Problem {
  init(_ refusal: ServerHandshake.Refusal) {
    self.init(refusal.status, "bad-handshake", refusal.detail)
    for (name, value) in refusal.headers { headers.append(Header(name: name, value: value)) }
  }
}
