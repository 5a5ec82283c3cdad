import NIOCore

/// In front of the HTTP decoder: what follows a `101` is not for that decoder, which would drop it where TCP ends in the
/// same moment. It is held, the end included, until ``open()``.
final class UpgradeGate: ChannelInboundHandler, RemovableChannelHandler {
  typealias InboundIn = ByteBuffer
  typealias InboundOut = ByteBuffer

  private enum State {
    /// The answer's head is not complete.
    case asking
    case holding
    /// No upgrade, or made.
    case passing
  }

  private var state = State.asking
  private var bytes = ByteBuffer()
  private var hasEnded = false
  private var context: ChannelHandlerContext?
  /// A longer head is left to the HTTP decoder.
  private static let maxHeadBytes = 64 << 10

  func handlerAdded(context: ChannelHandlerContext) { self.context = context }

  func handlerRemoved(context: ChannelHandlerContext) { self.context = nil }

  func channelRead(context: ChannelHandlerContext, data: NIOAny) {
    if case .passing = state { return context.fireChannelRead(data) }
    var piece = unwrapInboundIn(data)
    bytes.writeBuffer(&piece)
    guard case .asking = state else { return }
    let view = bytes.readableBytesView
    let isUpgrade = view.dropFirst(9).prefix(3).elementsEqual("101".utf8) || view.count < 12
    if isUpgrade, let head = Self.endOfHead(view) {
      state = .holding
      if let head = bytes.readSlice(length: head) { context.fireChannelRead(wrapInboundOut(head)) }
    } else if !isUpgrade || view.count > Self.maxHeadBytes {
      state = .passing
      release(context)
    }
  }

  func channelInactive(context: ChannelHandlerContext) {
    if case .holding = state {
      hasEnded = true
    } else {
      release(context)
      context.fireChannelInactive()
    }
  }

  /// The WebSocket's handlers are there.
  func open() {
    guard case .holding = state, let context else { return }
    state = .passing
    release(context)
    if hasEnded { context.fireChannelInactive() }
  }

  private func release(_ context: ChannelHandlerContext) {
    guard bytes.readableBytes > 0 else { return }
    let held = bytes
    bytes = ByteBuffer()
    context.fireChannelRead(wrapInboundOut(held))
    context.fireChannelReadComplete()
  }

  private static func endOfHead(_ view: ByteBufferView) -> Int? {
    let end = Array("\r\n\r\n".utf8)
    var index = view.startIndex
    while let found = view[index...].firstIndex(of: end[0]) {
      if view[found...].starts(with: end) { return found - view.startIndex + end.count }
      index = found + 1
    }
    return nil
  }
}
