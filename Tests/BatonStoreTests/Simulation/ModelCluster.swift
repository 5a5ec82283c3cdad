import BatonProtocol

@testable import BatonRedis

/// Masters, each with a replica, over model servers: whose slots are whose, and which of them still believe what was.
final class ModelCluster {
  /// What nodes believe. Nodes are numbers.
  struct View {
    /// By slot.
    var owners: [Int]
    var epochs: [UInt64]
    var isMaster: [Bool]
    /// Masters are missing, and nobody serves any slot.
    var isDown = false
    /// As `CLUSTER NODES` has it, by node.
    fileprivate var ranges: [String]

    fileprivate mutating func changed() {
      ranges = epochs.map { _ in "" }
      var first = 0
      for slot in 1...owners.count where slot == owners.count || owners[slot] != owners[first] {
        ranges[owners[first]] += slot == first + 1 ? " \(first)" : " \(first)-\(slot - 1)"
        first = slot
      }
    }
  }

  let hosts: [ModelHost]
  private(set) var truth: View
  /// Of nodes that have not heard what has become of them.
  private var beliefs: [Int: View] = [:]
  /// Slots on their way.
  private(set) var migrations: [Int: (from: Int, to: Int)] = [:]
  /// Nodes whose slots nobody serves until their replicas take over.
  private(set) var dead: Set<Int> = []

  /// - Parameter hosts: twice as many as masters; each of the second half is a replica of one of the first.
  init(_ hosts: [ModelHost]) {
    self.hosts = hosts
    let masters = hosts.count / 2
    truth = View(
      owners: (0..<RedisSlot.count).map { $0 * masters / RedisSlot.count },
      epochs: hosts.indices.map { UInt64($0 % masters + 1) }, isMaster: hosts.indices.map { $0 < masters }, ranges: [])
    truth.changed()
    for (number, host) in hosts.enumerated() {
      host.server.isReplica = !truth.isMaster[number]
      host.server.route = { [unowned self] in route($0, isAsking: $1, at: number) }
      host.server.clusterNodes = { [unowned self] in nodes(toldBy: number) }
    }
  }

  var masters: [Int] { hosts.indices.filter { truth.isMaster[$0] } }

  /// The other one of the same keys.
  func twin(of node: Int) -> Int { (node + hosts.count / 2) % hosts.count }

  func owner(of key: String) -> Int { truth.owners[RedisSlot.of(key)] }

  /// Where a key is, or would be made.
  func holder(of key: String) -> ModelRedisServer {
    let owner = hosts[owner(of: key)].server
    guard let migration = migrations[RedisSlot.of(key)], owner.keys[key] == nil else { return owner }
    return hosts[migration.to].server
  }

  func isServed(_ key: String) -> Bool { !truth.isDown && !dead.contains(owner(of: key)) }

  func isMoving(_ node: Int) -> Bool { migrations.values.contains { $0.from == node || $0.to == node } }

  var isAnybodyWrong: Bool { !beliefs.isEmpty }

  // MARK: what nodes say

  private static func id(_ node: Int) -> String { String(repeating: "\(node)", count: 40) }

  private func place(_ node: Int) -> String { "127.0.0.1:\(hosts[node].port)" }

  private func nodes(toldBy teller: Int) -> String {
    let view = beliefs[teller] ?? truth
    let leaving = migrations.filter { $0.value.from == teller }.map { " [\($0.key)->-\(Self.id($0.value.to))]" }
      .joined()
    return hosts.indices.map { node in
      let role = view.isMaster[node] ? "master" : "slave"
      let master = view.isMaster[node] ? "-" : Self.id(twin(of: node))
      return "\(Self.id(node)) \(place(node))@\(hosts[node].port + 10_000) \(node == teller ? "myself," : "")\(role) "
        + "\(master) 0 0 \(view.epochs[node]) connected\(view.ranges[node])\(node == teller ? leaving : "")\n"
    }.joined()
  }

  private func route(_ keys: [String], isAsking: Bool, at node: Int) -> String? {
    guard let first = keys.first else { return nil }
    let (slot, view, has) = (RedisSlot.of(first), beliefs[node] ?? truth, hosts[node].server.keys)
    if view.isDown { return "CLUSTERDOWN The cluster is down" }
    let migration = migrations[slot]
    if view.owners[slot] == node {
      guard let migration, migration.from == node else { return nil }
      let missing = keys.count { has[$0] == nil }
      if missing == 0 { return nil }
      return missing < keys.count
        ? "TRYAGAIN Multiple keys request during rehashing of slot" : "ASK \(slot) \(place(migration.to))"
    }
    if isAsking, migration?.to == node {
      return keys.count > 1 && keys.contains { has[$0] == nil }
        ? "TRYAGAIN Multiple keys request during rehashing of slot" : nil
    }
    return "MOVED \(slot) \(place(view.owners[slot]))"
  }

  // MARK: what befalls them

  /// - Parameter stops: all of the cluster, as long as nobody has its slots.
  func died(_ node: Int, stops: Bool) {
    dead.insert(node)
    truth.isDown = stops
  }

  /// A master's replica takes over, with the keys that it is given.
  /// - Parameter isUnaware: the master goes on as one until it ``hears(_:)``.
  func promoted(insteadOf node: Int, keeping keys: [(String, ModelRedisServer.Value)], isUnaware: Bool) {
    let heir = twin(of: node)
    if isUnaware { beliefs[node] = truth }
    dead.remove(node)
    truth.isDown = false
    truth.owners = truth.owners.map { $0 == node ? heir : $0 }
    truth.epochs[heir] = (truth.epochs.max() ?? 0) + 1
    (truth.isMaster[node], truth.isMaster[heir]) = (false, true)
    truth.changed()
    let server = hosts[heir].server
    server.isReplica = false
    for key in server.keys.keys { server.set(key, nil) }
    for (key, value) in keys { server.set(key, value) }
    if !isUnaware { hears(node) }
  }

  /// It is a replica now, with nothing that its new master does not have.
  func hears(_ node: Int) {
    beliefs[node] = nil
    guard !truth.isMaster[node] else { return }
    let server = hosts[node].server
    server.isReplica = true
    for key in server.keys.keys { server.set(key, nil) }
  }

  func begins(moving slot: Int, to node: Int) { migrations[slot] = (truth.owners[slot], node) }

  /// `MIGRATE`
  func moves(_ key: String) {
    guard let (from, to) = migrations[RedisSlot.of(key)], let value = hosts[from].server.keys[key] else { return }
    hosts[to].server.set(key, value)
    hosts[from].server.set(key, nil)
  }

  /// All keys have moved.
  func lands(_ slot: Int) {
    guard let migration = migrations.removeValue(forKey: slot) else { return }
    truth.owners[slot] = migration.to
    truth.epochs[migration.to] = (truth.epochs.max() ?? 0) + 1
    truth.changed()
  }
}
