import BatonProtocol
import BatonSession
import NIOCore

/// One session on one event loop: its log and the devices that are attached there. Everything happens on that loop.
final class Room: @unchecked Sendable {
  let session: SessionName
  private let hub: LoopHub
  private(set) var log = SessionLog()
  private(set) var devices: [AttachedDevice] = []
  private var lastAppend = NIODeadline.now()
  private var hasWindow = false
  /// Devices that want everything at once, and how long all can wait, as it was told. Milliseconds.
  private var hasty = 0
  private var paceMs: Int64 = 0

  init(_ session: SessionName, in hub: LoopHub) {
    self.session = session
    self.hub = hub
  }

  var eventLoop: any EventLoop { hub.eventLoop }

  func join(_ device: AttachedDevice) {
    devices.append(device)
    if device.paceMs == 0 { hasty += 1 }
    reconsiderPace()
  }

  func leave(_ device: AttachedDevice) {
    if device.paceMs == 0 { hasty -= 1 }
    if let index = devices.firstIndex(where: { $0 === device }) { devices.swapAt(index, devices.count - 1) }
    if devices.last === device { devices.removeLast() }
    guard devices.isEmpty else { return reconsiderPace() }
    account { $0.shrink(toBytes: 0) }
    hub.close(self)
  }

  /// A device wants everything at once now, or does so no more.
  func paceChanged(isHasty: Bool) {
    hasty += isHasty ? 1 : -1
    reconsiderPace()
  }

  private func reconsiderPace() {
    let pace = hasty > 0 ? 0 : devices.lazy.map(\.paceMs).min() ?? 0
    guard pace != paceMs else { return }
    paceMs = pace
    hub.pace(self, milliseconds: pace)
  }

  /// - Parameter paceMs: how long nobody of the session, on any event loop, wanted what is new. Milliseconds.
  func apply(_ update: TailUpdate, paceMs: Int64) {
    guard !devices.isEmpty else { return }
    account { $0.apply(update) }
    let limit = hub.isOverBudget ? min(log.bytes / 2, hub.limits.windowBytes) : hub.limits.windowBytes
    log.willShrink(toBytes: limit)
    if case .appended(let segment) = update {
      deliver(segment, paceMs: paceMs)
      lastAppend = .now()
    } else {
      for device in devices { device.pump() }
    }
    account { $0.shrink(toBytes: limit) }
  }

  /// To those who are live and level, which are nearly all, the same bytes.
  private func deliver(_ segment: Segment, paceMs: Int64) {
    let start = log.next - segment.entries.count
    let standing = log.standing
    var shared: FrameBytes.Shared?
    for device in devices where !device.take(segment, at: start, standing, &shared) {
      // It was read so late because nobody wanted it sooner.
      if device.paceMs > 0, device.paceMs <= paceMs { device.windowPassed() } else { device.pump() }
    }
  }

  /// The window goes soon after the last entry.
  ///
  /// - Returns: whether there is still one.
  func rest(_ now: NIODeadline) -> Bool {
    if log.bytes > 0, now - lastAppend > .seconds(5) { account { $0.shrink(toBytes: 0) } }
    hasWindow = log.bytes > 0
    return hasWindow
  }

  private func account(_ change: (inout SessionLog) -> Void) {
    let before = log.bytes
    change(&log)
    hub.account(log.bytes - before)
    guard log.bytes > 0, !hasWindow else { return }
    hasWindow = true
    hub.hasWindow(self)
  }
}
