import BatonProtocol
import Foundation
import NIOCore
import NIOEmbedded
import TestSupport

@testable import BatonRedis
@testable import BatonSession
@testable import BatonStore

/// What a run is made of.
struct Weather: Sendable {
  var destroys = true
  var losesNotices = false
  var countsAdded = true
  /// Error replies: of single commands, and of all for a while.
  var refuses = false
  /// The mean pause between cuts of single connections, in milliseconds; nil: none but those of `disturb`.
  var cutsEvery: Int?
  /// Entries and hashes out of all proportion.
  var hasPoison = false
  /// `tracking-table-max-keys`.
  var trackedKeys = Int.max
  /// Why Redis refuses `SUBSCRIBE`, or tracking, for as long as the run lasts.
  var refusesNotices: (command: String, words: String)?
  var outputLimit = Int.max
  var hasPassword = false
  var wakeup = Wakeup.auto
  /// Responses hold leases, and some of their producers die.
  var hasLeases = false
  var minutes: Int64 = 3
  var sessions = 4
  var devices = 12
  var nodes = 2
  /// Of a cluster, with as many replicas; 0: one server.
  var masters = 0
  /// Producers append by the atomic step, with leases; some die, and some freeze for longer than a lease is good for.
  var hasProducers = false
}

/// What a run has met, to show that it meets everything.
struct Tally: Sendable {
  var commands = 0
  var delivered = 0
  var resets = 0
  /// Frames that were encoded, read back and taken apart.
  var frames = 0
  /// Attaches that were closed because all that was asked for had been sent.
  var finished = 0
  /// Attaches that found the session on the other event loop of the same node.
  var bothLoops = 0
  var takenAtOnce = 0
  /// Responses that were ended for their producer, and connections that were made.
  var lost = 0
  var attempts = 0
  /// Looks at devices whose session's slot stayed on its way.
  var inMotion = 0
  /// Responses of producers that were told whole; producers that were told that they had lost theirs; devices that came
  /// when a lease was over.
  var whole = 0
  var zombies = 0
  var overdue = 0
  /// The most commands and attempts of a node in a second, and the most commands where nothing was written.
  var mostCommands = 0
  var mostAttempts = 0
  var mostIdleCommands = 0

  static func += (a: inout Tally, b: Tally) {
    a.commands += b.commands
    a.delivered += b.delivered
    a.resets += b.resets
    a.frames += b.frames
    a.finished += b.finished
    a.bothLoops += b.bothLoops
    a.takenAtOnce += b.takenAtOnce
    a.lost += b.lost
    a.attempts += b.attempts
    a.inMotion += b.inMotion
    a.whole += b.whole
    a.zombies += b.zombies
    a.overdue += b.overdue
    a.mostCommands = max(a.mostCommands, b.mostCommands)
    a.mostAttempts = max(a.mostAttempts, b.mostAttempts)
    a.mostIdleCommands = max(a.mostIdleCommands, b.mostIdleCommands)
  }
}

/// Gateways, devices, producers and a Redis, or a cluster, driven by one seed through everything that can go wrong. The gateways' stores
/// are those that ship, down to the bytes on their connections.
final class Fleet: @unchecked Sendable {
  static let historyBytes = 1 << 20

  let loop = EmbeddedEventLoop()
  /// The only server, where there is no cluster.
  let redis: ModelRedisServer
  let cluster: ModelCluster?
  let network: ModelNetwork
  var dice: Dice
  let weather: Weather
  var histories: [SessionName: History] = [:]
  let sessions: [SessionName]
  var nodes: [SimulatedNode] = []
  var devices: [SimulatedDevice] = []
  var complaints: [String] = []
  var responses: [SessionName: (name: String, n: Int)] = [:]
  /// Nothing bad happens from here on.
  var calmSince: Int64?
  /// Nothing is written from here on.
  var quietSince: Int64?
  var leased: [String: LeasedResponse] = [:]
  /// Producers' responses, and the process that they are in.
  var produced: [String: ProducedResponse] = [:]
  var producers: SimulatedNode?
  /// What a replica may have heard last.
  var points: [SessionName: [ReplicationPoint]] = [:]
  var backup: [SessionName: ModelRedisServer.Stream] = [:]
  var stories: [SessionName?: [(Int64, String)]] = [:]
  var tally = Tally()
  private var reader = EntryReader(maxEntryBytes: 1024)

