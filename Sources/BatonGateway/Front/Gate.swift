import BatonProtocol
import BatonSession
import BatonWebSocket
import NIOCore
import NIOHTTP1
import NIOHTTPTypes
import NIOHTTPTypesHTTP1

/// Stands right behind NIO's HTTP/1 codec and tells attach requests from all others, on every request of a connection:
/// proxies use their connections again, so a device may come on one that has carried control requests before.
///
/// Control requests go on to Hummingbird, whose handlers are added with the first of them: a connection that becomes a
/// device at once never has them. For a device the HTTP handlers are taken away, and where Hummingbird's are there
/// already, the gate ends their stream and keeps what they do from the connection.
final class Gate: ChannelDuplexHandler, RemovableChannelHandler {
  typealias InboundIn = HTTPServerRequestPart
  typealias InboundOut = HTTPServerRequestPart
  typealias OutboundIn = HTTPServerResponsePart
  typealias OutboundOut = HTTPServerResponsePart

  typealias HTTP = NIOAsyncChannel<HTTPRequestPart, HTTPResponsePart>

  private enum State {
    /// Parts go on to Hummingbird, if it is there yet.
    case passing
    /// The head of an attach request is here; its end, or the end of earlier responses, is not.
    case attaching(HTTPRequestHead, DeviceRequest.Wire, isComplete: Bool)
    /// The front door has been asked.
    case deciding
    /// Behind the device's handlers: inbound bytes come only while the decoder is taken away.
    case device
    case refused
  }

  private let front: DeviceFront
  private let decoder: ByteToMessageHandler<HTTPRequestDecoder>
  private let encoder: HTTPResponseEncoder
  private let addHTTP: (any Channel) throws -> HTTP
  /// Succeeds with Hummingbird's channel at the first control request, with nil where none comes.
  private let decided: EventLoopPromise<HTTP?>
  private let headerTimeout: TimeAmount

  private var state = State.passing
  private var hasHTTP = false
  private var outstanding = 0
  private var closesAfterResponse = false
  private var leftovers: [NIOAny] = []
  private var timeout: Scheduled<Void>?

  init(
    front: DeviceFront, decoder: ByteToMessageHandler<HTTPRequestDecoder>, encoder: HTTPResponseEncoder,
    headerTimeout: TimeAmount, decided: EventLoopPromise<HTTP?>, addHTTP: @escaping (any Channel) throws -> HTTP
  ) {
    self.front = front
    self.decoder = decoder
    self.encoder = encoder
    self.headerTimeout = headerTimeout
    self.decided = decided
    self.addHTTP = addHTTP
  }

  func handlerAdded(context: ChannelHandlerContext) {
    let bound = NIOLoopBound((self, context), eventLoop: context.eventLoop)
    timeout = context.eventLoop.scheduleTask(in: headerTimeout) {
      let (gate, context) = bound.value
      if case .passing = gate.state, !gate.hasHTTP { context.close(promise: nil) }
    }
  }

  func handlerRemoved(context: ChannelHandlerContext) {
    timeout?.cancel()
    decided.succeed(nil)
  }

  func channelInactive(context: ChannelHandlerContext) {
    timeout?.cancel()
    decided.succeed(nil)
    context.fireChannelInactive()
  }

  // MARK: Requests

  func channelRead(context: ChannelHandlerContext, data: NIOAny) {
    switch state {
    case .passing:
      let part = unwrapInboundIn(data)
      if case .head(let head) = part {
        timeout?.cancel()
        if let wire = front.wire(of: head) {
          state = .attaching(head, wire, isComplete: false)
          return
        }
        outstanding += 1
        // The decoder parses nothing after an upgrade that is none of ours (RFC 9110 section 7.8 lets us ignore it).
        closesAfterResponse = closesAfterResponse || head.isUpgrade
      }
      guard hasHTTP || install(context) else { return }
      context.fireChannelRead(data)
    case .attaching(let head, let wire, _):
      if case .end = unwrapInboundIn(data) {
        state = .attaching(head, wire, isComplete: true)
        attachIfPossible(context)
      }
    case .device: leftovers.append(data)
    case .deciding, .refused: break
    }
  }

  private func install(_ context: ChannelHandlerContext) -> Bool {
    hasHTTP = true
    do {
      decided.succeed(try addHTTP(context.channel))
      return true
    } catch {
      decided.succeed(nil)
      context.close(promise: nil)
      return false
    }
  }

  func errorCaught(context: ChannelHandlerContext, error: any Error) {
    if error is HTTPParserError, case .passing = state, outstanding == 0 {
      refuse(context, HTTPParserError.headerOverflow == error as? HTTPParserError ? .headerTooLarge : .malformed)
    } else if hasHTTP, case .passing = state {
      context.fireErrorCaught(error)
    } else {
      context.close(promise: nil)
    }
  }

  func userInboundEventTriggered(context: ChannelHandlerContext, event: Any) {
    // Hummingbird closes an idle connection by itself; without it the gate does.
    if event is ChannelShouldQuiesceEvent, !hasHTTP, case .passing = state {
      context.close(promise: nil)
    } else if event as? ChannelEvent == .inputClosed, !hasHTTP, case .passing = state {
      context.close(promise: nil)
    } else {
      context.fireUserInboundEventTriggered(event)
    }
  }

  // MARK: Responses

  func read(context: ChannelHandlerContext) {
    switch state {
    case .attaching(_, _, isComplete: true), .deciding: break
    default: context.read()
    }
  }

