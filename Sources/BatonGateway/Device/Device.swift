import BatonProtocol
import BatonSession
import BatonWebSocket
import NIOCore

/// Decides what one device is sent. Made by `DeviceAttaching.attach`; everything is called on the device's event loop.
package protocol DeviceDriver: AnyObject, Sendable {
  /// The upgrade is written; from here the driver writes to the device, `attached` first.
  func start(_ wire: any DeviceWire)
  /// The device takes bytes again.
  func pump()
  /// A message with a `type` that the wire itself doesn't answer. False: unknown.
  func received(_ message: DeviceMessage) -> Bool
  /// The node goes away: say `draining`, then close with 1001.
  func drain(retryAfterMs: Int)
  /// The connection is gone; called once, also where the device never started.
  func closed()
}

/// What stands behind the HTTP front: lets a device in, or not.
package protocol DeviceAttaching: Sendable {
  /// History waits for memory: who holds some and takes nothing is to let go.
  var isShortOfMemory: Bool { get }

  /// On the connection's event loop. Fails with a `Problem` (409, 503, …) to refuse.
  ///
  /// - Parameter gone: succeeds with the end of the connection: attaching is given up at any moment. Fails once the driver
  ///   is told of that by `closed`.
  func attach(
    _ request: DeviceRequest, on eventLoop: any EventLoop, until gone: EventLoopFuture<Void>
  ) -> EventLoopFuture<Admission>
}

package enum Admission: Sendable {
  case admitted(any DeviceDriver)
  /// Nothing is left to be sent: server-sent events answer 204. Not for WebSocket.
  case finished
}

/// The wire under a device, WebSocket or server-sent events, as its driver sees it. Lives on the device's event loop.
package protocol DeviceWire: AnyObject {
  /// Whether the device takes bytes; `pump` is called when it does again.
  var isWritable: Bool { get }
  /// What was written and has not left.
  var bufferedBytes: Int { get }
  /// Who is behind it now: devices may send a newer token. Nil where nobody is asked for one.
  var identity: Identity? { get }
  /// One control frame; it does not leave before `flush`.
  func write(_ frame: ControlFrame)
  /// Bytes that are already in the wire's form, shared with other devices; nothing leaves before `flush`.
  func write(_ bytes: ByteBuffer)
  /// Entries, to a wire that makes its own form of them.
  func write(entries: Entries)
  func flush()
  func writeAndFlush(_ bytes: ByteBuffer)
  /// Ends the connection: WebSocket with a close frame, server-sent events by ending the response. Once is enough.
  func close(_ code: CloseCode, reason: String)
}

extension DeviceWire {
  package func write(entries: Entries) {}

  /// One control frame, at once.
  package func send(_ frame: ControlFrame) {
    write(frame)
    flush()
  }
}

extension CloseCode {
  /// Credentials missing, invalid or expired.
  package static let unauthenticated: Self = 4401
  /// Not allowed for this session.
  package static let notAllowed: Self = 4403
  /// The device answered no ping, or took nothing for `--max-stall`.
  package static let unresponsive: Self = 4408
  /// The node has no room, or can't reach its store.
  package static let overloaded: Self = 4429
}
