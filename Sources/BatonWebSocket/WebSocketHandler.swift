import NIOCore

/// One end of an open WebSocket: behind the frame decoder, in front of a handler that gets `WebSocketEvent`s and
/// writes ByteBuffers of whole frames.
///
/// It answers pings, closes, and after the protocol was broken. The handler behind gets `text`, `binary`, `pong` and
/// `close`, and a `WebSocketViolation` as an error. `WebSocketClose` as an outbound user event begins the closing
/// handshake; writes after it fail.
package final class WebSocketHandler: ChannelDuplexHandler {
  package typealias InboundIn = WebSocketFrameIn
  package typealias InboundOut = WebSocketEvent
  package typealias OutboundIn = ByteBuffer
  package typealias OutboundOut = ByteBuffer

  private var assembler: MessageAssembler
  private var closing: ClosingHandshake
  private var encoder: FrameEncoder<SystemRandomNumberGenerator>
  private var deadline: Scheduled<Void>?
  /// The answer to the last ping, while the channel takes no more: earlier ones need no answer (RFC 6455 section 5.5.3).
  private var pendingPong: ByteBuffer?
  private var hasUnflushedPong = false

  private init(role: WebSocketRole, assembler: MessageAssembler, patience: TimeAmount) {
    self.assembler = assembler
    closing = ClosingHandshake(role: role, patience: patience)
    encoder = FrameEncoder(role: role)
  }

  /// Adds the frame decoder and the handler at the end of the pipeline; on the channel's event loop.
  ///
  /// - Parameter patience: how long the peer may take to answer a close frame or to end TCP.
  package static func add(
    to pipeline: ChannelPipeline.SynchronousOperations, role: WebSocketRole,
    limits: WebSocketLimits = WebSocketLimits(), patience: TimeAmount = .seconds(5)
  ) throws {
    let assembler = MessageAssembler(role: role, limits: limits)
    try pipeline.addHandler(assembler.makeDecoder())
    try pipeline.addHandler(WebSocketHandler(role: role, assembler: assembler, patience: patience))
  }

  package func channelRead(context: ChannelHandlerContext, data: NIOAny) {
    guard closing.isListening else { return }
    do throws(WebSocketViolation) {
      guard let event = try assembler.receive(unwrapInboundIn(data)) else { return }
      switch event {
      case .ping(let payload):
        answer(payload, context)
      case .close(let code, _):
        let action = closing.peerClosed(code, now: context.eventLoop.now)
        context.fireChannelRead(wrapInboundOut(event))
        perform(action, context)
      case .text, .binary, .pong:
        context.fireChannelRead(wrapInboundOut(event))
      }
    } catch {
      violated(error, context)
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
    if context.channel.isWritable, let payload = pendingPong.take(), closing.isOpen {
      writePong(payload, context)
      context.flush()
    }
    context.fireChannelWritabilityChanged()
  }

  package func channelInactive(context: ChannelHandlerContext) {
    closing.transportClosed()
    deadline?.cancel()
    context.fireChannelInactive()
  }

  package func errorCaught(context: ChannelHandlerContext, error: any Error) {
    guard closing.isListening else { return }
    if let violation = MessageAssembler.violation(for: error) {
      violated(violation, context)
    } else {
      context.fireErrorCaught(error)
    }
  }

  package func write(context: ChannelHandlerContext, data: NIOAny, promise: EventLoopPromise<Void>?) {
    guard closing.isOpen else {
      promise?.fail(ChannelError.outputClosed)
      return
    }
    context.write(data, promise: promise)
  }

  package func triggerUserOutboundEvent(
    context: ChannelHandlerContext, event: Any, promise: EventLoopPromise<Void>?
  ) {
    guard let request = event as? WebSocketClose else {
      return context.triggerUserOutboundEvent(event, promise: promise)
    }
    perform(closing.close(request.code, reason: request.reason, now: context.eventLoop.now), context)
    promise?.succeed()
  }

  private func violated(_ violation: WebSocketViolation, _ context: ChannelHandlerContext) {
    let action = closing.violated(violation, now: context.eventLoop.now)
    context.fireErrorCaught(violation)
    perform(action, context)
  }

  private func answer(_ payload: ByteBuffer, _ context: ChannelHandlerContext) {
    guard closing.isOpen else { return }
    guard context.channel.isWritable else {
      pendingPong = payload
      return
    }
    writePong(payload, context)
  }

  private func writePong(_ payload: ByteBuffer, _ context: ChannelHandlerContext) {
    var frame = ByteBuffer()
    encoder.write(.pong, payload, into: &frame)
    context.write(wrapOutboundOut(frame), promise: nil)
    hasUnflushedPong = true
  }

  private func perform(_ action: ClosingHandshake.Action, _ context: ChannelHandlerContext) {
    switch action {
    case .nothing:
      break
    case .closeTransport:
      context.close(promise: nil)
    case .send(let code, let reason, let after, let deadline):
      let context = NIOLoopBound(context, eventLoop: context.eventLoop)
      let this = NIOLoopBound(self, eventLoop: context.eventLoop)
      self.deadline = context.eventLoop.scheduleTask(deadline: deadline) {
        this.value.perform(this.value.closing.deadlinePassed(), context.value)
      }
      var frame = ByteBuffer()
      encoder.writeClose(code, reason: reason, into: &frame)
      let written = context.eventLoop.makePromise(of: Void.self)
      written.futureResult.whenSuccess {
        switch after {
        case .awaitPeer: break
        case .closeTransport: context.value.close(promise: nil)
        case .endOutput: context.value.close(mode: .output, promise: nil)
        }
      }
      context.value.writeAndFlush(wrapOutboundOut(frame), promise: written)
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
