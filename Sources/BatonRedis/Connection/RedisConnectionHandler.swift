import NIOCore
import NIOSSL

/// Acts for ``RedisConnectionState`` on one channel. No completion and no report runs inside the call that caused it.
final class RedisConnectionHandler: ChannelInboundHandler {
  typealias InboundIn = ByteBuffer
  typealias OutboundOut = ByteBuffer
  typealias Completion = (Result<[RESPReply], RedisError>) -> Void

  private let eventLoop: any EventLoop
  private let url: RedisURL
  private var state: RedisConnectionState<Completion>
  private let reader: RESPReader
  private let loginDeadline: NIODeadline
  private let loggedIn: EventLoopPromise<Void>
  private var context: ChannelHandlerContext?
  /// Commands of this turn of the event loop; they share one write.
  private var outgoing = ByteBuffer()
  private var timer: Scheduled<Void>?

  var onPush: ((RESPReply) -> Void)?
  var onClose: ((RedisError) -> Void)? {
    didSet { if onClose != nil, state.closeReason != nil { later { self.reportClose() } } }
  }

  init(
    _ url: RedisURL, _ options: RedisConnector.Options, loginDeadline: NIODeadline, on eventLoop: any EventLoop
  ) {
    (self.url, self.loginDeadline, self.eventLoop) = (url, loginDeadline, eventLoop)
    state = RedisConnectionState(
      url: url, clientName: options.clientName, maxPipelineBytes: options.maxPipelineBytes)
    reader = RESPReader(limits: options.limits)
    loggedIn = eventLoop.makePromise()
  }

  /// Succeeds after the login.
  var connection: EventLoopFuture<RedisConnection> {
    let handler = NIOLoopBound(self, eventLoop: eventLoop)
    return loggedIn.futureResult.map { [url] in
      RedisConnection(
        handler: handler, address: url.address, remoteAddress: handler.value.context?.remoteAddress,
        eventLoop: handler.value.eventLoop)
    }
  }

  var closeReason: RedisError? { state.closeReason }
  var pipelineBytes: Int { state.pipelineBytes }

  func send(_ commands: [RedisCommand], deadline: NIODeadline, completion: @escaping Completion) {
    if commands.isEmpty { return later { completion(.success([])) } }
    switch state.sendRequested(commands, deadline: deadline, completion: completion) {
    case .write(let wakeAt):
      write(commands)
      if let wakeAt { wake(at: wakeAt) }
    case .refuse(let completion, let error):
      later { completion(.failure(error)) }
    }
  }

  /// The first reason counts.
  func close(_ error: RedisError) {
    if state.closeReason != nil { return }
    let failing = state.closed(error)
    end(failing: failing)
  }

  // MARK: Channel

  func handlerAdded(context: ChannelHandlerContext) {
    self.context = context
    if context.channel.isActive { login() }
  }

  func handlerRemoved(context: ChannelHandlerContext) {
    close(.connectionLost)
    self.context = nil
  }

  func channelActive(context: ChannelHandlerContext) {
    login()
    context.fireChannelActive()
  }

  func channelInactive(context: ChannelHandlerContext) {
    close(.connectionLost)
    context.fireChannelInactive()
  }

  func channelRead(context: ChannelHandlerContext, data: NIOAny) {
    let bytes = unwrapInboundIn(data)
    state.bytesReceived(bytes.readableBytes, now: eventLoop.now)
    do {
      try reader.read(bytes) { received($0) }
    } catch {
      close(error)
    }
  }

  func errorCaught(context: ChannelHandlerContext, error: Error) {
    let tls = try? context.pipeline.syncOperations.handler(type: NIOSSLClientHandler.self)
    close(RedisError(channel: error, url, certificate: tls?.peerCertificate))
  }

  // MARK: Actions

  private func login() {
    let commands = state.connected(deadline: loginDeadline)
    if commands.isEmpty { return }
    write(commands)
    wake(at: loginDeadline)
  }

  private func received(_ reply: RESPReply) {
    switch state.replyReceived(reply) {
    case .wait: break
    case .ready: loggedIn.succeed()
    case .complete(let completion, let replies): completion(.success(replies))
    case .push(let message): onPush?(message)
    case .close(let completions): end(failing: completions)
    }
  }

  private func write(_ commands: [RedisCommand]) {
    if outgoing.readableBytes == 0 { later { self.flush() } }
    for command in commands { outgoing.writeImmutableBuffer(command.encoded) }
  }

  private func flush() {
    let bytes = outgoing
    outgoing = ByteBuffer()
    if state.closeReason != nil { return }
    context?.writeAndFlush(wrapOutboundOut(bytes), promise: nil)
  }

  private func wake(at deadline: NIODeadline) {
    timer?.cancel()
    timer = eventLoop.assumeIsolated().scheduleTask(deadline: deadline) {
      switch self.state.timePassed(now: self.eventLoop.now) {
      case .wait: break
      case .wakeAt(let deadline): self.wake(at: deadline)
      case .close(let completions): self.end(failing: completions)
      }
    }
  }

  /// The close is reported before the requests fail, so that whoever asks again asks somebody else.
  private func end(failing completions: [Completion]) {
    guard let error = state.closeReason else { return }
    timer?.cancel()
    timer = nil
    context?.close(promise: nil)
    loggedIn.fail(error)
    later {
      self.reportClose()
      for completion in completions { completion(.failure(error)) }
    }
  }

  private func reportClose() {
    guard let error = state.closeReason, let onClose else { return }
    self.onClose = nil
    onPush = nil
    onClose(error)
  }

  private func later(_ body: @escaping () -> Void) { eventLoop.assumeIsolated().execute(body) }
}
