import BatonProtocol
import BatonSession
import BatonWebSocket
import NIOCore

/// The event stream of one device (PROTOCOL 6), in chunks of its own (RFC 9112 section 7.1): the last chunk is written
/// only where the stream has come to its end, so whatever else ends the connection can be told from it.
final class EventStreamDevice: ChannelInboundHandler, TickedWire {
  typealias InboundIn = ByteBuffer
  typealias OutboundOut = ByteBuffer

  private let life: DeviceLife
  private let isChunked: Bool
  private var context: ChannelHandlerContext?
  private var sinceComment = TimeAmount.zero
  private var isOpen = true
  private var hasStarted = false
  private var ignoredBytes = 0

  /// What may come behind the request; nothing has a meaning.
  private static let mostIgnoredBytes = 64 << 10

  /// - Parameter isChunked: false to a client of HTTP/1.0, which knows no chunks.
  init(_ life: DeviceLife, isChunked: Bool) {
    self.life = life
    self.isChunked = isChunked
  }

  func handlerAdded(context: ChannelHandlerContext) { self.context = context }
  func handlerRemoved(context: ChannelHandlerContext) {
    end()
    self.context = nil
  }

  /// The head of the response is written: begin.
  func start() {
    guard let context else { return }
    hasStarted = true
    life.start(self, on: context.eventLoop)
  }

  private func end() {
    isOpen = false
    life.end()
  }

  func channelRead(context: ChannelHandlerContext, data: NIOAny) {
    ignoredBytes += unwrapInboundIn(data).readableBytes
    if ignoredBytes > EventStreamDevice.mostIgnoredBytes { context.close(promise: nil) }
  }

  /// From here, because behind a gate that had control requests no read comes by itself.
  func channelReadComplete(context: ChannelHandlerContext) { context.read() }

  func errorCaught(context: ChannelHandlerContext, error: any Error) { context.close(promise: nil) }

  func channelInactive(context: ChannelHandlerContext) {
    end()
    context.fireChannelInactive()
  }

  func userInboundEventTriggered(context: ChannelHandlerContext, event: Any) {
    switch event {
    case ChannelEvent.inputClosed: context.close(promise: nil)
    default: context.fireUserInboundEventTriggered(event)
    }
  }

  func channelWritabilityChanged(context: ChannelHandlerContext) {
    if context.channel.isWritable, isOpen, hasStarted { life.driver.pump() }
    context.fireChannelWritabilityChanged()
  }

  // MARK: DeviceWire

  var isWritable: Bool { context?.channel.isWritable ?? false }
  var bufferedBytes: Int { context?.channel.bufferedBytes ?? 0 }
  var identity: Identity? { life.identity }

  func write(_ frame: ControlFrame) {
    write(EventStream.block(frame, as: life.form, retry: life.settings.retry))
  }

  func writeAndFlush(_ bytes: ByteBuffer) {
    write(bytes)
    flush()
  }

  func write(_ bytes: ByteBuffer) {
    guard isOpen, let context, bytes.readableBytes > 0 else { return }
    sinceComment = .zero
    guard isChunked else { return context.write(wrapOutboundOut(bytes), promise: nil) }
    // What is small is cheaper copied than written in three pieces.
    if bytes.readableBytes <= 2048 {
      context.write(wrapOutboundOut(EventStream.chunk(bytes)), promise: nil)
    } else {
      context.write(wrapOutboundOut(EventStream.chunkHead(bytes.readableBytes)), promise: nil)
      context.write(wrapOutboundOut(bytes), promise: nil)
      context.write(wrapOutboundOut(EventStream.chunkEnd), promise: nil)
    }
  }

  func flush() { context?.flush() }

