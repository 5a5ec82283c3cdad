import BatonProtocol
import BatonSession
import BatonWebSocket
import Foundation
import NIOCore
import NIOWebSocket

/// The WebSocket of one device: closing, pings, and the device frames that need no driver (PROTOCOL 5).
final class WebSocketDevice: ChannelDuplexHandler, DeviceWire {
  typealias InboundIn = WebSocketFrameIn
  typealias OutboundIn = ByteBuffer
  typealias OutboundOut = ByteBuffer

  private let request: DeviceRequest
  private let driver: any DeviceDriver
  private let settings: DeviceSettings
  private let authenticator: Authenticator?
  private let expiry = ExpiryWatch()
  private var assembler = MessageAssembler(role: .server)
  private var closing = ClosingHandshake(role: .server)
  private var context: ChannelHandlerContext?
  private var device: Device?
  private var pings: RepeatedTask?
  private var awaitsPong = false
  private var sincePing = TimeAmount.zero
  private var stall = StallWatch()
  private var heldRead = false
  private let ended: () -> Void
  private var isEnded = false

  /// - Parameter ended: called once, when the connection is gone.
  init(
    request: DeviceRequest, driver: any DeviceDriver, settings: DeviceSettings, authenticator: Authenticator?,
    ended: @escaping () -> Void
  ) {
    self.request = request
    self.driver = driver
    self.settings = settings
    self.authenticator = authenticator
    self.ended = ended
  }

  func handlerAdded(context: ChannelHandlerContext) { self.context = context }
  func handlerRemoved(context: ChannelHandlerContext) {
    end()
    self.context = nil
  }

  /// The 101 is written: begin.
  func start() {
    guard let context else { return }
    let device = Device(request: request, channel: context.channel, wire: self)
    self.device = device
    let bound = NIOLoopBound(self, eventLoop: context.eventLoop)
    pings = context.eventLoop.scheduleRepeatedTask(initialDelay: settings.tick, delay: settings.tick) { _ in
      bound.value.tick()
    }
    driver.start(device)
    if let identity = request.identity { watchExpiry(identity) }
  }

  private func end() {
    if isEnded { return }
    isEnded = true
    pings?.cancel()
    pings = nil
    expiry.cancel()
    closing.transportClosed()
    driver.closed()
    ended()
  }

  // MARK: From the device

  func channelRead(context: ChannelHandlerContext, data: NIOAny) {
    guard closing.isListening else { return }
    awaitsPong = false
    let event: WebSocketEvent?
    do throws(WebSocketViolation) {
      event = try assembler.receive(unwrapInboundIn(data))
    } catch {
      perform(closing.violated(error, now: .now()))
      return
    }
    switch event {
    case nil, .pong: break
    case .ping(let payload):
      guard closing.isOpen else { return }
      var frame = context.channel.allocator.buffer(capacity: payload.readableBytes + 4)
      frame.writeWebSocketFrame(.pong, payload: payload)
      context.writeAndFlush(wrapOutboundOut(frame), promise: nil)
    case .close(let code, _): perform(closing.peerClosed(code, now: .now()))
    case .binary: close(.policyViolation, reason: "send JSON objects in text frames")
    case .text(let bytes): received(bytes)
    }
  }

  private func received(_ bytes: ByteBuffer) {
    guard closing.isOpen else { return }
    guard let members = (try? JSONSerialization.jsonObject(with: Data(bytes.readableBytesView))) as? [String: Any]
    else {
      close(.policyViolation, reason: "not a JSON object")
      return
    }
    guard let type = members["type"] as? String else {
      send(.error(code: "bad_request", message: "The member type is missing.", key: members["key"] as? String))
      return
    }
    let message = DeviceMessage(type: type, members: members)
    if type == "ping" {
      send(.pong)
    } else if type == "auth", let authenticator {
      authenticate(message.text("token"), authenticator)
    } else if !driver.received(message) {
      let text = "This gateway knows no frame of that type; it was ignored."
      send(.error(code: "unsupported", message: text, key: message.text("key")))
    }
  }

  // MARK: Tokens

  private func watchExpiry(_ identity: Identity) {
    guard let context else { return }
    expiry.start(
      identity.expires, on: context.eventLoop, soon: { [weak self] in self?.send(.expiring(inMs: $0)) },
      over: { [weak self] in self?.close(.unauthenticated, reason: "the token has expired") })
  }

  private func authenticate(_ token: String?, _ authenticator: Authenticator) {
    guard let context else { return }
    let bound = NIOLoopBound(self, eventLoop: context.eventLoop)
    context.eventLoop.makeFutureWithTask { try await authenticator.identify(token) }.whenComplete { result in
      bound.value.authenticated(result)
    }
  }

  private func authenticated(_ result: Result<Identity, any Error>) {
    guard let device else { return }
    switch result {
    case .failure: close(.unauthenticated, reason: "the token is not valid")
    case .success(let identity):
      guard identity.may(.read, device.session), identity.subject == device.identity?.subject ?? identity.subject else {
        close(.notAllowed, reason: "the token is not for this session and subject")
        return
      }
      device.identity = identity
      send(.authenticated(expiresInMs: Int(ExpiryWatch.left(identity.expires).nanoseconds / 1_000_000)))
      watchExpiry(identity)
    }
  }

