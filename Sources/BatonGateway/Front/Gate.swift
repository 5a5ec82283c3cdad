import BatonProtocol
import BatonSession
import BatonWebSocket
import NIOCore
import NIOHTTP1
import NIOSSL

/// Stands right behind NIO's HTTP/1 codec and tells attach requests from all others, on every request of a connection:
/// proxies use their connections again, so a device may come on one that has carried control requests before.
///
/// It does what `GateState` says. Control requests go on to Hummingbird, whose handlers are added with the first of them:
/// a connection that becomes a device at once never has them. For a device the HTTP handlers are taken away, and where
/// Hummingbird's are there already, the gate ends their stream and keeps what they do from the connection.
final class Gate: ChannelDuplexHandler, RemovableChannelHandler {
  typealias InboundIn = HTTPServerRequestPart
  typealias InboundOut = HTTPServerRequestPart
  typealias OutboundIn = HTTPServerResponsePart
  typealias OutboundOut = HTTPServerResponsePart

  private let front: DeviceFront
  private let listener: Listener
  private let overhead: BodyOverhead
  private let decoder: ByteToMessageHandler<HTTPRequestDecoder>
  private let encoder: HTTPResponseEncoder
  private let limits: HTTPLimits

  private var state = GateState(now: .now())
  /// The request that attaches or is refused.
  private var held: (head: HTTPRequestHead, wire: DeviceRequest.Wire?, problem: Problem?)?
  private var hasHTTP = false
  private var hasHeard = false
  private var hasEnded = false
  /// Whether the client reads chunks: HTTP/1.0 has none, and its answers end with their connection.
  private(set) var knowsChunks = true
  /// The client sends nothing more: it has gone, or closed its side.
  private var hasLeft = false
  private var leaving: (() -> Void)?
  private var closesWhenHeard = false
  private var wasBusy = false
  /// Of those who have to be told of the connection's end.
  private var ends: [Int: EventLoopPromise<Void>] = [:]
  private var endsAsked = 0
  private var leftovers: [NIOAny] = []
  /// What the next answer costs, and what the one that is being written does.
  private var charges: (next: MemoryCharge?, current: MemoryCharge?)
  private var stall = StallWatch()
  private var stallLooks: RepeatedTask?
  private var timer: (at: NIODeadline, task: Scheduled<Void>)?

  init(
    front: DeviceFront, listener: Listener, overhead: BodyOverhead,
    decoder: ByteToMessageHandler<HTTPRequestDecoder>, encoder: HTTPResponseEncoder, limits: HTTPLimits
  ) {
    self.front = front
    self.listener = listener
    self.overhead = overhead
    self.decoder = decoder
    self.encoder = encoder
    self.limits = limits
  }

  func handlerAdded(context: ChannelHandlerContext) { settle(context) }
  func handlerRemoved(context: ChannelHandlerContext) { end(context) }

  func channelInactive(context: ChannelHandlerContext) {
    end(context)
    left()
    context.fireChannelInactive()
  }

  /// On the event loop; `leave` is called once the client sends nothing more, also where that is so.
  func onLeaving(_ leave: @escaping () -> Void) { if hasLeft { leave() } else { leaving = leave } }

  private func left() {
    hasLeft = true
    leaving?()
    leaving = nil
  }

  private func end(_ context: ChannelHandlerContext) {
    listener.ended(context.channel)
    timer?.task.cancel()
    timer = nil
    stallLooks?.cancel()
    stallLooks = nil
    charges = (nil, nil)
    if wasBusy { front.connectionIsBusy(false) }
    wasBusy = false
    hasEnded = true
    for end in ends.values { end.succeed() }
  }

  /// On the event loop. Succeeds when the connection ends. Who asked fails it where that is not waited for any more: a
  /// connection may carry any number of requests, and nothing is kept of one that is over.
  func ending(_ eventLoop: any EventLoop) -> EventLoopPromise<Void> {
    let promise = eventLoop.makePromise(of: Void.self)
    if hasEnded {
      promise.succeed()
      return promise
    }
    endsAsked += 1
    ends[endsAsked] = promise
    let bound = NIOLoopBound(self, eventLoop: eventLoop)
    promise.futureResult.whenComplete { [number = endsAsked] _ in bound.value.ends[number] = nil }
    return promise
  }

