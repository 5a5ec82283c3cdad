import BatonProtocol
import BatonSession
import BatonStore
import NIOCore

/// What a node says of itself to its devices.
package struct NodeDescription: Sendable {
  package var name: String
  package var pingMs: Int

  package init(name: String, pingMs: Int) {
    self.name = name
    self.pingMs = pingMs
  }

  /// What a device may send.
  func features(for identity: Identity?, in session: SessionName) -> [String] {
    [Identity.Scope.input, .cancel].filter { identity?.may($0, session) ?? true }.map(\.rawValue)
  }
}

/// Lets devices in to their sessions, and takes what the store tells to the event loops that want it.
package final class Hub: DeviceAttaching, StoreSubscriber, @unchecked Sendable {
  private let store: any SessionStoring
  // Set once, at the end of `init`.
  private var loops: [ObjectIdentifier: LoopHub] = [:]
  /// Who follows a session, one room an event loop, and how long each can wait for what is new; on the store's.
  private var rooms: [SessionName: [(room: Room, paceMs: Int64)]] = [:]
  private var told: [ObjectIdentifier: (loop: any EventLoop, updates: [(Room, TailUpdate, paceMs: Int64)])] = [:]

  /// - Parameter group: the event loops that connections are accepted on.
  init(
    _ store: any SessionStoring, index: TenantIndex?, group: any EventLoopGroup, node: NodeDescription,
    limits: WindowLimits,
    metrics: GatewayMetrics
  ) {
    self.store = store
    let budget = WindowBudget()
    for loop in group.makeIterator() {
      loops[ObjectIdentifier(loop)] = LoopHub(
        loop, hub: self, store: store, node: node, index: index, limits: limits, metrics: metrics, budget: budget)
    }
    store.subscriber = self
  }

  package var isShortOfMemory: Bool { store.budget.isShort }

  package func attach(
    _ request: DeviceRequest, on eventLoop: any EventLoop, until gone: EventLoopFuture<Void>
  ) -> EventLoopFuture<Admission> {
    guard let hub = loops[ObjectIdentifier(eventLoop)] else {
      return eventLoop.makeFailedFuture(Problem.storeUnavailable)
    }
    let promise = eventLoop.makePromise(of: Admission.self)
    _ = AttachedDevice(request, hub: hub, admission: promise, gone: gone)
    return promise.futureResult
  }

  // MARK: on the store's event loop

  func follow(_ session: SessionName, for room: Room) {
    rooms[session, default: []].append((room, 0))
    pace(session)
    for update in store.follow(session) { tell(room, update, paceMs: 0) }
    hop()
  }

  func unfollow(_ session: SessionName, for room: Room) {
    rooms[session]?.removeAll { $0.room === room }
    guard rooms[session]?.isEmpty == true else { return pace(session) }
    rooms[session] = nil
    store.unfollow(session)
  }

  /// Nobody in the room wants what is new sooner than after so long. Milliseconds.
  func pace(_ session: SessionName, of room: Room, milliseconds: Int64) {
    guard let index = rooms[session]?.firstIndex(where: { $0.room === room }) else { return }
    rooms[session]?[index].paceMs = milliseconds
    pace(session)
  }

  private func pace(_ session: SessionName) {
    store.pace(session, milliseconds: rooms[session]?.lazy.map(\.paceMs).min() ?? 0)
  }

  package func updated(_ updates: [SessionUpdate]) {
    for (session, update) in updates {
      guard let rooms = rooms[session] else { continue }
      let paceMs = rooms.lazy.map(\.paceMs).min() ?? 0
      for (room, _) in rooms { tell(room, update, paceMs: paceMs) }
    }
    hop()
  }

  private func tell(_ room: Room, _ update: TailUpdate, paceMs: Int64) {
    told[ObjectIdentifier(room.eventLoop), default: (room.eventLoop, [])].updates.append((room, update, paceMs))
  }

  /// One hop for each event loop and batch; none to the store's own.
  private func hop() {
    guard !told.isEmpty else { return }
    let batches = told.values
    told.removeAll(keepingCapacity: true)
    for (loop, updates) in batches where !loop.inEventLoop {
      loop.execute { for (room, update, paceMs) in updates { room.apply(update, paceMs: paceMs) } }
    }
    for (loop, updates) in batches where loop.inEventLoop {
      for (room, update, paceMs) in updates { room.apply(update, paceMs: paceMs) }
    }
  }
}
