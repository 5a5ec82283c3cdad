import Atomics
import BatonProtocol
import BatonSession
import BatonWebSocket
import NIOCore

/// The wire of somebody who is served a session's entries in a form of their own: a device without a connection. What is
/// not taken waits here, up to a bound, and the driver waits with it. Lives on its event loop, but for what is asked of it.
final class ResponseTap: DeviceWire, @unchecked Sendable {
  /// What is followed.
  struct Request: Sendable {
    /// This response, to its end; nil: all that comes, for as long as somebody takes it.
    let response: String?
    let start: AttachRequest.Start
    let rollup: AttachRequest.Rollup

    /// A response from its beginning on, entry by entry.
    init(response: String) { (self.response, start, rollup) = (response, .response(response), .off) }

    /// What comes after a place, with adjacent deltas joined while it is read late.
    init(after place: Offset, response: String? = nil) {
      (self.response, start, rollup) = (response, .after(place), .auto)
    }
  }

  enum Item: Sendable {
    case entries([Entry])
    /// Everything that the stream held has come.
    case live
    /// What came is not what the stream holds.
    case reset
    /// Nothing came for a while: what is written now shows whether somebody is there.
    case beat
    /// What was written past the queue is to be looked at.
    case look
  }

  /// Bytes that may wait to be taken; more than that waits as history.
  static let limit = 64 << 10

  /// Ends when the response has, if it is one that is followed; throws where it is cut.
  let items: AsyncThrowingStream<Item, any Error>
  private let continuation: AsyncThrowingStream<Item, any Error>.Continuation
  private let eventLoop: any EventLoop
  private let driver: any DeviceDriver
  private let over: () -> Void
  /// Takes entries at once where nobody has any to finish before; false: they have to wait.
  private var passing: (@Sendable (Entries) -> Passed)?

  enum Passed { case all, lookAgain, none }
  /// Bytes of all that came, and of what is done with.
  private var written = 0
  private let read = ManagedAtomic(0)
  /// The driver waits until more is done with.
  private let isFull = ManagedAtomic(false)
  private var isOpen = true
  private var beat: RepeatedTask?

  /// A comment shows that both ends are there.
  private static let interval = TimeAmount.seconds(10)

  /// - Parameter over: called once on the event loop.
  init(_ driver: any DeviceDriver, on eventLoop: any EventLoop, over: @escaping () -> Void) {
    (self.driver, self.eventLoop, self.over) = (driver, eventLoop, over)
    (items, continuation) = AsyncThrowingStream.makeStream(of: Item.self, throwing: (any Error).self)
    let bound = NIOLoopBound(self, eventLoop: eventLoop)
    continuation.onTermination = { _ in eventLoop.execute { bound.value.end() } }
    beat = eventLoop.scheduleRepeatedTask(initialDelay: Self.interval, delay: Self.interval) { _ in
      if bound.value.bufferedBytes == 0 { bound.value.continuation.yield(.beat) }
    }
  }

  /// From anywhere: so many bytes of what came are done with.
  func taken(_ bytes: Int) {
    read.wrappingIncrement(by: bytes, ordering: .sequentiallyConsistent)
    guard isFull.exchange(false, ordering: .sequentiallyConsistent) else { return }
    eventLoop.execute { [self] in if isOpen { driver.pump() } }
  }

  /// From anywhere: entries that come while none wait are given to this, on the event loop.
  func pass(_ entries: @escaping @Sendable (Entries) -> Passed) { eventLoop.execute { self.passing = entries } }

  static func bytes(_ entries: [Entry]) -> Int { entries.reduce(0) { $0 + $1.bytes + 64 } }

  /// From anywhere: it is not followed any more, because of this.
  func giveUp(_ error: any Error) { eventLoop.execute { self.end(error) } }

  /// The connection that it is for has gone.
  func gone(_ error: any Error) { end(error) }

  private func end(_ error: (any Error)? = nil) {
    guard isOpen else { return }
    isOpen = false
    passing = nil
    beat?.cancel()
    continuation.finish(throwing: error)
    // Not within a call of the driver's, which ends by it.
    let bound = NIOLoopBound(self, eventLoop: eventLoop)
    eventLoop.execute {
      bound.value.driver.closed()
      bound.value.over()
    }
  }

  // MARK: DeviceWire

  var isWritable: Bool {
    if bufferedBytes < Self.limit { return true }
    isFull.store(true, ordering: .sequentiallyConsistent)
    // Some may have been done with just before.
    return bufferedBytes < Self.limit
  }
  var bufferedBytes: Int { written - read.load(ordering: .sequentiallyConsistent) }
  let identity: Identity? = nil

  func write(entries: Entries) {
    if let passing, bufferedBytes == 0 {
      switch passing(entries) {
      case .all: return
      case .lookAgain:
        continuation.yield(.look)
        return
      case .none: break
      }
    }
    let entries = Array(entries)
    written += Self.bytes(entries)
    continuation.yield(.entries(entries))
  }

  func write(_ frame: ControlFrame) {
    switch frame {
    case .live: continuation.yield(.live)
    case .reset:
      passing = nil
      continuation.yield(.reset)
    default: break
    }
  }

  func write(_ bytes: ByteBuffer) {}
  func flush() {}
  func writeAndFlush(_ bytes: ByteBuffer) {}

  func close(_ code: CloseCode, reason: String) {
    end(code == .normal ? nil : Problem.storeUnavailable)
  }
}
