import NIOCore
import NIOSSL

/// Acts for ``RedisConnectionState`` on one channel.
final class RedisConnectionHandler: ChannelInboundHandler {
  typealias InboundIn = ByteBuffer
  typealias OutboundOut = ByteBuffer
  typealias Completion = (Result<[RESPReply], RedisError>) -> Void

  private var state: RedisConnectionState<Completion>
  private let reader: RESPReader
  private let loginDeadline: NIODeadline
  private let ready: EventLoopPromise<Void>
  private var context: ChannelHandlerContext?
  /// Commands of this turn of the event loop; they share one write.
  private var outgoing = ByteBuffer()
  private var timer: Scheduled<Void>?

  var onPush: ((RESPReply) -> Void)?
  var onClose: ((RedisError) -> Void)? {
    didSet { if let error = state.closeReason { notifyClosed(error) } }
  }

  init(
    state: RedisConnectionState<Completion>, limits: RESPLimits, loginDeadline: NIODeadline,
    ready: EventLoopPromise<Void>
  ) {
    self.state = state
    self.reader = RESPReader(limits: limits)
    self.loginDeadline = loginDeadline
    self.ready = ready
  }

  var closeReason: RedisError? { state.closeReason }
  var pipelineBytes: Int { state.pipelineBytes }

  func send(_ commands: [RedisCommand], deadline: NIODeadline, completion: @escaping Completion) {
    if commands.isEmpty { return completion(.success([])) }
    switch state.sendRequested(commands, deadline: deadline, completion: completion) {
    case .write(let wakeAt):
      write(commands)
      if let wakeAt { wake(at: wakeAt) }
    case .refuse(let completion, let error):
      completion(.failure(error))
    }
  }

  /// The first reason counts.
  func close(_ error: RedisError) {
    if state.closeReason != nil { return }
    end(error, failing: state.closed(error))
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
    do {
      try reader.read(unwrapInboundIn(data)) { received($0) }
    } catch {
      close(error)
    }
  }

  func errorCaught(context: ChannelHandlerContext, error: Error) {
    close(RedisError(channel: error))
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
    case .ready: ready.succeed()
    case .complete(let completion, let replies): completion(.success(replies))
    case .push(let message): onPush?(message)
    case .close(let error, let completions): end(error, failing: completions)
    }
  }

  private func write(_ commands: [RedisCommand]) {
    if outgoing.readableBytes == 0 {
      context?.eventLoop.assumeIsolated().execute { self.flush() }
    }
    for command in commands { outgoing.writeImmutableBuffer(command.encoded) }
  }

  private func flush() {
    let bytes = outgoing
    outgoing = ByteBuffer()
    context?.writeAndFlush(wrapOutboundOut(bytes), promise: nil)
  }

  private func wake(at deadline: NIODeadline) {
    timer?.cancel()
    timer = context?.eventLoop.assumeIsolated().scheduleTask(deadline: deadline) {
      switch self.state.timePassed(now: .now()) {
      case .wait: break
      case .wakeAt(let deadline): self.wake(at: deadline)
      case .close(let error, let completions): self.end(error, failing: completions)
      }
    }
  }

  private func end(_ error: RedisError, failing completions: [Completion]) {
    timer?.cancel()
    timer = nil
    ready.fail(error)
    for completion in completions { completion(.failure(error)) }
    context?.close(promise: nil)
    notifyClosed(error)
  }

  private func notifyClosed(_ error: RedisError) {
    guard let onClose else { return }
    self.onClose = nil
    onPush = nil
    onClose(error)
  }
}

extension RedisError {
  /// What went wrong below the connection.
  init(channel error: any Error) {
    switch error {
    case let error as RedisError: self = error
    case NIOSSLError.uncleanShutdown: self = .connectionLost
    case NIOSSLError.handshakeFailed(let reason): self = .tls("\(reason)")
    case let error as NIOSSLExtraError: self = .tls("\(error)")
    case let error as BoringSSLError: self = .tls("\(error)")
    case let error as NIOSSLError: self = .tls("\(error)")
    default: self = RedisError(.retry, .connectionLost, "the connection to Redis was lost: \(error)")
    }
  }
}
