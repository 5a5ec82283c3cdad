import BatonProtocol
import BatonWebSocket
import NIOCore

/// The WebSocket of one device: pings, and the device frames that need no driver (PROTOCOL 5).
final class WebSocketDevice: WebSocketHandler, TickedWire {
  private let life: DeviceLife
  private var messages = RateMeter()
  private var pings = RateMeter()
  private var isAuthenticating = false
  private var hasStarted = false
  private var sincePing = TimeAmount.zero
  private var heldRead = false

  init(_ life: DeviceLife, limits: WebSocketLimits) {
    self.life = life
    super.init(role: .server, limits: limits)
  }

  private var metrics: GatewayMetrics { life.front.metrics }

  override func handlerRemoved(context: ChannelHandlerContext) {
    life.end()
    isWritable = false
    super.handlerRemoved(context: context)
  }

  /// The 101 is written: begin.
  func start() {
    guard let context else { return }
    hasStarted = true
    isWritable = context.channel.isWritable
    life.start(self, on: context.eventLoop)
  }

  // MARK: From the device

  override func received(_ event: WebSocketEvent, _ context: ChannelHandlerContext) {
    switch event {
    case .text(let bytes): received(bytes)
    case .binary: close(.policyViolation, reason: "send JSON objects in text frames")
    case .ping, .pong, .close: break
    }
  }

  private func received(_ bytes: ByteBuffer) {
    guard isOpen else { return }
    let now = NIODeadline.now()
    // What is large and comes too often is not even read.
    if bytes.readableBytes > 1024, messages.wait(life.settings.messages, now: now) > .zero {
      return tooManyMessages(key: nil)
    }
    guard let members = JSONValue(bytes)?.members else {
      close(.policyViolation, reason: "not a JSON object")
      return
    }
    guard let type = members["type"]?.text else {
      send(.error(code: "bad_request", message: "The member type is missing.", key: members["key"]?.text))
      return
    }
    let message = DeviceMessage(type: type, members: members)
    if type == "ping" {
      guard pings.take(life.settings.pings, now: now) else {
        metrics.exceeded(.pings)
        return close(.policyViolation, reason: WebSocketViolation.tooManyPings.reason)
      }
      send(.pong)
    } else if !messages.take(life.settings.messages, now: now) {
      tooManyMessages(key: message.text("key"))
    } else if type == "auth", let authenticator = life.front.authenticator {
      authenticate(message.text("token"), authenticator)
    } else if type == "input", let problem = life.front.quotas.problem(life.session, bytes: bytes.readableBytes) {
      if let limit = problem.limit { metrics.exceeded(limit) }
      send(.error(code: "rate_limited", message: problem.detail, key: message.text("key")))
    } else if !life.driver.received(message) {
      let text = "This gateway knows no frame of that type; it was ignored."
      send(.error(code: "unsupported", message: text, key: message.text("key")))
    }
  }

  private func tooManyMessages(key: String?) {
    metrics.exceeded(.messages)
    let text = "This device sends more than --max-messages-per-second allows; it was ignored. Send it again later."
    send(.error(code: "rate_limited", message: text, key: key))
  }

  private func authenticate(_ token: String?, _ authenticator: Authenticator) {
    guard let context else { return }
    guard !isAuthenticating else {
      return send(
        .error(code: "rate_limited", message: "Wait for authenticated before sending another token.", key: nil))
    }
    isAuthenticating = true
    let identity = identity
    let bound = NIOLoopBound(self, eventLoop: context.eventLoop)
    let address = life.address
    context.eventLoop.makeFutureWithTask { try await authenticator.renewed(identity, token: token, from: address) }
      .whenComplete { result in
        bound.value.isAuthenticating = false
        bound.value.authenticated(result)
      }
  }

