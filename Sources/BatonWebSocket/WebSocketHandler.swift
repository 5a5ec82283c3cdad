import NIOCore

/// Does what a `WebSocketEnd` decides, in front of a handler that gets `WebSocketEvent`s and writes ByteBuffers of whole
/// frames.
///
/// The handler behind gets `text`, `binary`, `pong` and `close`, and a `WebSocketViolation` as an error. Writes after a
/// close was begun fail. A subclass gets them itself: where there are many connections, each handler counts.
open class WebSocketHandler: ChannelDuplexHandler {
  public typealias InboundIn = ByteBuffer
  public typealias InboundOut = WebSocketEvent
  public typealias OutboundIn = ByteBuffer
  public typealias OutboundOut = ByteBuffer

  private var end: WebSocketEnd
  private var encoder: FrameEncoder<SystemRandomNumberGenerator>
  package private(set) final var context: ChannelHandlerContext?
  private var deadline: Scheduled<Void>?
  private var hasUnflushedPong = false

  /// - Parameter patience: how long the peer may take to answer a close frame or to end TCP.
  public init(role: WebSocketRole, limits: WebSocketLimits, patience: TimeAmount = .seconds(5)) {
    end = WebSocketEnd(role: role, limits: limits, patience: patience)
    encoder = FrameEncoder(role: role)
  }

  public final func handlerAdded(context: ChannelHandlerContext) { self.context = context }

  open func handlerRemoved(context: ChannelHandlerContext) {
    deadline?.cancel()
    self.context = nil
  }

  /// Whether data may still be written.
  package final var isOpen: Bool { end.isOpen }

  // MARK: From the peer

  open func received(_ event: WebSocketEvent, _ context: ChannelHandlerContext) {
    context.fireChannelRead(wrapInboundOut(event))
  }

  /// The peer broke the protocol, or a limit: the connection is closed after this.
  open func violated(_ violation: WebSocketViolation, _ context: ChannelHandlerContext) {
    context.fireErrorCaught(violation)
  }

  public final func channelRead(context: ChannelHandlerContext, data: NIOAny) {
    end.arrived(unwrapInboundIn(data))
    while let action = end.next(isWritable: context.channel.isWritable, now: context.eventLoop.now) {
      perform(action, context)
    }
  }

  open func channelReadComplete(context: ChannelHandlerContext) {
    flushPong(context)
    context.fireChannelReadComplete()
  }

  private func flushPong(_ context: ChannelHandlerContext) {
    guard hasUnflushedPong else { return }
    hasUnflushedPong = false
    context.flush()
  }

  open func channelWritabilityChanged(context: ChannelHandlerContext) {
    if context.channel.isWritable {
      perform(end.becameWritable(), context)
      flushPong(context)
    }
    context.fireChannelWritabilityChanged()
  }

  open func userInboundEventTriggered(context: ChannelHandlerContext, event: Any) {
    context.fireUserInboundEventTriggered(event)
  }

  open func errorCaught(context: ChannelHandlerContext, error: any Error) { context.fireErrorCaught(error) }

  open func channelInactive(context: ChannelHandlerContext) {
    end.transportClosed()
    deadline?.cancel()
    context.fireChannelInactive()
  }

  // MARK: To the peer

  open func read(context: ChannelHandlerContext) { if end.takesBytes { context.read() } }

  public final func write(context: ChannelHandlerContext, data: NIOAny, promise: EventLoopPromise<Void>?) {
    guard end.isOpen else {
      promise?.fail(ChannelError.outputClosed)
      return
    }
    context.write(data, promise: promise)
  }

  /// Begins the closing handshake; once is enough.
  package final func beginClosing(_ code: CloseCode, reason: String = "") {
    guard let context else { return }
    perform(end.close(code, reason: reason, now: context.eventLoop.now), context)
  }

  /// Asks whether the peer is there. False: the last time nothing came back.
  package final func ping() -> Bool {
    guard let context else { return true }
    let action = end.pingDue()
    perform(action, context)
    return action != .unanswered
  }

  public final func triggerUserOutboundEvent(
    context: ChannelHandlerContext, event: Any, promise: EventLoopPromise<Void>?
  ) {
    guard let request = event as? WebSocketClose else {
      return context.triggerUserOutboundEvent(event, promise: promise)
    }
    beginClosing(request.code, reason: request.reason)
    promise?.succeed()
  }

  private func perform(_ action: WebSocketEnd.Action, _ context: ChannelHandlerContext) {
    switch action {
    case .nothing, .unanswered: break
    case .deliver(let event): received(event, context)
    case .pong(let payload):
      write(.pong, payload, context)
      hasUnflushedPong = true
    case .ping:
      write(.ping, ByteBuffer(), context)
      context.flush()
    case .close(let closing, let cause):
      switch cause {
      case .ourselves: break
      case .peer(let code, let reason): received(.close(code, reason: reason), context)
      case .violation(let violation): violated(violation, context)
      }
      perform(closing, context)
    }
  }

  private func write(_ opcode: Opcode, _ payload: ByteBuffer, _ context: ChannelHandlerContext) {
    var frame = context.channel.allocator.buffer(capacity: payload.readableBytes + 8)
    encoder.write(opcode, payload, into: &frame)
    context.write(wrapOutboundOut(frame), promise: nil)
  }

  private func perform(_ action: ClosingHandshake.Action, _ context: ChannelHandlerContext) {
    switch action {
    case .nothing: break
    case .closeTransport: context.close(promise: nil)
    case .send(let code, let reason, let after, let deadline):
      let this = NIOLoopBound(self, eventLoop: context.eventLoop)
      self.deadline = context.eventLoop.scheduleTask(deadline: deadline) {
        guard let context = this.value.context else { return }
        this.value.perform(this.value.end.deadlinePassed(), context)
      }
      var frame = context.channel.allocator.buffer(capacity: 32)
      encoder.writeClose(code, reason: reason, into: &frame)
      let written = context.eventLoop.makePromise(of: Void.self)
      written.futureResult.whenSuccess {
        switch after {
        case .awaitPeer: break
        case .closeTransport: this.value.context?.close(promise: nil)
        case .endOutput: this.value.context?.close(mode: .output, promise: nil)
        }
      }
      context.writeAndFlush(wrapOutboundOut(frame), promise: written)
    }
  }
}

/// Begins the closing handshake, as an outbound user event to `WebSocketHandler`.
package struct WebSocketClose: Sendable {
  package let code: CloseCode
  package let reason: String

  package init(_ code: CloseCode, reason: String = "") {
    self.code = code
    self.reason = reason
  }
}
