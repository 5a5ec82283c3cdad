import NIOCore
import NIOHTTP1

/// Writes chunks of an answer's body (RFC 9112 section 7.1) behind the handlers that make them of parts: each is one buffer
/// and one write. A client of HTTP/1.0 gets the same bytes without chunks.
struct ChunkWriter: Sendable {
  /// A size is written with as many digits, once it is known.
  private static let digits = 8

  private let encoder: NIOLoopBound<ChannelHandlerContext>
  private let isChunked: Bool

  /// - Throws: where the channel has no HTTP encoder (any more).
  static func make(on channel: any Channel) async throws -> ChunkWriter {
    try await channel.eventLoop.submit {
      let context = try channel.pipeline.syncOperations.context(handlerType: HTTPResponseEncoder.self)
      let isChunked = (try? channel.pipeline.syncOperations.handler(type: Gate.self))?.knowsChunks ?? true
      return ChunkWriter(encoder: NIOLoopBound(context, eventLoop: channel.eventLoop), isChunked: isChunked)
    }.get()
  }

  /// On the event loop, once the answer's head is written. Nothing is written where `body` writes nothing.
  func write(_ body: (inout ByteBuffer) -> Void) {
    let context = encoder.value
    var chunk = context.channel.allocator.buffer(capacity: 256)
    if isChunked {
      chunk.writeRepeatingByte(UInt8(ascii: "0"), count: Self.digits)
      chunk.writeStaticString("\r\n")
    }
    let start = chunk.writerIndex
    body(&chunk)
    guard chunk.writerIndex > start else { return }
    if isChunked {
      let size = String(chunk.writerIndex - start, radix: 16)
      chunk.setString(size, at: Self.digits - size.utf8.count)
      chunk.writeStaticString("\r\n")
    }
    context.writeAndFlush(NIOAny(IOData.byteBuffer(chunk)), promise: nil)
  }
}
