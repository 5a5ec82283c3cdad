import NIOCore
import NIOHTTP1

/// Puts `ServerHandshake` into NIO's `HTTPServerUpgradeHandler`.
///
/// A request that is refused goes on along the pipeline, so that the HTTP handler there can answer: what
/// `ServerHandshake.validate` says of it, or what `decide` failed with.
package final class ServerUpgrader: HTTPServerProtocolUpgrader, Sendable {
  package let supportedProtocol = "websocket"
  package let requiredUpgradeHeaders: [String] = []

  private let supported: [String]
  private let decide: @Sendable (any Channel, HTTPRequestHead, ServerHandshake.Accepted) -> EventLoopFuture<Void>
  private let upgraded: @Sendable (any Channel, HTTPRequestHead) throws -> Void

  /// - Parameters:
  ///   - decide: what beyond RFC 6455 must hold; a failed future refuses.
  ///   - upgraded: adds the handlers of the WebSocket; on the channel's event loop, before the first bytes.
  package init(
    supported: [String] = [],
    decide: @escaping @Sendable (any Channel, HTTPRequestHead, ServerHandshake.Accepted) -> EventLoopFuture<Void> = {
      channel, _, _ in channel.eventLoop.makeSucceededVoidFuture()
    },
    upgraded: @escaping @Sendable (any Channel, HTTPRequestHead) throws -> Void
  ) {
    self.supported = supported
    self.decide = decide
    self.upgraded = upgraded
  }

  package func buildUpgradeResponse(
    channel: any Channel, upgradeRequest: HTTPRequestHead, initialResponseHeaders: HTTPHeaders
  ) -> EventLoopFuture<HTTPHeaders> {
    switch ServerHandshake.validate(upgradeRequest, supported: supported) {
    case .success(let accepted): decide(channel, upgradeRequest, accepted).map { accepted.headers }
    case .failure(let refusal): channel.eventLoop.makeFailedFuture(refusal)
    }
  }

  package func upgrade(context: ChannelHandlerContext, upgradeRequest: HTTPRequestHead) -> EventLoopFuture<Void> {
    let channel = context.channel
    return context.eventLoop.makeCompletedFuture { try upgraded(channel, upgradeRequest) }
  }
}
