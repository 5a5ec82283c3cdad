import BatonProtocol
import BatonSession
import BatonWebSocket
import NIOCore

/// Decides what one device is sent. Made by `DeviceAttaching.attach`; everything is called on the device's event loop.
package protocol DeviceDriver: AnyObject, Sendable {
  /// The upgrade is written; from here the driver writes to the device, `attached` first.
  func start(_ device: Device)
  /// The device takes bytes again.
  func pump()
  /// A message with a `type` that the wire itself doesn't answer. False: unknown.
  func received(_ message: DeviceMessage) -> Bool
  /// The node goes away: say `draining`, then close with 1012.
  func drain(retryAfterMs: Int)
  /// The connection is gone; called once, also where the device never started.
  func closed()
}

/// What stands behind the HTTP front: lets a device in, or not.
package protocol DeviceAttaching: Sendable {
  /// On the connection's event loop. Fails with a `Problem` (409, 503, …) to refuse.
  func attach(_ request: DeviceRequest, on eventLoop: any EventLoop) -> EventLoopFuture<Admission>
}

package enum Admission: Sendable {
  case admitted(any DeviceDriver)
  /// Nothing is left to be sent: server-sent events answer 204. Not for WebSocket.
  case finished
}

/// What a device sent: a JSON object with a `type` (PROTOCOL 5).
package struct DeviceMessage {
  package var type: String
  package var members: [String: Any]

  package func text(_ name: String) -> String? { members[name] as? String }
}

/// The wire under a device: WebSocket or server-sent events.
package protocol DeviceWire: AnyObject {
  /// One control frame, at once.
  func send(_ frame: ControlFrame)
  /// Bytes that are already in the wire's form; nothing leaves before `flush`.
  func write(_ bytes: ByteBuffer)
  func flush()
  func close(_ code: CloseCode, reason: String)
}

/// One attached device, as its driver sees it. Lives on its event loop.
package final class Device {
  package let request: DeviceRequest
  package let channel: any Channel
  /// Who is behind it now: devices may send a newer token.
  package internal(set) var identity: Identity?
  package internal(set) weak var wire: (any DeviceWire)?

  package init(request: DeviceRequest, channel: any Channel, wire: any DeviceWire) {
    self.request = request
    self.channel = channel
    identity = request.identity
    self.wire = wire
  }

  package var isWritable: Bool { channel.isWritable }
  package var session: SessionName { request.attach.session }

  /// One control frame in the wire's form, flushed.
  package func send(_ frame: ControlFrame) { wire?.send(frame) }
  /// Bytes in the wire's form, shared with other devices. Nothing leaves before `flush`.
  package func write(_ bytes: ByteBuffer) { wire?.write(bytes) }
  package func flush() { wire?.flush() }
  /// Ends the connection: WebSocket with a close frame, server-sent events by ending the body. Once is enough.
  package func close(_ code: CloseCode, reason: String = "") { wire?.close(code, reason: reason) }
}

extension CloseCode {
  /// Credentials missing, invalid or expired.
  package static let unauthenticated: Self = 4401
  /// Not allowed for this session.
  package static let notAllowed: Self = 4403
  /// The device answered no ping, or took nothing for `--max-stall`.
  package static let unresponsive: Self = 4408
}