  init(seed: UInt64, weather: Weather) {
    dice = Dice(seed: seed)
    self.weather = weather
    let servers = (0..<max(2 * weather.masters, 1)).map { ModelRedisServer(number: $0) }
    redis = servers[0]
    network = ModelNetwork(loop: loop, servers: servers, seed: seed &* 31)
    cluster = weather.masters > 0 ? ModelCluster(network.hosts) : nil
    sessions = (0..<weather.sessions).compactMap { SessionName("s\($0)") }
    for session in sessions { histories[session] = History(countsAdded: weather.countsAdded) }
    devices = (0..<weather.devices).map {
      SimulatedDevice($0, sessions[$0 % sessions.count], now: { [network] in network.now })
    }
    for redis in servers {
      redis.now = { [unowned self] in now }
      redis.countsAdded = weather.countsAdded
      redis.trackedKeys = weather.trackedKeys
      redis.pick = { [unowned self] in dice.roll(0...$0 - 1) }
      redis.added = { [unowned self, unowned redis] in added($0, $1, redis) }
      redis.renewed = { [unowned self, unowned redis] in if holder(of: $0) === redis { produced[$1]?.renewedAt = now } }
      redis.expired = { [unowned self, unowned redis] in if holder(of: $0) === redis { expired($1) } }
      redis.losesNotice = { [unowned self] in weather.losesNotices && !isCalm && dice.chance(20) }
      redis.refuse = { [unowned self] in refusal($0, $1) }
    }
    network.outputLimit = weather.outputLimit
    if weather.hasPassword { redis.password = "secret" }
    network.closedForNothing = { [unowned self] connection in
      let owner = nodes.first { $0.number == connection.node && $0.isAlive }
      // Masters of a cluster come and go, and who has come to tell of them is left again.
      guard let owner, owner.startedAt <= connection.madeAt, excusedUntil < now, cluster == nil else { return }
      complain("node \(connection.node) closed its connection for \(connection.role), with which nothing was wrong")
    }
  }

  var now: Int64 { network.now }
  var isCalm: Bool { calmSince != nil }

  func key(_ session: SessionName) -> String { session.key(prefix: "baton:") }
  func holder(of key: String) -> ModelRedisServer { cluster?.holder(of: key) ?? redis }
  var serial: Int { network.hosts.reduce(0) { $0 + $1.server.serial } }
  func stream(_ session: SessionName) -> ModelRedisServer.Stream? { holder(of: key(session)).stream(key(session)) }
  func retained(_ session: SessionName) -> [Entry] { histories[session]?.entries(stream(session)) ?? [] }

  // MARK: the run

  func run() {
    nodes = (0..<weather.nodes).compactMap { try? SimulatedNode($0, self) }
    for node in nodes { node.start() }
    tick()
    for session in sessions {
      produce(session)
      if weather.hasLeases { lease(session) }
    }
    if weather.hasProducers { startProducers() }
    for device in devices { plan(after: dice.roll(0...3000)) { self.live(device) } }
    if weather.destroys { for session in sessions { destroy(session) } }
    disturb()
    if cluster != nil { disturbCluster() }
    cut()
    everySecond()
    advance(to: now + weather.minutes * 60_000)
    calm()
    let end = max(now, network.pausedUntil, network.refusingUntil, busyUntil)
    advance(to: end)
    // All that failed has 5 s; those that were attaching get there as fast.
    advance(to: end + 5_000)
    if complaints.isEmpty { judgeWaiting(since: end) }
    advance(to: end + 30_000)
    quietSince = now
    advance(to: end + 90_000)
    if complaints.isEmpty { judgeTheEnd() }
    if complaints.isEmpty { judgeLeases() }
    if complaints.isEmpty { judgeProducers() }
    for node in nodes { node.stop() }
    producers?.stop()
    network.kill()
    loop.run()
    try? loop.close()
  }

