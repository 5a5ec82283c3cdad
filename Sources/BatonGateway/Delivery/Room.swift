import BatonProtocol
import BatonSession
import NIOCore

/// One session on one event loop: its log and the devices that are attached there. Everything happens on that loop.
final class Room: @unchecked Sendable {
  let session: SessionName
  let eventLoop: any EventLoop
  private unowned let hall: Hall
  private(set) var log = SessionLog()
  private(set) var drivers: [StreamDriver] = []
  private var lastAppend = NIODeadline.now()

  init(_ session: SessionName, in hall: Hall) {
    self.session = session
    self.hall = hall
    eventLoop = hall.eventLoop
  }

  func join(_ driver: StreamDriver) { drivers.append(driver) }

  func leave(_ driver: StreamDriver) {
    if let index = drivers.firstIndex(where: { $0 === driver }) { drivers.swapAt(index, drivers.count - 1) }
    if drivers.last === driver { drivers.removeLast() }
    guard drivers.isEmpty else { return }
    account { $0.shrink(toBytes: 0) }
    hall.close(self)
  }

  func apply(_ update: TailUpdate) {
    guard !drivers.isEmpty else { return }
    account { $0.apply(update) }
    for driver in drivers { driver.pump() }
    if case .appended = update { lastAppend = .now() }
    let limit = hall.store.configuration.windowBytes
    account { $0.shrink(toBytes: hall.isOverBudget ? min($0.bytes / 2, limit) : limit) }
  }

  /// The window goes soon after the last entry.
  func rest(_ now: NIODeadline) {
    if log.bytes > 0, now - lastAppend > .seconds(5) { account { $0.shrink(toBytes: 0) } }
  }

  private func account(_ change: (inout SessionLog) -> Void) {
    let before = log.bytes
    change(&log)
    hall.account(log.bytes - before)
  }
}

/// The rooms of one event loop.
final class Hall: @unchecked Sendable {
  let eventLoop: any EventLoop
  let store: StreamStore
  let counters: LoopCounters
  let metrics: GatewayMetrics
  let budget: WindowBudget
  private var rooms: [SessionName: Room] = [:]
  private var windows: [Int: [ObjectIdentifier: StreamDriver]] = [:]

  init(_ eventLoop: any EventLoop, store: StreamStore, metrics: GatewayMetrics, budget: WindowBudget) {
    self.eventLoop = eventLoop
    self.store = store
    self.metrics = metrics
    self.budget = budget
    counters = metrics.makeLoopCounters()
    eventLoop.scheduleRepeatedTask(initialDelay: .seconds(1), delay: .seconds(1)) { [weak self] task in
      guard let self else { return task.cancel() }
      let now = NIODeadline.now()
      for room in self.rooms.values { room.rest(now) }
      self.metrics.windowBytes.set(self.budget.bytes)
    }
  }

  func room(_ session: SessionName) -> Room {
    if let room = rooms[session] { return room }
    let room = Room(session, in: self)
    rooms[session] = room
    store.eventLoop.execute { [store] in store.follow(session, for: room) }
    return room
  }

  func close(_ room: Room) {
    guard rooms[room.session] === room else { return }
    rooms[room.session] = nil
    store.eventLoop.execute { [store] in store.unfollow(room.session, for: room) }
  }

  func account(_ bytes: Int) { if bytes != 0 { budget.add(bytes) } }

  var isOverBudget: Bool { budget.bytes > store.configuration.nodeWindowBytes }

  // MARK: rollup windows

  func tick(_ driver: StreamDriver, everyMilliseconds window: Int) {
    windows[window, default: [:]][ObjectIdentifier(driver)] = driver
    guard windows[window]?.count == 1 else { return }
    let pause = TimeAmount.milliseconds(Int64(window))
    eventLoop.scheduleRepeatedTask(initialDelay: pause, delay: pause) { [weak self] task in
      guard let self, let drivers = self.windows[window], !drivers.isEmpty else { return task.cancel() }
      for driver in drivers.values { driver.windowPassed() }
    }
  }

  func forget(_ driver: StreamDriver, everyMilliseconds window: Int) {
    windows[window]?[ObjectIdentifier(driver)] = nil
  }
}
