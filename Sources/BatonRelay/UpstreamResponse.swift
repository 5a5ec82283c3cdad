import AsyncHTTPClient
import NIOConcurrencyHelpers
import NIOCore
import NIOHTTP1

/// A model's answer as it comes: the head, then the body's pieces.
///
/// AsyncHTTPClient holds back what its reader has not asked for, and drops it when the connection is cut: of an answer that
/// breaks off the last tokens would be missing. Here everything that has arrived is taken at once, and the connection waits only
/// while `limit` bytes wait for Redis.
package final class UpstreamResponse: HTTPClientResponseDelegate, Sendable {
  package enum Part: Sendable {
    case head(HTTPResponseHead)
    case bytes(ByteBuffer)
  }

  /// Bytes that may wait before the connection does.
  static let limit = 1 << 20

  package let parts: AsyncThrowingStream<Part, any Error>
  private let continuation: AsyncThrowingStream<Part, any Error>.Continuation
  private let state = NIOLockedValueBox(State())

  private struct State {
    var bytes = 0
    var room: EventLoopPromise<Void>?
  }

  package init() { (parts, continuation) = AsyncThrowingStream.makeStream(of: Part.self, throwing: (any Error).self) }

  /// Asks; the answer comes as ``parts``. Whoever reads no further gives the request up.
  package func execute(_ request: HTTPClient.Request, on client: HTTPClient) {
    let loop = client.eventLoopGroup.next()
    let task = client.execute(
      request: request, delegate: self, eventLoop: .delegateAndChannel(on: loop), deadline: .distantFuture)
    continuation.onTermination = { [weak self] _ in
      task.cancel()
      self?.taken(.max)
    }
  }

  /// Nothing more is waited for: the parts end by this error.
  package func giveUp(_ error: any Error) { continuation.finish(throwing: error) }

  /// The reader is done with so many bytes.
  package func taken(_ count: Int) {
    let room = state.withLockedValue { state in
      state.bytes = max(0, state.bytes - count)
      return state.bytes < Self.limit ? state.room.take() : nil
    }
    room?.succeed()
  }

  package func didReceiveHead(task: HTTPClient.Task<Void>, _ head: HTTPResponseHead) -> EventLoopFuture<Void> {
    continuation.yield(.head(head))
    return task.eventLoop.makeSucceededVoidFuture()
  }

  package func didReceiveBodyPart(task: HTTPClient.Task<Void>, _ buffer: ByteBuffer) -> EventLoopFuture<Void> {
    let promise = state.withLockedValue { state -> EventLoopPromise<Void>? in
      state.bytes += buffer.readableBytes
      guard state.bytes >= Self.limit else { return nil }
      let room = task.eventLoop.makePromise(of: Void.self)
      state.room = room
      return room
    }
    if case .terminated = continuation.yield(.bytes(buffer)) { taken(.max) }
    return promise?.futureResult ?? task.eventLoop.makeSucceededVoidFuture()
  }

  package func didReceiveError(task: HTTPClient.Task<Void>, _ error: any Error) { continuation.finish(throwing: error) }

  package func didFinishRequest(task: HTTPClient.Task<Void>) { continuation.finish() }
}

extension HTTPClient.Configuration {
  /// For ``UpstreamResponse``: what one read brings is one piece, for a client that is given many asks for them in turns.
  package mutating func mergeBodies() {
    http1_1ConnectionDebugInitializer = { channel in
      channel.eventLoop.makeCompletedFuture {
        let pipeline = channel.pipeline.syncOperations
        let decoder = try pipeline.handler(type: ByteToMessageHandler<HTTPResponseDecoder>.self)
        try pipeline.addHandler(BodyMerger(), position: .after(decoder))
      }
    }
  }
}

/// Makes one body part of all that one read brings.
private final class BodyMerger: ChannelInboundHandler {
  typealias InboundIn = HTTPClientResponsePart
  typealias InboundOut = HTTPClientResponsePart

  private var body: ByteBuffer?

  func channelRead(context: ChannelHandlerContext, data: NIOAny) {
    if case .body(var bytes) = unwrapInboundIn(data) {
      if body == nil { body = bytes } else { body?.writeBuffer(&bytes) }
    } else {
      flush(context)
      context.fireChannelRead(data)
    }
  }

  func channelReadComplete(context: ChannelHandlerContext) {
    flush(context)
    context.fireChannelReadComplete()
  }

  func errorCaught(context: ChannelHandlerContext, error: any Error) {
    if flush(context) { context.fireChannelReadComplete() }
    context.fireErrorCaught(error)
  }

  func channelInactive(context: ChannelHandlerContext) {
    if flush(context) { context.fireChannelReadComplete() }
    context.fireChannelInactive()
  }

  @discardableResult private func flush(_ context: ChannelHandlerContext) -> Bool {
    guard let body = body.take() else { return false }
    context.fireChannelRead(wrapInboundOut(.body(body)))
    return true
  }
}