  private func advance(to end: Int64) {
    while complaints.isEmpty, now < end { loop.advanceTime(by: .milliseconds(min(20, end - now))) }
  }

  private func calm() {
    calmSince = now
    redis.mood = nil
    if cluster == nil { network.refusingUntil = 0 }
    (network.isFull, network.isSilent) = (false, false)
    (network.outputLimit, network.lateness) = (.max, 0)
    excuse(for: 5_000)
    network.kill { $0.isSilent }
    for device in devices {
      device.takes = true
      if let node = device.node { pump(device, node) }
    }
  }

  func plan(after delay: Int, _ happen: @escaping () -> Void) { network.at(now + Int64(delay), happen) }

  func complain(_ words: String, _ device: SimulatedDevice? = nil, in session: SessionName? = nil) {
    var story: [(Int64, String)] = device?.story ?? []
    if let session = device?.session ?? session { story += stories[session] ?? [] }
    let past = (story + (stories[SessionName?.none] ?? [])).sorted { $0.0 < $1.0 }.suffix(Fleet.told)
    let who = device.map { "device \($0.number) of \($0.session) on node \($0.node?.number ?? -1): " } ?? ""
    complaints.append("at \(now) ms, \(who)\(words)\n\(past.map { "  \($0.0) \($0.1)" }.joined(separator: "\n"))")
  }

  /// So much of what happened is told with a complaint.
  private static let told = ProcessInfo.processInfo.environment["BATON_STORY"].flatMap(Int.init) ?? 90

  func note(_ session: SessionName? = nil, _ words: String) {
    stories[session, default: []].append((now, words))
  }

  // MARK: what is held against gateways at any moment

  /// While all connections may be left: another master, or a server that answers nobody.
  private(set) var excusedUntil: Int64 = 0
  /// When what befalls the cluster now is over, and to which of its nodes it happens.
  var busyUntil: Int64 = 0
  var failing: Set<Int> = []
  /// Something kept gateways from reading until then.
  var troubledUntil: Int64 = 0
  /// When a session's stream was last deleted.
  var lostAt: [SessionName: Int64] = [:]
  /// When a session's slot has come to where it is moved to, and a moment more.
  var movingUntil: [SessionName: Int64] = [:]
  /// A master of the cluster that is none any more may have answered as one until then.
  var wrongUntil: Int64 = 0

  func excuse(for time: Int64) { excusedUntil = max(excusedUntil, now + time) }

  private var writes = 0

  private func everySecond() {
    plan(after: 1000) { [self] in
      for node in nodes {
        let commands = network.commands.removeValue(forKey: node.number) ?? 0
        let attempts = network.attempts.removeValue(forKey: node.number) ?? 0
        tally.commands += commands
        tally.attempts += attempts
        tally.mostCommands = max(tally.mostCommands, commands)
        tally.mostAttempts = max(tally.mostAttempts, attempts)
        let attached = devices.filter { $0.node === node }.count
        if commands > 300 * (weather.masters + 1) + 160 * sessions.count + 40 * attached + 10 * writes {
          complain("a storm of \(commands) commands in a second by node \(node.number); \(writes) entries were written")
        }
        if attempts > 60 * (weather.masters + 1) {
          complain("a storm of \(attempts) connections in a second by node \(node.number)")
        }
        if let quietSince, now - quietSince > 10_000 {
          tally.mostIdleCommands = max(tally.mostIdleCommands, commands)
          if commands > 15 * (weather.masters + 1) + 8 * sessions.count + 2 * attached {
            complain("\(commands) commands in a second by node \(node.number), and nothing happens")
          }
        }
        if node.lines > 60 * (weather.masters + 1) {
          complain("\(node.lines) log lines in a second by node \(node.number)")
        }
        node.lines = 0
        if let used = node.store?.budget.used, used > Fleet.historyBytes + 5 << 20 {
          complain("node \(node.number) holds \(used) bytes of history")
        }
      }
      writes = 0
      everySecond()
    }
  }

