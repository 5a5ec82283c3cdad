import Logging
import NIOCore

#if canImport(Glibc)
  import Glibc
#else
  import Darwin
#endif

/// In front of the listening socket's handlers: counts connections, ends those that an address has too many of, and accepts
/// none for a while where there are as many as may be, or no descriptor is left. Left alone that error would end accepting
/// for good. On the listening socket's event loop.
final class AcceptGuard: ChannelDuplexHandler {
  typealias InboundIn = any Channel
  typealias OutboundIn = Never

  static let pause = TimeAmount.seconds(1)

  private enum Hold { case full, noDescriptor }

  private let most: Int
  private let addresses: AddressLimits
  private let metrics: GatewayMetrics
  private let audit: AuditLog?
  private let troubles: TroubleLog
  private var count = 0
  private var holds: Set<Hold> = []
  private var ended: (@Sendable (PeerAddress?) -> Void)?

  /// - Parameter most: connections at a time.
  init(most: Int, addresses: AddressLimits, metrics: GatewayMetrics, audit: AuditLog?, logger: Logger) {
    self.most = most
    self.addresses = addresses
    self.metrics = metrics
    self.audit = audit
    troubles = TroubleLog(logger)
  }

  func handlerAdded(context: ChannelHandlerContext) {
    let bound = NIOLoopBound((self, context), eventLoop: context.eventLoop)
    ended = { [eventLoop = context.eventLoop, addresses] address in
      addresses.closed(address)
      eventLoop.execute {
        let (this, context) = bound.value
        this.count -= 1
        if this.count < this.most { this.release(.full, context) }
      }
    }
  }

  func handlerRemoved(context: ChannelHandlerContext) { ended = nil }

  func channelRead(context: ChannelHandlerContext, data: NIOAny) {
    let connection = unwrapInboundIn(data)
    let remote = connection.remoteAddress
    let address = addresses.proxies.contains(remote) ? nil : PeerAddress(remote)
    guard addresses.opened(address) else {
      metrics.exceeded(.connectionsPerAddress)
      audit?.refused(.tooManyConnections, AuditLog.Facts(address: address))
      troubles.occurred(
        "connections of an address", .info,
        "an address has as many connections as --max-connections-per-address allows",
        metadata: ["address": "\(connection.remoteAddress?.ipAddress ?? "")"])
      return connection.close(promise: nil)
    }
    count += 1
    connection.closeFuture.whenComplete { [ended] _ in ended?(address) }
    if count >= most, holds.insert(.full).inserted {
      metrics.exceeded(.connections)
      paused(
        "connections", "as many connections as --max-connections allows: none is accepted until one ends",
        ["connections": "\(count)"], context)
    }
    context.fireChannelRead(data)
  }

  func errorCaught(context: ChannelHandlerContext, error: any Error) {
    guard let error = error as? IOError, [EMFILE, ENFILE, ENOBUFS, ENOMEM].contains(error.errnoCode) else {
      return context.fireErrorCaught(error)
    }
    guard holds.insert(.noDescriptor).inserted else { return }
    paused(
      "descriptors",
      "no descriptor is left: no connection is accepted for 1 s; allow the process more (ulimit -n, LimitNOFILE)",
      ["error": "\(error)"], context)
    let bound = NIOLoopBound((self, context), eventLoop: context.eventLoop)
    context.eventLoop.scheduleTask(in: AcceptGuard.pause) {
      let (this, context) = bound.value
      this.release(.noDescriptor, context)
    }
  }

  private func paused(
    _ name: String, _ message: Logger.Message, _ metadata: Logger.Metadata, _ context: ChannelHandlerContext
  ) {
    metrics.acceptPaused()
    troubles.occurred(name, .warning, message, metadata: metadata)
    // Else the loop would go on being told that somebody waits.
    context.channel.setOption(.autoRead, value: false).whenFailure { _ in }
  }

  private func release(_ hold: Hold, _ context: ChannelHandlerContext) {
    guard holds.remove(hold) != nil, holds.isEmpty else { return }
    context.channel.setOption(.autoRead, value: true).whenFailure { _ in }
  }

  /// The handlers behind ask for more whenever a connection has been dealt with.
  func read(context: ChannelHandlerContext) { if holds.isEmpty { context.read() } }
}
