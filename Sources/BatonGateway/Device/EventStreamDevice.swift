import BatonProtocol
import BatonSession
import BatonWebSocket
import NIOCore

/// The event stream of one device (PROTOCOL 6). The response has no length and ends with the connection, so that what
/// devices share goes out as it is.
final class EventStreamDevice: ChannelInboundHandler, DeviceWire {
  typealias InboundIn = Any
  typealias OutboundOut = ByteBuffer

  private let request: DeviceRequest
  private let driver: any DeviceDriver
  private let settings: DeviceSettings
  private let ended: () -> Void
  private var context: ChannelHandlerContext?
  private var device: Device?
  private var ticks: RepeatedTask?
  private var sinceComment = TimeAmount.zero
  private var stall = StallWatch()
  private let expiry = ExpiryWatch()
  private var isOpen = true
  private var isEnded = false

  /// - Parameter ended: called once, when the connection is gone.
  init(request: DeviceRequest, driver: any DeviceDriver, settings: DeviceSettings, ended: @escaping () -> Void) {
    self.request = request
    self.driver = driver
    self.settings = settings
    self.ended = ended
  }

  func handlerAdded(context: ChannelHandlerContext) { self.context = context }
  func handlerRemoved(context: ChannelHandlerContext) {
    end()
    self.context = nil
  }

  func start() {
    guard let context else { return }
    let device = Device(request: request, channel: context.channel, wire: self)
    self.device = device
    let bound = NIOLoopBound(self, eventLoop: context.eventLoop)
    ticks = context.eventLoop.scheduleRepeatedTask(initialDelay: settings.tick, delay: settings.tick) { _ in
      bound.value.tick()
    }
    write(EventStream.retry(milliseconds: .random(in: 500...2000)))
    driver.start(device)
    if let identity = request.identity {
      expiry.start(
        identity.expires, on: context.eventLoop, soon: { [weak self] in self?.send(.expiring(inMs: $0)) },
        over: { [weak self] in self?.close(.unauthenticated, reason: "the token has expired") })
    }
  }

  private func end() {
    if isEnded { return }
    isEnded = true
    isOpen = false
    ticks?.cancel()
    expiry.cancel()
    driver.closed()
    ended()
  }

  func channelRead(context: ChannelHandlerContext, data: NIOAny) {}

  /// From here, because behind a gate that had control requests no read comes by itself.
  func channelReadComplete(context: ChannelHandlerContext) { context.read() }

  func errorCaught(context: ChannelHandlerContext, error: any Error) { context.close(promise: nil) }

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

  func channelWritabilityChanged(context: ChannelHandlerContext) {
    if context.channel.isWritable, isOpen, device != nil { driver.pump() }
    context.fireChannelWritabilityChanged()
  }

  // MARK: To the device

  func send(_ frame: ControlFrame) {
    if case .draining(let milliseconds) = frame { write(EventStream.retry(milliseconds: milliseconds)) }
    write(EventStream.event(frame, as: request.wire))
    flush()
  }

  func write(_ bytes: ByteBuffer) {
    guard isOpen, let context, bytes.readableBytes > 0 else { return }
    sinceComment = .zero
    context.write(wrapOutboundOut(bytes), promise: nil)
  }

  func flush() { context?.flush() }

  func close(_ code: CloseCode, reason: String) {
    guard isOpen, let context else { return }
    isOpen = false
    ticks?.cancel()
    let bound = NIOLoopBound(self, eventLoop: context.eventLoop)
    let written = context.eventLoop.makePromise(of: Void.self)
    written.futureResult.whenComplete { _ in bound.value.context?.close(promise: nil) }
    context.writeAndFlush(wrapOutboundOut(ByteBuffer()), promise: written)
    context.eventLoop.scheduleTask(in: .seconds(5)) { bound.value.context?.close(promise: nil) }
  }

  private func tick() {
    guard isOpen, let context else { return }
    if stall.isOver(context.channel, interval: settings.tick, limit: settings.maxStall) {
      context.close(promise: nil)
      return
    }
    sinceComment = sinceComment + settings.tick
    if sinceComment >= min(settings.pingInterval, .seconds(15)), context.channel.isWritable {
      write(EventStream.comment)
      flush()
    }
  }
}

/// The bytes of server-sent events (HTML Living Standard section 9.2.6).
package enum EventStream {
  package static let comment = ByteBuffer(string: ":\n\n")

  package static func retry(milliseconds: Int) -> ByteBuffer { ByteBuffer(string: "retry: \(milliseconds)\n\n") }

  /// One frame of PROTOCOL 4, or for `format=text` what of it is shown there: `baton.reset` and the bare `id:` lines.
  package static func event(_ frame: ControlFrame, as wire: DeviceRequest.Wire) -> ByteBuffer {
    var bytes = ByteBuffer()
    let id = frame.offsetAfter
    if let id { bytes.writeString("id: \(id)\n") }
    if wire == .text {
      guard case .reset = frame else {
        if id != nil { bytes.writeString("\n") }
        return bytes
      }
      bytes.writeString("event: baton.reset\n")
    }
    bytes.writeString("data: ")
    bytes.writeImmutableBuffer(frame.encoded())
    bytes.writeString("\n\n")
    return bytes
  }
}

extension ControlFrame {
  /// Where a device stands after this frame; nil where the frame does not move it.
  fileprivate var offsetAfter: Offset? {
    switch self {
    case .attached(let attached): attached.offset
    case .live(let offset): offset
    case .reset(let reset): reset.offset
    default: nil
    }
  }
}