  // MARK: producers and what befalls streams

  private func added(_ key: String, _ stored: ModelRedisServer.StreamEntry, _ server: ModelRedisServer) {
    guard let session = SessionName(key: key, prefix: "baton:") else { return }
    writes += 1
    let isTrue = holder(of: key) === server
    if cluster != nil, isTrue { notePoint(session, before: stored, on: server) }
    // As the store's limits make of it.
    let bytes = stored.fields.reduce(0) { $0 + $1.readableBytes }
    let isElided =
      bytes > 1 << 20 || stored.fields.count / 2 > RESPLimits().maxEntryFields
    let pairs = stride(from: 0, to: stored.fields.count, by: 2).map {
      Entry.Field(name: stored.fields[$0], value: stored.fields[$0 + 1])
    }
    let entry = isElided ? reader.elided(stored.id, bytes: bytes) : reader.entry(stored.id, pairs)
    let words = "XADD \(entry.offset) \(entry.response ?? "-") \(entry.n ?? 0) \(entry.event)"
    note(session, isTrue ? words : "\(words), to a master that is none any more")
    if isTrue {
      histories[session]?.added(entry, stored)
    } else {
      histories[session]?.strayed(entry, stored, behind: server.stream(key)?.entries.dropLast().last, at: now)
    }
  }

  func produce(_ session: SessionName) {
    if quietSince != nil { return }
    let pause = isCalm ? 200 : [1, 3, 20, 20, 400, 6000][dice.roll(0...5)]
    if let calmSince, now > calmSince + 29_000 { return append(session, isLast: true) }
    plan(after: pause) { [self] in
      for _ in 0..<(dice.chance(10) ? dice.roll(1...40) : 1) { append(session) }
      if weather.hasPoison, !isCalm, dice.chance(0.5) { poison(session) }
      produce(session)
    }
  }

  func append(_ session: SessionName, sameIDAsLast: EntryID? = nil, isLast: Bool = false) {
    var (name, n) = responses[session] ?? ("r", 0)
    var fields: [(String, String)] = []
    let serial = serial
    if n > 0, isLast || dice.chance(4) {
      // Ended, or given up without an end.
      if isLast || dice.chance(70) {
        fields = [("event", ["end", "error", "cancelled"][dice.roll(0...2)]), ("response", name)]
      }
      n = 0
    }
    if fields.isEmpty {
      if n == 0 { name = "r\(dice.roll(0...1_000_000_000))" }
      switch dice.roll(0...19) {
      case 0: fields = [("data", "plain \(serial)")]
      case 1: fields = [("event", "note"), ("data", "x \(serial)"), ("k", "v")]
      case 2: fields = [("data", String(repeating: "b", count: 1200)), ("salt", "\(serial)")]
      case 3:
        let joined = dice.roll(2...5)
        n += joined
        fields = [("data", "j\(serial) "), ("response", name), ("n", "\(n)"), ("joined", "\(joined)")]
      default:
        n += 1
        fields = [
          ("data", "t\(serial) " + (dice.chance(5) ? String(repeating: "c", count: 600) : "")), ("response", name),
          ("n", "\(n)"),
        ]
      }
    }
    responses[session] = (name, n)
    append(session, fields, sameIDAsLast: sameIDAsLast)
  }