  /// With 1000 the stream has come to its end; all other codes cut it.
  func close(_ code: CloseCode, reason: String) {
    guard isOpen, let context else { return }
    isOpen = false
    life.closes(code, reason)
    let bound = NIOLoopBound(self, eventLoop: context.eventLoop)
    let written = context.eventLoop.makePromise(of: Void.self)
    written.futureResult.whenComplete { _ in bound.value.context?.close(promise: nil) }
    let last = isChunked && code == .normal ? EventStream.lastChunk : ByteBuffer()
    context.writeAndFlush(wrapOutboundOut(last), promise: written)
    context.eventLoop.scheduleTask(in: .seconds(5)) { bound.value.context?.close(promise: nil) }
  }

  func ticked() {
    guard isOpen, let context else { return }
    if life.takesNothing(self) {
      context.close(promise: nil)
      return
    }
    sinceComment = sinceComment + life.settings.tick
    if sinceComment >= min(life.settings.pingInterval, .seconds(15)), context.channel.isWritable {
      write(EventStream.comment)
      flush()
    }
  }
}

/// The bytes of server-sent events (HTML Living Standard section 9.2.6).
package enum EventStream {
  /// Without a blank line: some clients take that for an event without data.
  package static let comment = ByteBuffer(string: ":\n")

  /// One frame of PROTOCOL 4, or for `format=text` what of it is shown there: `baton.reset` and the bare `id:` lines.
  package static func block(
    _ frame: ControlFrame, as wire: DeviceRequest.Wire, retry: TimeAmount
  ) -> ByteBuffer {
    var bytes = ByteBuffer()
    let id = frame.offsetAfter
    if let id { bytes.writeString("id: \(id)\n") }
    switch frame {
    case .attached, .draining: bytes.writeString("retry: \(spread(retry))\n")
    default: break
    }
    if wire == .text {
      guard case .reset = frame else {
        if bytes.readableBytes > 0 { bytes.writeString("\n") }
        return bytes
      }
      bytes.writeString("event: baton.reset\n")
    }
    bytes.writeString("data: ")
    bytes.writeImmutableBuffer(frame.encoded())
    bytes.writeString("\n\n")
    return bytes
  }

  /// What an attach is told that may be let in later; nil where a refusal stays.
  package static func block(
    passing problem: Problem, as wire: DeviceRequest.Wire, retry: TimeAmount
  ) -> ByteBuffer? {
    guard problem.status == .serviceUnavailable || problem.status == .tooManyRequests else { return nil }
    let retry = spread(retry)
    let frame: ControlFrame = problem.name == "store-unavailable" ? .stalled : .draining(retryAfterMs: retry)
    let event = wire == .text ? "event: baton.\(problem.name == "store-unavailable" ? "stalled" : "draining")\n" : ""
    var bytes = ByteBuffer(string: "retry: \(retry)\n\(event)data: ")
    bytes.writeImmutableBuffer(frame.encoded())
    bytes.writeString("\n\n")
    return bytes
  }

  /// In milliseconds; so that not all come back at once.
  private static func spread(_ retry: TimeAmount) -> Int {
    let milliseconds = Int(retry.nanoseconds / 1_000_000)
    return .random(in: milliseconds...milliseconds * 8 / 5)
  }

  // MARK: Chunks (RFC 9112 section 7.1)

  static let chunkEnd = ByteBuffer(string: "\r\n")
  package static let lastChunk = ByteBuffer(string: "0\r\n\r\n")

  static func chunkHead(_ length: Int) -> ByteBuffer { ByteBuffer(string: String(length, radix: 16) + "\r\n") }

  package static func chunk(_ bytes: ByteBuffer) -> ByteBuffer {
    var chunk = chunkHead(bytes.readableBytes)
    chunk.reserveCapacity(minimumWritableBytes: bytes.readableBytes + 2)
    chunk.writeImmutableBuffer(bytes)
    chunk.writeStaticString("\r\n")
    return chunk
  }
}

extension ControlFrame {
  /// Where a device stands after this frame; nil where the frame does not move it.
  fileprivate var offsetAfter: Offset? {
    switch self {
    case .attached(let attached): attached.offset
    case .live(let offset): offset
    case .reset(let reset): reset.offset
    default: nil
    }
  }
}
