import BatonProtocol
import BatonSession
import BatonStore
import DequeModule
import NIOCore

/// The rooms of one event loop.
final class LoopHub: @unchecked Sendable {
  let eventLoop: any EventLoop
  let store: any SessionStoring
  let node: NodeDescription
  /// Nil where tenants may have as many sessions as they like.
  let index: TenantIndex?
  let limits: WindowLimits
  let counters: LoopCounters
  let metrics: GatewayMetrics
  let budget: WindowBudget
  let encodings = EncodingCache()
  private var rooms: [SessionName: Room] = [:]
  /// Rooms with a window, each once, and when it is to be seen whether it is still added to: a few at a time, because a
  /// thousand of them take milliseconds.
  private var withWindow: Deque<(due: NIODeadline, room: Room)> = []
  private var spread = 0
  private static let turns = 16
  private var windows: [Int: [ObjectIdentifier: AttachedDevice]] = [:]

  /// Gone once the gateway has ended.
  private weak var hub: Hub?

  init(
    _ eventLoop: any EventLoop, hub: Hub, store: any SessionStoring, node: NodeDescription, index: TenantIndex?,
    limits: WindowLimits, metrics: GatewayMetrics, budget: WindowBudget
  ) {
    self.node = node
    (self.eventLoop, self.hub, self.store, self.limits) = (eventLoop, hub, store, limits)
    self.metrics = metrics
    self.index = index
    self.budget = budget
    counters = metrics.makeLoopCounters()
    eventLoop.scheduleRepeatedTask(initialDelay: .seconds(1), delay: .seconds(1)) { [weak self] task in
      guard let self else { return task.cancel() }
      self.encodings.forget()
      if store.budget.isShort { for room in self.rooms.values { for device in room.devices { device.giveWay() } } }
      self.metrics.windowBytes.set(self.budget.bytes)
    }
    let turn = TimeAmount.nanoseconds(1_000_000_000 / Int64(LoopHub.turns))
    eventLoop.scheduleRepeatedTask(initialDelay: turn, delay: turn) { [weak self] task in
      guard let self else { return task.cancel() }
      self.restRooms(.now())
    }
  }

  func room(_ session: SessionName) -> Room {
    if let room = rooms[session] { return room }
    let room = Room(session, in: self)
    rooms[session] = room
    store.eventLoop.execute { [weak hub] in hub?.follow(session, for: room) }
    return room
  }

  func close(_ room: Room) {
    guard rooms[room.session] === room else { return }
    rooms[room.session] = nil
    store.eventLoop.execute { [weak hub] in hub?.unfollow(room.session, for: room) }
  }

  func pace(_ room: Room, milliseconds: Int64) {
    store.eventLoop.execute { [weak hub] in hub?.pace(room.session, of: room, milliseconds: milliseconds) }
  }

  func account(_ bytes: Int) { if bytes != 0 { budget.add(bytes) } }

  // MARK: windows that nobody adds to

  /// The room has a window now: it is looked at about every second from now on.
  func hasWindow(_ room: Room) {
    // What begins at the same time is not looked at all at once.
    spread = (spread + 1) % LoopHub.turns
    withWindow.append((.now() + .milliseconds(1000 + Int64(spread * 1000 / LoopHub.turns)), room))
  }

  private func restRooms(_ now: NIODeadline) {
    while let (due, room) = withWindow.first, due <= now {
      withWindow.removeFirst()
      if room.rest(now) { withWindow.append((max(due, now - .milliseconds(500)) + .seconds(1), room)) }
    }
  }

  var isOverBudget: Bool { budget.bytes > limits.nodeWindowBytes }

  // MARK: rollup windows

  func tick(_ device: AttachedDevice, everyMilliseconds window: Int) {
    windows[window, default: [:]][ObjectIdentifier(device)] = device
    guard windows[window]?.count == 1 else { return }
    let pause = TimeAmount.milliseconds(Int64(window))
    eventLoop.scheduleRepeatedTask(initialDelay: pause, delay: pause) { [weak self] task in
      guard let self, let devices = self.windows[window], !devices.isEmpty else { return task.cancel() }
      for device in devices.values { device.windowPassed() }
    }
  }

  func forget(_ device: AttachedDevice, everyMilliseconds window: Int) {
    windows[window]?[ObjectIdentifier(device)] = nil
  }
}