  func append(_ session: SessionName, _ fields: [(String, String)], sameIDAsLast: EntryID? = nil) {
    if case .string? = holder(of: key(session)).keys[key(session)] { return }
    if cluster?.isServed(key(session)) == false { return }
    holder(of: key(session)).turn += 1
    var fields = fields
    if !weather.countsAdded, stream(session)?.entries.isEmpty ?? true, dice.chance(70) {
      fields.append(("_after", "\(stream(session)?.lastGenerated ?? .zero)"))
    }
    guard
      holder(of: key(session)).add(
        key(session), id: sameIDAsLast, fields.flatMap { [ByteBuffer(string: $0.0), ByteBuffer(string: $0.1)] }) != nil
    else { return }
    if dice.chance(15) { trim(session, to: weather.hasProducers ? dice.roll(100...400) : dice.roll(5...60)) }
  }

  private static let megabyte = ByteBuffer(repeating: UInt8(ascii: "m"), count: 1 << 20)

  /// More bytes or fields than anybody takes in, and state of more responses than anybody needs.
  private func poison(_ session: SessionName) {
    if case .string? = holder(of: key(session)).keys[key(session)] { return }
    if cluster?.isServed(key(session)) == false { return }
    switch dice.roll(0...2) {
    case 0:
      holder(of: key(session)).add(
        key(session),
        (0..<dice.roll(2...6)).flatMap { [ByteBuffer(string: "f\($0)-\(serial)"), Fleet.megabyte] })
    case 1:
      let name = ByteBuffer(string: "x")
      holder(of: key(session)).add(key(session), (0..<dice.roll(300...20_000)).flatMap { _ in [name, name] })
    default:
      guard var hash = holder(of: key(session)).hash(key(session) + ":producers") else { return }
      for number in 0..<2000 { hash["p\(number)"] = ByteBuffer(string: "1 3 end - 5-0 1") }
      holder(of: key(session)).set(key(session) + ":producers", .hash(hash))
    }
  }

  func trim(_ session: SessionName, to count: Int) {
    let removed = holder(of: key(session)).trim(key(session), to: count)
    if removed.isEmpty { return }
    note(session, "XTRIM to \(count): \(removed.count) up to \(removed.last?.id.description ?? "-")")
    histories[session]?.wasDisturbed = true
    histories[session]?.removed(removed, at: now, byDeletion: false)
  }

  func destroy(_ session: SessionName) {
    plan(after: dice.roll(500...40_000)) { [self] in
      if isCalm { return }
      guard cluster?.isServed(key(session)) ?? true else { return destroy(session) }
      let before = stream(session)?.entries ?? []
      switch dice.roll(0...7) {
      case 0: trim(session, to: dice.roll(0...3))
      case 1:
        if !before.isEmpty {
          let index = dice.chance(40) ? before.count - 1 : dice.roll(0...before.count - 1)
          if let removed = holder(of: key(session)).delete(key(session), before[index].id) {
            note(session, "XDEL \(removed.id)")
            histories[session]?.wasDisturbed = true
            histories[session]?.removed([removed], at: now, byDeletion: true)
          }
        }
      case 2, 3: lose(session, before, keeping: [])
      case 4:
        // The same ids with other content, before anybody can have looked.
        lose(session, before, keeping: [])
        for stored in before.suffix(dice.roll(0...before.count)) { append(session, sameIDAsLast: stored.id) }
      case 5:
        lose(session, before, keeping: [])
        holder(of: key(session)).set(key(session), .string(ByteBuffer(string: "other")))
        plan(after: dice.roll(0...5000)) { [self] in
          guard case .string? = holder(of: key(session)).keys[key(session)] else { return }
          holder(of: key(session)).set(key(session), nil)
        }
      case 6:
        // Smaller ids than any before.
        lose(session, before, keeping: [])
        for sequence in 1...dice.roll(1...5) { append(session, sameIDAsLast: EntryID(0, UInt64(sequence))) }
      default: failOver()
      }
      destroy(session)
    }
  }