  func errorCaught(context: ChannelHandlerContext, error: any Error) {
    if let violation = MessageAssembler.violation(for: error) {
      perform(closing.violated(violation, now: .now()))
    } else {
      context.close(promise: nil)
    }
  }

  func channelInactive(context: ChannelHandlerContext) {
    end()
    context.fireChannelInactive()
  }

  func userInboundEventTriggered(context: ChannelHandlerContext, event: Any) {
    switch event {
    case ChannelEvent.inputClosed: context.close(promise: nil)
    case is ChannelShouldQuiesceEvent: break
    default: context.fireUserInboundEventTriggered(event)
    }
  }

  /// From here, because behind a gate that had control requests no read comes by itself.
  func channelReadComplete(context: ChannelHandlerContext) { read(context: context) }

  /// Who takes nothing is not listened to: answers to its pings would pile up.
  func read(context: ChannelHandlerContext) {
    heldRead = !context.channel.isWritable
    if !heldRead { context.read() }
  }

  func channelWritabilityChanged(context: ChannelHandlerContext) {
    if heldRead, context.channel.isWritable {
      sincePing = .zero
      read(context: context)
    }
    if context.channel.isWritable, closing.isOpen, device != nil { driver.pump() }
    context.fireChannelWritabilityChanged()
  }

  // MARK: To the device

  func send(_ frame: ControlFrame) {
    guard closing.isOpen, let context else { return }
    var bytes = context.channel.allocator.buffer(capacity: 160)
    bytes.writeWebSocketText { bytes in
      var json = JSONWriter(into: bytes)
      bytes = ByteBuffer()
      frame.write(into: &json)
      bytes = json.buffer
    }
    context.writeAndFlush(wrapOutboundOut(bytes), promise: nil)
  }

  func write(_ bytes: ByteBuffer) {
    guard closing.isOpen, let context else { return }
    context.write(wrapOutboundOut(bytes), promise: nil)
  }

  func flush() { context?.flush() }

  func close(_ code: CloseCode, reason: String) { perform(closing.close(code, reason: reason, now: .now())) }

  private func perform(_ action: ClosingHandshake.Action) {
    guard let context else { return }
    switch action {
    case .nothing: break
    case .closeTransport: context.close(promise: nil)
    case .send(let code, let reason, let then, let deadline):
      pings?.cancel()
      let bound = NIOLoopBound(self, eventLoop: context.eventLoop)
      var frame = context.channel.allocator.buffer(capacity: 32)
      frame.writeWebSocketClose(code, reason: reason)
      let written = context.eventLoop.makePromise(of: Void.self)
      written.futureResult.whenSuccess {
        switch then {
        case .awaitPeer: break
        case .closeTransport: bound.value.context?.close(promise: nil)
        case .endOutput: bound.value.context?.close(mode: .output, promise: nil)
        }
      }
      context.writeAndFlush(wrapOutboundOut(frame), promise: written)
      context.eventLoop.scheduleTask(deadline: deadline) {
        bound.value.perform(bound.value.closing.deadlinePassed())
      }
    }
  }

  // MARK: Pings

  private func tick() {
    guard closing.isOpen, let context else { return }
    sincePing = sincePing + settings.tick
    if stall.isOver(context.channel, interval: settings.tick, limit: settings.maxStall) {
      close(.unresponsive, reason: "took nothing")
    } else if sincePing >= settings.pingInterval, context.channel.isWritable {
      if awaitsPong {
        close(.unresponsive, reason: "no pong")
        return
      }
      awaitsPong = true
      sincePing = .zero
      var frame = context.channel.allocator.buffer(capacity: 2)
      frame.writeWebSocketFrame(.ping, payload: ByteBuffer())
      context.writeAndFlush(wrapOutboundOut(frame), promise: nil)
    }
  }
}

/// Times of the wires of devices.
package struct DeviceSettings: Sendable {
  package var pingInterval: TimeAmount
  package var maxStall: TimeAmount

  package init(pingInterval: TimeAmount = .seconds(25), maxStall: TimeAmount = .seconds(60)) {
    self.pingInterval = pingInterval
    self.maxStall = maxStall
  }

  /// How often a wire looks at its device.
  var tick: TimeAmount { min(pingInterval, max(.nanoseconds(maxStall.nanoseconds / 4), .milliseconds(20))) }
}

/// Notices a device that takes no bytes at all, looked at once an interval.
struct StallWatch {
  private var pending = 0
  private var stalled: TimeAmount = .zero

  mutating func isOver(_ channel: any Channel, interval: TimeAmount, limit: TimeAmount) -> Bool {
    let now = (try? channel.syncOptions?.getOption(.bufferedWritableBytes)) ?? 0
    return isOver(pending: now, isWritable: channel.isWritable, interval: interval, limit: limit)
  }

  mutating func isOver(pending now: Int, isWritable: Bool, interval: TimeAmount, limit: TimeAmount) -> Bool {
    defer { pending = now }
    guard !isWritable, now >= pending, pending > 0 else {
      stalled = .zero
      return false
    }
    stalled = stalled + interval
    return stalled >= limit
  }
}
