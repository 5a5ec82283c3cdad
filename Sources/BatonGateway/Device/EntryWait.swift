import BatonProtocol
import BatonWebSocket
import NIOCore

/// The wire of a page that waits: takes the first entry, or whatever else is not to be waited for, as a sign. Lives on its
/// event loop.
final class EntryWait: DeviceWire {
  private let eventLoop: any EventLoop
  private let promise: EventLoopPromise<Void>
  private var isOver = false

  init(_ eventLoop: any EventLoop) {
    self.eventLoop = eventLoop
    promise = eventLoop.makePromise()
  }

  var over: EventLoopFuture<Void> { promise.futureResult }

  /// Not within a call of the driver's, which ends by it.
  func end() {
    guard !isOver else { return }
    isOver = true
    eventLoop.execute { [promise] in promise.succeed() }
  }

  // MARK: DeviceWire

  let isWritable = true
  let bufferedBytes = 0
  let identity: Identity? = nil

  func write(_ frame: ControlFrame) {
    switch frame {
    case .attached, .live, .behind, .stalled: break
    default: end()
    }
  }

  func write(_ bytes: ByteBuffer) { end() }
  func flush() {}
  func writeAndFlush(_ bytes: ByteBuffer) { end() }
  func close(_ code: CloseCode, reason: String) { end() }
}
