import HTTPTypes
import HummingbirdCore
import Logging
import NIOCore
import NIOHTTPTypes
import NIOHTTPTypesHTTP1

/// A connection on which a control request has come: Hummingbird reads and answers it and all that follow.
struct ControlChannel: HTTPChannelHandler {
  struct Value: ServerChildChannelValue {
    let http: NIOAsyncChannel<HTTPRequestPart, HTTPResponsePart>
    var channel: any Channel { http.channel }
  }

  let isSecure: Bool
  let responder: HTTPChannelHandler.Responder

  /// On the channel's event loop.
  func open(_ channel: any Channel) throws -> Value {
    try channel.pipeline.syncOperations.addHandler(HTTP1ToHTTPServerCodec(secure: isSecure))
    return Value(
      http: try NIOAsyncChannel(
        wrappingChannelSynchronously: channel, configuration: .init(isOutboundHalfClosureEnabled: true)))
  }

  func setup(channel: any Channel, logger: Logger) -> EventLoopFuture<Value> {
    channel.eventLoop.makeCompletedFuture { try open(channel) }
  }

  /// Returns when the connection has ended.
  func handle(value: Value, logger: Logger) async { await handleHTTP(asyncChannel: value.http, logger: logger) }
}