  func lose(
    _ session: SessionName, _ before: [ModelRedisServer.StreamEntry], keeping kept: [ModelRedisServer.StreamEntry]
  ) {
    holder(of: key(session)).set(key(session), nil)
    lostAt[session] = now
    note(session, "DEL")
    histories[session]?.removed(before, at: now, byDeletion: false)
    histories[session]?.branched(keeping: kept, at: now)
  }

  /// A replica takes over that has not had the last entries of some sessions; or an older state is restored.
  func failOver() {
    if cluster != nil { return failOverShard() }
    let isRestore = dice.chance(30)
    for session in sessions {
      guard var stream = stream(session) else { continue }
      let before = stream.entries
      if isRestore, let old = backup[session] {
        stream = old
      } else if !before.isEmpty {
        let lost = dice.roll(0...min(8, before.count))
        if lost == 0 { continue }
        stream.entries.removeLast(lost)
        stream.added -= UInt64(lost)
        stream.lastGenerated = stream.entries.last?.id ?? .zero
      }
      let kept = Set(stream.entries.map(\.serial))
      histories[session]?.removed(before.filter { !kept.contains($0.serial) }, at: now, byDeletion: false)
      histories[session]?.branched(keeping: stream.entries, at: now)
      holder(of: key(session)).keys[key(session)] = .stream(stream)
      note(session, "restored up to \(stream.lastGenerated)")
    }
    redis.restart()
    excuse(for: 15_000)
    network.kill()
  }

  // MARK: what befalls gateways and connections

  private func cut() {
    guard let mean = weather.cutsEvery else { return }
    plan(after: dice.roll(1...2 * mean)) { [self] in
      if isCalm { return }
      troubledUntil = max(troubledUntil, now)
      let open = network.connections
      if !open.isEmpty {
        let one = open[dice.roll(0...open.count - 1)]
        note(nil, "node \(one.node) loses its connection for \(one.role)")
        one.kill()
      }
      cut()
    }
  }

  func disturb() {
    plan(after: dice.roll(1000...20_000)) { [self] in
      if isCalm { return }
      let node = nodes[dice.roll(0...nodes.count - 1)]
      let time = dice.roll(100...6000)
      let what = dice.roll(0...(weather.refuses ? 11 : 8))
      switch what {
      case 4, 7, 8: break
      case 0, 1, 2: troubledUntil = max(troubledUntil, now)
      default: troubledUntil = max(troubledUntil, now + Int64(time))
      }
      switch what {
      case 0: crash(node)
      case 1:
        note(nil, "node \(node.number) loses all connections")
        network.kill { $0.node == node.number }
      case 2:
        let role = StoreConnection.allCases[dice.roll(0...3)]
        note(nil, "node \(node.number) loses its connection for \(role)")
        network.kill { $0.node == node.number && $0.role == role }
      case 3:
        note(nil, "Redis hangs for \(time) ms")
        network.pausedUntil = max(network.pausedUntil, now + Int64(time))
        excuse(for: Int64(time) + 15_000)
      case 4: backup = sessions.reduce(into: [:]) { $0[$1] = stream($1) }
      case 5:
        let open = network.connections
        if !open.isEmpty {
          let one = open[dice.roll(0...open.count - 1)]
          note(nil, "node \(one.node) hears nothing any more over its connection for \(one.role)")
          // It takes a deadline to notice.
          troubledUntil = max(troubledUntil, now + 12_000)
          one.isSilent = true
        }
      case 6:
        note(nil, "nobody can connect for \(time) ms")
        let how = dice.roll(0...2)
        if how == 0 { network.refusingUntil = now + Int64(time) }
        if how == 1 { network.isFull = true }
        if how == 2 { network.isSilent = true }
        troubledUntil = max(troubledUntil, now + Int64(time) + 5000)
        network.kill { $0.node == node.number }
        plan(after: time) { [self] in
          (network.isFull, network.isSilent) = (false, false)
        }
      case 9, 10, 11:
        let mood = ModelRedisServer.Mood.allCases[dice.roll(0...6)]
        note(nil, "Redis is \(mood) for \(time) ms")
        redis.mood = mood
        excuse(for: Int64(time) + 15_000)
        plan(after: time) { [self] in redis.mood = nil }
      default:
        let device = devices[dice.roll(0...devices.count - 1)]
        device.takes = false
        plan(after: dice.roll(100...30_000)) { [self] in
          device.takes = true
          if let node = device.node { pump(device, node) }
        }
      }
      disturb()
    }
  }