  /// After every event: the deadline, and whether the connection holds up the end of a drain.
  private func settle(_ context: ChannelHandlerContext) {
    if state.isBusy != wasBusy, context.channel.isActive {
      wasBusy = state.isBusy
      front.connectionIsBusy(wasBusy)
    }
    guard let deadline = state.deadline(limits), timer.map({ deadline < $0.at }) ?? true else { return }
    timer?.task.cancel()
    let bound = NIOLoopBound((self, context), eventLoop: context.eventLoop)
    timer = (
      deadline,
      context.eventLoop.scheduleTask(deadline: deadline) {
        let (gate, context) = bound.value
        gate.timer = nil
        if let deadline = gate.state.deadline(gate.limits), deadline <= .now() {
          context.close(promise: nil)
        } else {
          gate.settle(context)
        }
      }
    )
  }

  // MARK: Requests

  func channelRead(context: ChannelHandlerContext, data: NIOAny) {
    // Behind the device's handlers bytes come only while the decoder is taken away.
    guard !state.isDevice else { return leftovers.append(data) }
    let part = unwrapInboundIn(data)
    hasHeard = true
    let action: GateState.Action
    switch part {
    case .head(let head):
      overhead.began()
      action = arrived(head)
    case .body(let content):
      overhead.heard(content.readableBytes)
      action = state.bodyArrived()
    case .end: action = state.endArrived()
    }
    if action == .pass {
      if hasHTTP || install(context) { context.fireChannelRead(data) }
    } else {
      perform(action, context)
    }
    settle(context)
  }

  private func arrived(_ head: HTTPRequestHead) -> GateState.Action {
    knowsChunks = head.knowsChunks
    let kind: GateState.Kind
    switch front.door(for: head) {
    case .control: kind = .control
    case .device(let wire):
      kind = .device
      if held == nil { held = (head, wire, nil) }
    case .refused(let problem):
      kind = .refused
      if held == nil { held = (head, nil, problem) }
    }
    return state.headArrived(
      kind, isLast: head.isLast, expectsContinue: !head.headers["Expect"].isEmpty && head.knowsChunks, now: .now())
  }

  private func install(_ context: ChannelHandlerContext) -> Bool {
    hasHTTP = true
    do {
      try listener.open(context.channel)
      return true
    } catch {
      context.close(promise: nil)
      return false
    }
  }

  func channelReadComplete(context: ChannelHandlerContext) {
    if closesWhenHeard { return context.close(promise: nil) }
    state.readCompleted()
    // Hummingbird's handlers ask for nothing more.
    if state.isLingering { context.read() }
    context.fireChannelReadComplete()
  }

  func errorCaught(context: ChannelHandlerContext, error: any Error) {
    // The decoder reports every byte that comes after one that it could not read.
    guard !state.isLingering else { return }
    if error is NIOSSLError, !hasHeard { front.handshakeFailed(context.channel) }
    guard error is HTTPParserError else { return context.close(promise: nil) }
    if held == nil {
      held = (
        HTTPRequestHead(version: .http1_1, method: .GET, uri: ""), nil,
        error as? HTTPParserError == .headerOverflow ? .headerTooLarge : .malformed
      )
    }
    let action = state.parserFailed()
    if action == .pass { context.fireErrorCaught(error) } else { perform(action, context) }
    settle(context)
  }

  func userInboundEventTriggered(context: ChannelHandlerContext, event: Any) {
    let action: GateState.Action
    switch event {
    case is ChannelShouldQuiesceEvent: action = state.quiesced()
    case ChannelEvent.inputClosed:
      left()
      action = state.inputClosed()
    default: action = .pass
    }
    if action == .pass { context.fireUserInboundEventTriggered(event) } else { perform(action, context) }
  }

  private func perform(_ action: GateState.Action, _ context: ChannelHandlerContext) {
    switch action {
    case .nothing, .pass: break
    case .decide: decide(context)
    case .refuse, .refuseMalformed:
      if let held { refuse(context, held.problem ?? .malformed, held.head) }
    case .linger: linger(context)
    case .close: context.close(promise: nil)
    }
  }

  // MARK: Answers

  func channelWritabilityChanged(context: ChannelHandlerContext) {
    stallLooks?.cancel()
    stallLooks = nil
    if !context.channel.isWritable, !state.isDevice {
      stall = StallWatch()
      let bound = NIOLoopBound((self, context), eventLoop: context.eventLoop)
      stallLooks = context.eventLoop.scheduleRepeatedTask(initialDelay: .seconds(1), delay: .seconds(1)) { _ in
        let (gate, context) = bound.value
        let channel = context.channel
        if gate.stall.isOver(
          channel.bufferedBytes, isWritable: channel.isWritable, interval: .seconds(1), limit: gate.front.maxStall)
        {
          context.close(promise: nil)
        }
      }
    }
    context.fireChannelWritabilityChanged()
  }

  func read(context: ChannelHandlerContext) { if state.takesBytes { context.read() } }

