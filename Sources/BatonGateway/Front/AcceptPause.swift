import Logging
import NIOCore

#if canImport(Glibc)
  import Glibc
#else
  import Darwin
#endif

/// In front of the listening socket's handlers: where no descriptor is left nothing is accepted for a while, and said so.
/// Left alone the error would end accepting for good.
final class AcceptPause: ChannelInboundHandler, Sendable {
  typealias InboundIn = any Channel

  static let pause = TimeAmount.seconds(1)

  private let metrics: GatewayMetrics
  private let logger: Logger

  init(metrics: GatewayMetrics, logger: Logger) {
    self.metrics = metrics
    self.logger = logger
  }

  func errorCaught(context: ChannelHandlerContext, error: any Error) {
    guard let error = error as? IOError, [EMFILE, ENFILE, ENOBUFS, ENOMEM].contains(error.errnoCode) else {
      return context.fireErrorCaught(error)
    }
    metrics.acceptPaused()
    logger.warning(
      "no descriptor is left: no connection is accepted for 1 s; allow the process more (ulimit -n, LimitNOFILE)",
      metadata: ["error": "\(error)"])
    let channel = context.channel
    channel.setOption(.autoRead, value: false).whenComplete { _ in
      channel.eventLoop.scheduleTask(in: AcceptPause.pause) {
        channel.setOption(.autoRead, value: true).whenFailure { _ in }
      }
    }
  }
}