  private static let refusals = [
    "LOADING Redis is loading the dataset in memory", "BUSY Redis is busy running a script.",
    "MASTERDOWN Link with MASTER is down", "MISCONF Redis is configured to save RDB snapshots",
    "OOM command not allowed when used memory > 'maxmemory'.", "READONLY You can't write against a read only replica.",
    "NOREPLICAS Not enough good replicas to write.", "NOPERM this user has no permissions",
    "NOAUTH Authentication required.",
    "WRONGTYPE Operation against a key holding the wrong kind of value", "ERR unknown command", "TRYAGAIN",
    "ERR something that nobody has heard of", "CLUSTERDOWN The cluster is down",
  ]

  private func refusal(_ client: ModelRedisServer.Client, _ command: String) -> String? {
    if let (refused, words) = weather.refusesNotices, refused == command { return words }
    guard weather.refuses, !isCalm, dice.chance(0.3) else { return nil }
    // WRONGTYPE is an answer about a key, and it would be a false one.
    let words = Fleet.refusals[dice.roll(0...Fleet.refusals.count - 1)]
    if words.hasPrefix("WRONGTYPE"), command.hasPrefix("X") { return nil }
    excuse(for: 15_000)
    note(nil, "\(command) is refused: \(words.prefix(20))")
    return words
  }

  func crash(_ node: SimulatedNode) {
    guard node.isAlive, nodes.filter(\.isAlive).count > 1 else { return }
    note(nil, "node \(node.number) crashes")
    node.stop()
    for device in devices where device.node === node { drop(device) }
    plan(after: dice.roll(500...5000)) { [self] in
      guard let index = nodes.firstIndex(where: { $0 === node }), let fresh = try? SimulatedNode(node.number, self)
      else { return }
      nodes[index] = fresh
      fresh.start()
    }
  }

  // MARK: the end

  /// Whoever was attached when the last fault was over.
  private func judgeWaiting(since end: Int64) {
    // A notice that was lost is made up for by the sweep, and by nothing else.
    if weather.losesNotices { return }
    // A burst that has just come takes it a moment.
    for device in devices
    where !device.isClosed && device.node != nil && device.attachedAt <= end && device.fellBehindAt < now - 1_000 {
      // Nobody is told `live` before a lease that looks dead has run out.
      if !device.isLive, !weather.hasLeases, !weather.hasProducers {
        complain("is not live 5 s after the last fault", device)
      }
      // What is 2 s old was read by then.
      if let due = stream(device.session)?.entries.last(where: { $0.id.milliseconds + 2_000 < UInt64(now) }),
        device.place < due.id
      {
        complain("stands at \(device.place) 5 s after the last fault, the stream is at \(due.id)", device)
      }
    }
  }

  private func judgeTheEnd() {
    for device in devices where !device.isClosed {
      guard device.node != nil else {
        complain("is not attached at the end", device)
        continue
      }
      let last = retained(device.session).last?.offset
      if !device.isLive {
        complain("is not live at the end; the stream ends at \(last?.description ?? "nothing")", device)
      }
      if let words = device.mustHaveFinished(retained(device.session)) { complain(words, device) }
      if let last, device.holds.map({ !$0.offset.matches(last) }) ?? true {
        complain("stands at \(device.holds?.offset.description ?? "0"), the stream ends at \(last)", device)
      }
    }
  }
}