  func write(context: ChannelHandlerContext, data: NIOAny, promise: EventLoopPromise<Void>?) {
    guard !state.isDevice, !state.isLingering else {
      promise?.fail(ChannelError.ioOnClosedChannel)
      return
    }
    switch unwrapOutboundIn(data) {
    case .head(var head):
      charges = (nil, charges.next)
      head.headers.replaceOrAdd(name: "Date", value: HTTPDate.now())
      if state.answerStarted(isDraining: front.isDraining) {
        head.headers.replaceOrAdd(name: "Connection", value: "close")
      }
      if !knowsChunks, !head.headers.contains(name: "Content-Length") { head.version = .http1_0 }
      context.write(wrapOutboundOut(.head(head)), promise: promise)
    case .body: context.write(data, promise: promise)
    case .end:
      var written = promise
      if let charge = charges.current {
        charges.current = nil
        let last = promise ?? context.eventLoop.makePromise()
        last.futureResult.whenComplete { _ in withExtendedLifetime(charge) {} }
        written = last
      }
      context.write(data, promise: written)
      perform(state.answerEnded(now: .now()), context)
      settle(context)
    }
  }

  /// Sent before the answer that costs it.
  struct AnswerCosts: Sendable { let charge: MemoryCharge }

  /// The body is wanted: sent by whoever answers, before it reads.
  struct BodyWanted: Sendable {}

  func triggerUserOutboundEvent(context: ChannelHandlerContext, event: Any, promise: EventLoopPromise<Void>?) {
    switch event {
    case let event as AnswerCosts: charges.next = event.charge
    case is BodyWanted:
      if state.bodyWanted() {
        context.writeAndFlush(
          wrapOutboundOut(.head(HTTPResponseHead(version: .http1_1, status: .continue))), promise: nil)
      }
    default: return context.triggerUserOutboundEvent(event, promise: promise)
    }
    promise?.succeed()
  }

  func close(context: ChannelHandlerContext, mode: CloseMode, promise: EventLoopPromise<Void>?) {
    if state.isDevice || state.isLingering {
      // Hummingbird ends what is not its connection any more.
      promise?.succeed()
    } else {
      context.close(mode: mode, promise: promise)
    }
  }

  /// The last answer of the connection.
  private func answer(_ context: ChannelHandlerContext, _ head: HTTPResponseHead, _ body: ByteBuffer?) {
    var head = head
    head.headers.replaceOrAdd(name: "Date", value: HTTPDate.now())
    context.write(wrapOutboundOut(.head(head)), promise: nil)
    if let body { context.write(wrapOutboundOut(.body(.byteBuffer(body))), promise: nil) }
    context.write(wrapOutboundOut(.end(nil)), promise: nil)
    linger(context)
  }

  private func linger(_ context: ChannelHandlerContext) {
    let bound = NIOLoopBound((self, context), eventLoop: context.eventLoop)
    let written = context.eventLoop.makePromise(of: Void.self)
    written.futureResult.whenComplete { _ in
      let (gate, context) = bound.value
      context.close(mode: .output, promise: nil)
      if gate.hasHTTP { context.fireUserInboundEventTriggered(ChannelEvent.inputClosed) }
      context.read()
    }
    // An empty body part is written when all before it is.
    context.writeAndFlush(wrapOutboundOut(.body(.byteBuffer(ByteBuffer()))), promise: written)
  }

  // MARK: Devices

  private func decide(_ context: ChannelHandlerContext) {
    guard let held, let wire = held.wire else { return }
    let bound = NIOLoopBound((self, context), eventLoop: context.eventLoop)
    let gone = ending(context.eventLoop)
    let address = front.client(context.channel, held.head)
    let admitted = front.admit(
      held.head, wire, from: address, on: context.eventLoop, until: gone.futureResult)
    admitted.assumeIsolated().map(\.value).whenComplete { result in
      let (gate, context) = bound.value
      gone.fail(DeviceFront.NoMore())
      guard context.channel.isActive else {
        if case .success(let admitted?) = result { admitted.abandon() }
        return
      }
      var isAdmitted = false
      if case .success(.some) = result { isAdmitted = true }
      gate.state.decided(isAdmitted: isAdmitted, now: .now())
      switch result {
      case .success(let admitted?): gate.handOver(context, admitted)
      case .success(nil): gate.finish(context, held.head)
      case .failure(let error): gate.refuse(context, gate.front.problem(for: error), held.head, wire)
      }
      gate.settle(context)
    }
  }

