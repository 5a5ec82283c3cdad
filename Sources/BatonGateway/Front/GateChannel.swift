import HTTPTypes
import HummingbirdCore
import Logging
import NIOCore
import NIOHTTP1
import NIOHTTPTypes
import NIOHTTPTypesHTTP1
import NIOSSL

/// A connection of which the gate has not yet decided what it carries.
package struct GatedConnection: ServerChildChannelValue {
  package let channel: any Channel
  let http: EventLoopFuture<Gate.HTTP?>
}

/// What Hummingbird's server does with each connection: the HTTP/1 codec, the gate, and Hummingbird's own handlers once
/// a control request asks for them.
package struct GateChannel: ServerChildChannel, HTTPChannelHandler {
  package typealias Value = GatedConnection

  package let responder: HTTPChannelHandler.Responder
  let front: DeviceFront
  let tls: ListenerTLS?
  let limits: HTTPLimits

  package init(
    front: DeviceFront, tls: ListenerTLS?, limits: HTTPLimits, responder: @escaping HTTPChannelHandler.Responder
  ) {
    self.front = front
    self.tls = tls
    self.limits = limits
    self.responder = responder
  }

  package func setup(channel: any Channel, logger: Logger) -> EventLoopFuture<GatedConnection> {
    channel.eventLoop.makeCompletedFuture {
      try channel.syncOptions?.setOption(
        .recvAllocator, value: AdaptiveRecvByteBufferAllocator(minimum: 256, initial: 512, maximum: 65_536))
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
      let decided = channel.eventLoop.makePromise(of: Gate.HTTP?.self)
      let isSecure = tls != nil
      let overhead = BodyOverhead()
      let gate = Gate(
        front: front, overhead: overhead, decoder: decoder, encoder: encoder, limits: limits, decided: decided
      ) { channel in
        try channel.pipeline.syncOperations.addHandler(HTTP1ToHTTPServerCodec(secure: isSecure))
        return try NIOAsyncChannel(
          wrappingChannelSynchronously: channel, configuration: .init(isOutboundHalfClosureEnabled: true))
      }
      try pipeline.addHandlers([overhead, encoder, decoder, gate])
      return GatedConnection(channel: channel, http: decided.futureResult)
    }
  }

  package func handle(value: GatedConnection, logger: Logger) async {
    guard let http = try? await value.http.get() else { return }
    await handleHTTP(asyncChannel: http, logger: logger)
  }
}

/// Bounds of a connection that carries HTTP.
package struct HTTPLimits: Sendable {
  /// Of the request line and the headers together.
  package var maxHeaderBytes = 16 * 1024
  /// Until the first request's head is there.
  package var headerTimeout: TimeAmount = .seconds(10)
  /// Between requests, and between the pieces of a JSON body.
  package var idleTimeout: TimeAmount = .seconds(60)
  /// Between the pieces of an NDJSON upload: models think for minutes.
  package var uploadTimeout: TimeAmount = .minutes(30)
  /// Of a JSON body, whole; of an upload, whole.
  package var maxBodyTime: TimeAmount = .minutes(5)
  package var maxUploadTime: TimeAmount = .hours(24)
  /// Bytes a second of a JSON body, once it has had `headerTimeout`.
  package var minBodyRate = 256
  /// Of one upload.
  package var maxUploadBytes = 256 << 20
  /// Requests that are worked on at a time.
  package var maxRequests = 10_000
  /// Of a request to append, and of each line of an upload.
  package var maxBodyBytes = 1 << 20
  /// Names and values of one entry together.
  package var maxEntryBytes = 256 << 10

  package init() {}
}
