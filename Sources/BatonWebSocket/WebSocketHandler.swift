import NIOCore

/// Does what a `WebSocketEnd` decides, in front of a handler that gets `WebSocketEvent`s and writes ByteBuffers of whole
/// frames.
///
/// The handler behind gets `text`, `binary`, `pong` and `close`, and a `WebSocketViolation` as an error. Writes after a
/// close was begun fail.
package final class WebSocketHandler: ChannelDuplexHandler {
  package typealias InboundIn = ByteBuffer
  package typealias InboundOut = WebSocketEvent
  package typealias OutboundIn = ByteBuffer
  package typealias OutboundOut = ByteBuffer

  private var end: WebSocketEnd
  private var encoder: FrameEncoder<SystemRandomNumberGenerator>
  private var context: ChannelHandlerContext?
  private var deadline: Scheduled<Void>?
  private var hasUnflushedPong = false

  /// - Parameter patience: how long the peer may take to answer a close frame or to end TCP.
  package init(
    role: WebSocketRole, limits: WebSocketLimits = WebSocketLimits(), patience: TimeAmount = .seconds(5)
  ) {
    end = WebSocketEnd(role: role, limits: limits, patience: patience)
    encoder = FrameEncoder(role: role)
  }

  package func handlerAdded(context: ChannelHandlerContext) { self.context = context }

  package func handlerRemoved(context: ChannelHandlerContext) {
    deadline?.cancel()
    self.context = nil
  }

  /// Whether data may still be written.
  package var isOpen: Bool { end.isOpen }

  // MARK: From the peer

  package func channelRead(context: ChannelHandlerContext, data: NIOAny) {
    end.arrived(unwrapInboundIn(data))
    while let action = end.next(isWritable: context.channel.isWritable, now: context.eventLoop.now) {
      perform(action, context)
    }
  }

  package func channelReadComplete(context: ChannelHandlerContext) {
    if hasUnflushedPong {
      hasUnflushedPong = false
      context.flush()
    }
    context.fireChannelReadComplete()
  }

  package func channelWritabilityChanged(context: ChannelHandlerContext) {
    if context.channel.isWritable {
      perform(end.becameWritable(), context)
      if hasUnflushedPong {
        hasUnflushedPong = false
        context.flush()
      }
    }
    context.fireChannelWritabilityChanged()
  }

  package func channelInactive(context: ChannelHandlerContext) {
    end.transportClosed()
    deadline?.cancel()
    context.fireChannelInactive()
  }

  // MARK: To the peer

  package func read(context: ChannelHandlerContext) { if end.takesBytes { context.read() } }

  package func write(context: ChannelHandlerContext, data: NIOAny, promise: EventLoopPromise<Void>?) {
    guard end.isOpen else {
      promise?.fail(ChannelError.outputClosed)
      return
    }
    context.write(data, promise: promise)
  }

  /// Bytes of whole frames, from a handler behind this one that knows it: the same as its writes, without a step between.
  package func write(_ bytes: ByteBuffer) {
    if end.isOpen { context?.write(wrapOutboundOut(bytes), promise: nil) }
  }

  package func flush() { context?.flush() }

  package func writeAndFlush(_ bytes: ByteBuffer) {
    if end.isOpen { context?.writeAndFlush(wrapOutboundOut(bytes), promise: nil) }
  }

  /// Begins the closing handshake; once is enough.
  package func close(_ code: CloseCode, reason: String = "") {
    guard let context else { return }
    perform(end.close(code, reason: reason, now: context.eventLoop.now), context)
  }

  /// Asks whether the peer is there. False: the last time nothing came back.
  package func ping() -> Bool {
    guard let context else { return true }
    let action = end.pingDue()
    perform(action, context)
    return action != .unanswered
  }

  package func triggerUserOutboundEvent(
    context: ChannelHandlerContext, event: Any, promise: EventLoopPromise<Void>?
  ) {
    guard let request = event as? WebSocketClose else {
      return context.triggerUserOutboundEvent(event, promise: promise)
    }
    close(request.code, reason: request.reason)
    promise?.succeed()
  }

  private func perform(_ action: WebSocketEnd.Action, _ context: ChannelHandlerContext) {
    switch action {
    case .nothing, .unanswered: break
    case .deliver(let event): context.fireChannelRead(wrapInboundOut(event))
    case .pong(let payload):
      write(.pong, payload, context)
      hasUnflushedPong = true
    case .ping:
      write(.ping, ByteBuffer(), context)
      context.flush()
    case .close(let closing, let cause):
      switch cause {
      case .ourselves: break
      case .peer(let code, let reason): context.fireChannelRead(wrapInboundOut(.close(code, reason: reason)))
      case .violation(let violation): context.fireErrorCaught(violation)
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