  private func handOver(_ context: ChannelHandlerContext, _ admitted: DeviceFront.Admitted) {
    let channel = context.channel
    let bound = NIOLoopBound((self, context), eventLoop: context.eventLoop)
    let pipeline = context.pipeline.syncOperations
    pipeline.removeHandler(overhead, promise: nil)
    pipeline.removeHandler(encoder).and(pipeline.removeHandler(decoder)).assumeIsolated().whenComplete { _ in
      let (gate, context) = bound.value
      do {
        let head = channel.allocator.buffer(string: admitted.responseHead)
        // Past the gate, whose outbound is HTTP parts.
        try admitted.install(channel, before: gate)
        // Flushed with what the device is sent first.
        context.write(NIOAny(head), promise: nil)
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
    let channel = context.channel
    if hasHTTP {
      listener.ended(channel)
      try? channel.syncOptions?.setOption(.recvAllocator, value: ReceiveBuffers.forDevices)
      context.fireUserInboundEventTriggered(ChannelEvent.inputClosed)
    } else {
      context.pipeline.syncOperations.removeHandler(self, promise: nil)
    }
    admitted.start()
    channel.flush()
    for bytes in leftovers { admitted.replay(bytes) }
    leftovers = []
  }

  private func finish(_ context: ChannelHandlerContext, _ head: HTTPRequestHead) {
    var headers = front.sharing(head)
    headers.add(name: "Connection", value: "close")
    answer(context, HTTPResponseHead(version: .http1_1, status: .noContent, headers: headers), nil)
  }

  private func refuse(
    _ context: ChannelHandlerContext, _ problem: Problem, _ request: HTTPRequestHead, _ wire: DeviceRequest.Wire? = nil
  ) {
    front.refused(problem, request, context.channel)
    if let wire, wire != .webSocket, let block = EventStream.block(passing: problem, as: wire, retry: front.retry) {
      return wait(context, request, block)
    }
    if wire == .webSocket, let (accepted, frames) = front.refusalForPages(problem, request) {
      return closeAsWebSocket(context, request, accepted, frames)
    }
    let body = problem.body
    var headers: HTTPHeaders = [
      "Content-Type": Problem.contentType, "Content-Length": String(body.readableBytes), "Connection": "close",
      "Cache-Control": "no-store",
    ]
    headers.add(contentsOf: front.sharing(request))
    for header in problem.headers { headers.replaceOrAdd(name: header.name, value: header.value) }
    answer(context, HTTPResponseHead(version: .http1_1, status: problem.status, headers: headers), body)
  }

  /// The peer's close frame, or anything else that it says, ends the connection: before it Firefox takes our end for a loss
  /// without a code (RFC 6455 section 7.1.1).
  private func closeAsWebSocket(
    _ context: ChannelHandlerContext, _ request: HTTPRequestHead, _ accepted: HTTPHeaders, _ frames: ByteBuffer
  ) {
    let head = HTTPResponseHead(version: request.version, status: .switchingProtocols, headers: accepted)
    context.write(wrapOutboundOut(.head(head)), promise: nil)
    context.writeAndFlush(wrapOutboundOut(.body(.byteBuffer(frames))), promise: nil)
    let bound = NIOLoopBound((self, context), eventLoop: context.eventLoop)
    context.eventLoop.execute {
      let (gate, context) = bound.value
      gate.closesWhenHeard = true
      context.read()
    }
  }

  /// An event stream that says to come back later: a status would end an EventSource for good (HTML section 9.2.3). It
  /// has not come to its end, so it has no last chunk.
  private func wait(_ context: ChannelHandlerContext, _ request: HTTPRequestHead, _ block: ByteBuffer) {
    var headers = DeviceFront.eventStreamHeaders(request)
    headers.add(contentsOf: front.sharing(request))
    headers.add(name: "Date", value: HTTPDate.now())
    context.write(
      wrapOutboundOut(.head(HTTPResponseHead(version: request.version, status: .ok, headers: headers))), promise: nil)
    context.write(wrapOutboundOut(.body(.byteBuffer(block))), promise: nil)
    linger(context)
  }
}

extension Problem {
  static let headerTooLarge = Problem(
    .requestHeaderFieldsTooLarge, "header-too-large",
    "The request line or the headers are too large; 16 KiB in all is allowed.")
  static let malformed = Problem.badRequest("malformed-request", "This is not a well-formed HTTP/1.1 request.")
}

extension HTTPRequestHead {
  /// Whether no other request can follow: the client closes, or the decoder stops because another protocol is asked for
  /// that is none of ours (RFC 9110 section 7.8 lets us ignore it).
  fileprivate var isLast: Bool {
    let connection = headers[canonicalForm: "connection"].map { $0.lowercased() }
    return !knowsChunks || connection.contains("close") || method == .CONNECT
      || !headers["Upgrade"].isEmpty && connection.contains("upgrade")
  }
}