  func write(context: ChannelHandlerContext, data: NIOAny, promise: EventLoopPromise<Void>?) {
    switch state {
    case .device, .refused:
      promise?.fail(ChannelError.ioOnClosedChannel)
      return
    default: break
    }
    guard case .end = unwrapOutboundIn(data) else {
      context.write(data, promise: promise)
      return
    }
    outstanding -= 1
    guard closesAfterResponse, outstanding == 0 else {
      context.write(data, promise: promise)
      attachIfPossible(context)
      return
    }
    let bound = NIOLoopBound(context, eventLoop: context.eventLoop)
    let promise = promise ?? context.eventLoop.makePromise()
    promise.futureResult.whenComplete { _ in bound.value.close(promise: nil) }
    context.writeAndFlush(data, promise: promise)
  }

  func close(context: ChannelHandlerContext, mode: CloseMode, promise: EventLoopPromise<Void>?) {
    if case .device = state {
      // Hummingbird ends what is not its connection any more.
      promise?.succeed()
    } else {
      context.close(mode: mode, promise: promise)
    }
  }

  // MARK: Devices

  private func attachIfPossible(_ context: ChannelHandlerContext) {
    guard outstanding == 0, case .attaching(let head, let wire, isComplete: true) = state else { return }
    state = .deciding
    let bound = NIOLoopBound((self, context), eventLoop: context.eventLoop)
    front.admit(head, wire, on: context.eventLoop, until: context.channel.closeFuture).assumeIsolated().map(\.value)
      .whenComplete { result in
        let (gate, context) = bound.value
        guard context.channel.isActive else {
          if case .success(let admitted?) = result { admitted.abandon() }
          return
        }
        switch result {
        case .success(let admitted?): gate.handOver(context, admitted)
        case .success(nil): gate.finish(context, head)
        case .failure(let error): gate.refuse(context, gate.front.problem(for: error), gate.front.sharing(head))
        }
      }
  }

  private func handOver(_ context: ChannelHandlerContext, _ admitted: DeviceFront.Admitted) {
    state = .device
    let channel = context.channel
    let bound = NIOLoopBound((self, context), eventLoop: context.eventLoop)
    let pipeline = context.pipeline.syncOperations
    pipeline.removeHandler(encoder).and(pipeline.removeHandler(decoder)).assumeIsolated().whenComplete { _ in
      let (gate, context) = bound.value
      do {
        let head = channel.allocator.buffer(string: admitted.responseHead)
        // Past the gate, whose outbound is HTTP parts.
        try admitted.install(channel, before: gate)
        context.write(NIOAny(head), promise: nil)
        context.flush()
      } catch {
        admitted.abandon()
        context.close(promise: nil)
        return
      }
      gate.leave(context, admitted)
    }
  }

  private func leave(_ context: ChannelHandlerContext, _ admitted: DeviceFront.Admitted) {
    // From here, not from the end of the pipeline: Hummingbird's handlers let no read through any more.
    context.read()
    if hasHTTP {
      context.fireUserInboundEventTriggered(ChannelEvent.inputClosed)
    } else {
      context.pipeline.syncOperations.removeHandler(self, promise: nil)
    }
    admitted.start()
    for bytes in leftovers { admitted.replay(bytes) }
    leftovers = []
  }

  private func finish(_ context: ChannelHandlerContext, _ head: HTTPRequestHead) {
    state = .refused
    var headers = front.sharing(head)
    headers.add(name: "Connection", value: "close")
    write(context, HTTPResponseHead(version: .http1_1, status: .noContent, headers: headers), nil)
  }

  private func refuse(_ context: ChannelHandlerContext, _ problem: Problem, _ sharing: HTTPHeaders = [:]) {
    state = .refused
    front.refused(problem)
    let body = problem.body
    var headers: HTTPHeaders = [
      "Content-Type": Problem.contentType, "Content-Length": String(body.readableBytes), "Connection": "close",
      "Cache-Control": "no-store",
    ]
    headers.add(contentsOf: sharing)
    for header in problem.headers { headers.replaceOrAdd(name: header.name, value: header.value) }
    write(context, HTTPResponseHead(version: .http1_1, status: problem.status, headers: headers), body)
  }

  /// The last response of the connection.
  private func write(_ context: ChannelHandlerContext, _ head: HTTPResponseHead, _ body: ByteBuffer?) {
    let bound = NIOLoopBound(context, eventLoop: context.eventLoop)
    context.write(wrapOutboundOut(.head(head)), promise: nil)
    if let body { context.write(wrapOutboundOut(.body(.byteBuffer(body))), promise: nil) }
    let written = context.eventLoop.makePromise(of: Void.self)
    written.futureResult.whenComplete { _ in bound.value.close(promise: nil) }
    context.writeAndFlush(wrapOutboundOut(.end(nil)), promise: written)
  }
}

extension Problem {
  static let headerTooLarge = Problem(
    HTTPResponseStatus.requestHeaderFieldsTooLarge, "header-too-large",
    "The request line or the headers are too large; 16 KiB in all is allowed.")
  static let malformed = Problem.badRequest("malformed-request", "This is not a well-formed HTTP/1.1 request.")
}

extension HTTPRequestHead {
  /// Whether the decoder takes this request for the last one: it asks for another protocol.
  fileprivate var isUpgrade: Bool {
    !headers["Upgrade"].isEmpty
      && headers[canonicalForm: "connection"].contains { $0.lowercased() == "upgrade" } || method == .CONNECT
  }
}