  private func authenticated(_ result: Result<Identity, any Error>) {
    guard let context, hasStarted else { return }
    switch result {
    case .failure(let problem as Problem) where problem.status == .tooManyRequests:
      metrics.exceeded(.failuresPerAddress)
      send(.error(code: "rate_limited", message: problem.detail, key: nil))
    case .failure(let problem as Problem) where problem.status == .serviceUnavailable:
      send(.error(code: "auth_unavailable", message: problem.detail, key: nil))
    case .failure(let problem as Problem) where problem.status == .forbidden:
      close(.notAllowed, reason: "the app does not allow this session")
    case .failure: close(.unauthenticated, reason: "the token is not valid")
    case .success(let identity):
      guard identity.may(.read, life.session),
        identity.subject == self.identity?.subject ?? identity.subject
      else {
        close(.notAllowed, reason: "the token is not for this session and subject")
        return
      }
      send(.authenticated(expiresInMs: Int(ExpiryWatch.left(identity.expires).nanoseconds / 1_000_000)))
      life.renewed(identity, self, on: context.eventLoop)
    }
  }

  override func errorCaught(context: ChannelHandlerContext, error: any Error) { context.close(promise: nil) }

  override func violated(_ violation: WebSocketViolation, _ context: ChannelHandlerContext) {
    metrics.violated(violation.reason)
    switch violation {
    case .tooManyFrames:
      metrics.exceeded(.frames)
      life.closes(.policyViolation, WebSocketViolation.tooManyFrames.reason)
    case .tooManyPings:
      metrics.exceeded(.pings)
      life.closes(.policyViolation, WebSocketViolation.tooManyPings.reason)
    default: break
    }
  }

  override func channelInactive(context: ChannelHandlerContext) {
    life.end()
    super.channelInactive(context: context)
  }

  override func userInboundEventTriggered(context: ChannelHandlerContext, event: Any) {
    switch event {
    case ChannelEvent.inputClosed: context.close(promise: nil)
    default: context.fireUserInboundEventTriggered(event)
    }
  }

  /// From here, because behind a gate that had control requests no read comes by itself.
  override func channelReadComplete(context: ChannelHandlerContext) {
    super.channelReadComplete(context: context)
    read(context: context)
  }

  /// Who takes nothing is not listened to: answers to its pings would pile up.
  override func read(context: ChannelHandlerContext) {
    heldRead = !context.channel.isWritable && isOpen
    if !heldRead { super.read(context: context) }
  }

  override func channelWritabilityChanged(context: ChannelHandlerContext) {
    super.channelWritabilityChanged(context: context)
    isWritable = context.channel.isWritable
    if heldRead, context.channel.isWritable {
      sincePing = .zero
      read(context: context)
    }
    if context.channel.isWritable, isOpen, hasStarted { life.driver.pump() }
  }

  // MARK: DeviceWire

  /// NIO tells of each change at once.
  private(set) var isWritable = false
  var bufferedBytes: Int { context?.channel.bufferedBytes ?? 0 }
  var identity: Identity? { life.identity }

  func write(_ frame: ControlFrame) {
    guard let context else { return }
    life.sends(frame)
    var bytes = context.channel.allocator.buffer(capacity: 160)
    bytes.writeWebSocketText { bytes in
      var json = JSONWriter(into: bytes)
      bytes = ByteBuffer()
      frame.write(into: &json)
      bytes = json.buffer
    }
    write(bytes)
  }

  func write(_ bytes: ByteBuffer) { if isOpen { context?.write(wrapOutboundOut(bytes), promise: nil) } }

  func flush() { context?.flush() }

  func writeAndFlush(_ bytes: ByteBuffer) {
    if isOpen { context?.writeAndFlush(wrapOutboundOut(bytes), promise: nil) }
  }

  func close(_ code: CloseCode, reason: String) {
    if isOpen { life.closes(code, reason) }
    beginClosing(code, reason: reason)
  }

  func ticked() {
    guard isOpen else { return life.stopTicking() }
    sincePing = sincePing + life.settings.tick
    if life.takesNothing(self) {
      close(.unresponsive, reason: "took nothing")
    } else if sincePing >= life.settings.pingInterval, isWritable {
      sincePing = .zero
      if !ping() { close(.unresponsive, reason: "no pong") }
    }
  }
}

/// What a device sent: a JSON object with a `type` (PROTOCOL 5).
package struct DeviceMessage {
  package var type: String
  package var members: [String: JSONValue]

  package func text(_ name: String) -> String? { members[name]?.text }
}
