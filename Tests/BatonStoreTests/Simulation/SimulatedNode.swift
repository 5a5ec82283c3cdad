import BatonProtocol
import BatonRedis
import NIOCore
import TestSupport

@testable import BatonSession
@testable import BatonStore

/// One session on one event loop of a gateway.
final class SimulatedRoom: @unchecked Sendable {
  let session: SessionName
  let loop: Int
  var log = SessionLog()
  var devices: [SimulatedDevice] = []
  /// When the last of what the store told arrives: nothing overtakes.
  var arrival: Int64 = 0

  init(_ session: SessionName, _ loop: Int) { (self.session, self.loop) = (session, loop) }
}

/// A gateway: the store that ships, of one server or of a cluster, and two event loops with a room for each session that has devices there.
final class SimulatedNode: StoreSubscriber, @unchecked Sendable {
  let number: Int
  unowned let fleet: Fleet
  private(set) var store: (any SessionStoring)?
  var rooms: [SessionName: [SimulatedRoom]] = [:]
  let startedAt: Int64
  var isAlive = true
  /// Lines that a log would have got.
  var lines = 0
  /// Notices that had come over this node's connections when they were last not believed.
  private var doubtedAt = 0
  private(set) var isTracking = false

  init(_ number: Int, _ fleet: Fleet) throws(RedisError) {
    (self.number, self.fleet, startedAt) = (number, fleet, fleet.now)
    var configuration = StoreConfiguration()
    configuration.node = "n\(number)"
    configuration.maxEntryBytes = 1024
    configuration.historyBytes = Fleet.historyBytes
    configuration.wakeup = fleet.weather.wakeup
    let network = fleet.network
    if fleet.cluster != nil {
      store = try ClusterStore(
        configuration, on: fleet.loop,
        connector: { role, limits in
          ModelNetwork.ClusterConnector(network: network, node: number, role: role, limits: limits)
        }, random: { Double(fleet.dice.roll(0...1000)) / 1000 }, observe: { [weak self] in self?.observed($0) })
      store?.subscriber = self
      return
    }
    store = try SessionStore(
      configuration, on: fleet.loop,
      connector: { role, limits in
        ModelNetwork.Connector(network: network, node: number, role: role, limits: limits)
      }, random: { Double(fleet.dice.roll(0...1000)) / 1000 }, observe: { [weak self] in self?.observed($0) })
    store?.subscriber = self
  }

  func start() { store?.start() }

  func stop() {
    isAlive = false
    store?.stop()
  }

  func updated(_ updates: [SessionUpdate]) {
    for (session, update) in updates { for room in rooms[session] ?? [] { fleet.tell(room, update, self) } }
  }

  private var notices: Int {
    fleet.network.connections.filter { $0.node == number && $0.role == .notices }.reduce(0) { $0 + $1.notices }
  }

  private func observed(_ event: StoreEvent) {
    switch event {
    case .wakeupChanged(let source, _):
      lines += 1
      fleet.note(nil, "node \(number) is told of changes by \(source), after \(notices) notices")
      isTracking = source == .tracking
      if source != .tracking {
        doubtedAt = notices
      } else if isAlive, notices == 0, fleet.cluster == nil {
        fleet.complain("node \(number) believes in notices, and none has come")
      }
    case .up(let role): fleet.note(nil, "node \(number) has a connection for \(role)")
    case .disconnected(let role, let failure):
      fleet.note(nil, "node \(number) is without its connection for \(role): \(failure.error)")
      if !failure.isRepeated { lines += 1 }
    case .producerLost(let session, let response, _): fleet.producerLost(session, response)
    default: break
    }
  }
}
