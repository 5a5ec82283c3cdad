import NIOCore
import NIOHTTP1

/// In front of the HTTP decoder: bounds what a chunked body has beside its content. Extensions and leading zeros of a chunk's
/// length have no bound of their own (RFC 9112 section 7.1.1), and count for no limit of bodies.
final class BodyOverhead: ChannelInboundHandler, RemovableChannelHandler {
  typealias InboundIn = ByteBuffer
  typealias InboundOut = ByteBuffer

  /// Bytes of a request that are neither its head nor content, beside `perByte` for each byte of content: a chunk of one
  /// byte has 5 of them. What is read at once may hold the next requests.
  static let most = 128 << 10
  static let perByte = 16

  private var bytes = 0
  private var isOver = false

  func channelRead(context: ChannelHandlerContext, data: NIOAny) {
    bytes += unwrapInboundIn(data).readableBytes
    context.fireChannelRead(data)
    guard bytes > Self.most, !isOver else { return }
    isOver = true
    context.fireErrorCaught(HTTPParserError.invalidChunkSize)
  }

  /// The decoder has found the head of a request.
  func began() { bytes = 0 }

  /// The decoder has found content of a body.
  func heard(_ count: Int) { bytes -= count * (1 + Self.perByte) }
}
