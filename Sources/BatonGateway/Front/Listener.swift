import Logging
import NIOConcurrencyHelpers
import NIOCore
import NIOHTTP1
import NIOPosix
import NIOSSL

/// Accepts connections, and puts up the HTTP/1 codec and the gate on each. Hummingbird is asked for those that carry control
/// requests; a device's connection has no task of its own.
package final class Listener: Sendable {
  private let front: DeviceFront
  private let tls: ListenerTLS?
  private let limits: HTTPLimits
  private let control: ControlChannel
  private let logger: Logger
  /// Ends once it was stopped and nobody is answered any more.
  private let over = AsyncStream<Void>.makeStream()
  private let state = NIOLockedValueBox(State())

  private struct State {
    var server: (any Channel)?
    var isStopped = false
    /// Connections that are not a device's.
    var gated: [ObjectIdentifier: any Channel] = [:]
    /// Connections that Hummingbird has.
    var answering: [ObjectIdentifier: Task<Void, Never>] = [:]

    var isOver: Bool { isStopped && answering.isEmpty }
  }

  /// - Parameter logger: of what goes wrong inside Hummingbird.
  init(
    front: DeviceFront, tls: ListenerTLS?, limits: HTTPLimits, responder: @escaping ControlChannel.Responder,
    logger: Logger
  ) {
    self.front = front
    self.tls = tls
    self.limits = limits
    self.logger = logger
    control = ControlChannel(isSecure: tls != nil, responder: responder)
  }

  /// Listens, and returns when it was stopped and the last control request has been answered.
  ///
  /// - Parameters:
  ///   - eventLoop: of the listening socket.
  ///   - accepting: in front of the listening socket's handlers; made on that socket's event loop.
  ///   - onListening: called once, with the address that was bound.
  /// - Throws: `IOError`, `SocketAddressError` where the address can't be listened on.
  func run(
    on address: ListenAddress, backlog: Int, _ eventLoop: any EventLoop, connectionsOn group: any EventLoopGroup,
    accepting: @escaping @Sendable () -> AcceptGuard, onListening: (SocketAddress) -> Void
  ) async throws {
    let bootstrap = ServerBootstrap(group: eventLoop, childGroup: group)
      .serverChannelOption(.backlog, value: Int32(clamping: backlog))
      .serverChannelOption(.socketOption(.so_reuseaddr), value: 1)
      .serverChannelInitializer { channel in
        channel.eventLoop.makeCompletedFuture { try channel.pipeline.syncOperations.addHandler(accepting()) }
      }
      .childChannelOption(.allowRemoteHalfClosure, value: true)
      .childChannelOption(.recvAllocator, value: ReceiveBuffers.forDevices)
      // More are kept for as many reads.
      .childChannelOption(.maxMessagesPerRead, value: 1)
      .childChannelInitializer { channel in channel.eventLoop.makeCompletedFuture { try self.accepted(channel) } }
    let server =
      switch address {
      case .tcp(let host, let port): try await bootstrap.bind(host: host, port: port).get()
      case .unix(let path):
        try await bootstrap.bind(unixDomainSocketPath: path, cleanupExistingSocketFile: true).get()
      }
    defer { server.close(promise: nil) }
    server.closeFuture.whenComplete { _ in self.stop() }
    let isStopped = state.withLockedValue { state in
      state.server = server
      return state.isStopped
    }
    if isStopped { return }
    if let address = server.localAddress { onListening(address) }
    await withTaskCancellationHandler {
      for await _ in over.stream {}
    } onCancel: {
      stop()
      for task in state.withLockedValue({ Array($0.answering.values) }) { task.cancel() }
    }
    for task in state.withLockedValue({ Array($0.answering.values) }) { await task.value }
  }

  /// Accepts no more connections, and has each end that carries no request, at once or after the answer that it waits for.
  /// Devices stay.
  func stop() {
    let (server, gated, isOver) = state.withLockedValue { state in
      state.isStopped = true
      defer { (state.server, state.gated) = (nil, [:]) }
      return (state.server, Array(state.gated.values), state.isOver)
    }
    server?.close(promise: nil)
    for channel in gated { channel.pipeline.fireUserInboundEventTriggered(ChannelShouldQuiesceEvent()) }
    if isOver { over.continuation.finish() }
  }

  private func accepted(_ channel: any Channel) throws {
    let isExpected = state.withLockedValue { state in
      if !state.isStopped { state.gated[ObjectIdentifier(channel)] = channel }
      return !state.isStopped
    }
    guard isExpected else { throw ChannelError.ioOnClosedChannel }
    let pipeline = channel.pipeline.syncOperations
    if let handler = front.proxyHeader(of: channel) { try pipeline.addHandler(handler) }
    if let tls { try pipeline.addHandler(NIOSSLServerHandler(context: tls.context)) }
    var decoderLimits = NIOHTTPDecoderLimitConfiguration()
    decoderLimits.maxHeaderFieldSize = limits.maxHeaderBytes
    decoderLimits.maxHeaderListSize = limits.maxHeaderBytes
    decoderLimits.maxHeaderFieldCount = 100
    let encoder = HTTPResponseEncoder()
    let decoder = ByteToMessageHandler(
      HTTPRequestDecoder(leftOverBytesStrategy: .forwardBytes, limitConfiguration: decoderLimits))
    let overhead = BodyOverhead()
    let gate = Gate(
      front: front, listener: self, overhead: overhead, decoder: decoder, encoder: encoder, limits: limits)
    try pipeline.addHandlers([overhead, encoder, decoder, gate])
  }

  // MARK: for the gate

  /// The connection is a device's, or has ended.
  func ended(_ channel: any Channel) {
    state.withLockedValue { state in state.gated[ObjectIdentifier(channel)] = nil }
  }

  /// A control request has come: Hummingbird's handlers are added behind the gate.
  func open(_ channel: any Channel) throws {
    try channel.syncOptions?.setOption(.maxMessagesPerRead, value: 4)
    try channel.syncOptions?.setOption(.recvAllocator, value: ReceiveBuffers.forRequests)
    let connection = try control.open(channel)
    state.withLockedValue { state in
      state.answering[ObjectIdentifier(channel)] = Task {
        await control.handle(value: connection, logger: logger)
        answered(channel)
      }
    }
  }

  private func answered(_ channel: any Channel) {
    let isOver = state.withLockedValue { state in
      state.answering[ObjectIdentifier(channel)] = nil
      return state.isOver
    }
    if isOver { over.continuation.finish() }
  }
}
