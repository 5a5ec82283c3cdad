import BatonProtocol
import BatonSession
import NIOCore

/// One session on one event loop: its log and the devices that are attached there. Everything happens on that loop.
final class Room: @unchecked Sendable {
  let session: SessionName
  let eventLoop: any EventLoop
  private unowned let hub: LoopHub
  private(set) var log = SessionLog()
  private(set) var devices: [AttachedDevice] = []
  private var lastAppend = NIODeadline.now()

  init(_ session: SessionName, in hub: LoopHub) {
    self.session = session
    self.hub = hub
    eventLoop = hub.eventLoop
  }

  func join(_ device: AttachedDevice) { devices.append(device) }

  func leave(_ device: AttachedDevice) {
    if let index = devices.firstIndex(where: { $0 === device }) { devices.swapAt(index, devices.count - 1) }
    if devices.last === device { devices.removeLast() }
    guard devices.isEmpty else { return }
    account { $0.shrink(toBytes: 0) }
    hub.close(self)
  }

  func apply(_ update: TailUpdate) {
    guard !devices.isEmpty else { return }
    account { $0.apply(update) }
    let limit = hub.isOverBudget ? min(log.bytes / 2, hub.limits.windowBytes) : hub.limits.windowBytes
    log.willShrink(toBytes: limit)
    for device in devices { device.pump() }
    if case .appended = update { lastAppend = .now() }
    account { $0.shrink(toBytes: limit) }
  }

  /// The window goes soon after the last entry.
  func rest(_ now: NIODeadline) {
    if log.bytes > 0, now - lastAppend > .seconds(5) { account { $0.shrink(toBytes: 0) } }
  }

  private func account(_ change: (inout SessionLog) -> Void) {
    let before = log.bytes
    change(&log)
    hub.account(log.bytes - before)
  }
}
