import NIOCore

@testable import BatonProtocol
@testable import BatonSession

/// What a run is made of. Percentages are chances per minute of virtual time and session or device, unless said otherwise.
struct Weather {
  var destroys = true
  var losesNotices = false
  var countsAdded = true
  var minutes: Int64 = 3
  var sessions = 4
  var devices = 12
  var nodes = 2
}

/// What a run has met, to show that it meets everything.
struct Tally {
  var steps = 0
  var delivered = 0
  var resets = 0
  /// Frames that were encoded, read back and taken apart.
  var frames = 0
  /// Attaches that were closed because all that was asked for had been sent.
  var finished = 0
  /// Attaches that found the session on the other event loop of the same node.
  var bothLoops = 0

  static func += (a: inout Tally, b: Tally) {
    a.steps += b.steps
    a.delivered += b.delivered
    a.resets += b.resets
    a.frames += b.frames
    a.finished += b.finished
    a.bothLoops += b.bothLoops
  }
}

/// Gateways, devices, producers and a Redis, driven by one seed through everything that can go wrong.
final class Fleet {
  var schedule = Schedule()
  var dice: Dice
  let weather: Weather
  var redis = ModelRedis()
  var pausedUntil: Int64 = 0
  var histories: [SessionName: History] = [:]
  let sessions: [SessionName]
  var nodes: [SimulatedNode] = []
  var devices: [SimulatedDevice] = []
  var complaints: [String] = []
  var responses: [SessionName: (name: String, n: Int)] = [:]
  var isCalm = false
  var backup: [SessionName: ModelRedis.Key] = [:]
  let pageLimit = 7
  var stories: [SessionName: [(Int64, String)]] = [:]
  var tally = Tally()

  init(seed: UInt64, weather: Weather) {
    dice = Dice(seed: seed)
    self.weather = weather
    redis.countsAdded = weather.countsAdded
    sessions = (0..<weather.sessions).compactMap { SessionName("s\($0)") }
    for session in sessions { histories[session] = History(countsAdded: weather.countsAdded) }
    var configuration = Tail.Configuration()
    configuration.readBytes = 1500
    configuration.roundSessions = 3
    nodes = (0..<weather.nodes).map { SimulatedNode($0, configuration) }
    devices = (0..<weather.devices).map { SimulatedDevice($0, sessions[$0 % sessions.count]) }
  }

  func run() {
    for node in nodes { start(node) }
    for session in sessions { produce(session) }
    for device in devices { plan(after: dice.roll(0...3000)) { self.live(device) } }
    if weather.destroys { for session in sessions { destroy(session) } }
    disturb()
    let end = schedule.now + weather.minutes * 60_000
    while complaints.isEmpty, let happen = schedule.next(before: end) { happen() }
    isCalm = true
    for device in devices { device.takes = true }
    for node in nodes where !node.isConnected { connect(node) }
    for device in devices {
      if let node = device.node { pump(device, node) }
    }
    while complaints.isEmpty, let happen = schedule.next(before: end + 90_000) { happen() }
    if complaints.isEmpty { judgeTheEnd() }
    tally.steps = schedule.steps
  }

  func plan(after delay: Int, _ happen: @escaping () -> Void) {
    schedule.at(schedule.now + Int64(delay), happen)
  }

  func complain(_ device: SimulatedDevice, _ words: String) {
    let past = (history(of: device.session) + device.story).sorted { $0.0 < $1.0 }.suffix(60)
    let story = past.map { "  \($0.0) \($0.1)" }.joined(separator: "\n")
    complaints.append(
      "at \(schedule.now) ms, device \(device.number) of \(device.session): \(words)\n\(story)")
  }

  private func history(of session: SessionName) -> [(Int64, String)] { stories[session] ?? [] }

  func note(_ session: SessionName, _ words: String) {
    stories[session, default: []].append((schedule.now, words))
  }

  // MARK: producers and what befalls streams

  func produce(_ session: SessionName) {
    let pause = isCalm ? 200 : [1, 3, 20, 20, 400, 6000][dice.roll(0...5)]
    if schedule.now > weather.minutes * 60_000 + 30_000 { return append(session, isLast: true) }
    plan(after: pause) { [self] in
      for _ in 0..<(dice.chance(10) ? dice.roll(1...40) : 1) { append(session) }
      produce(session)
    }
  }

  func append(_ session: SessionName, sameIDAsLast: EntryID? = nil, isLast: Bool = false) {
    var (name, n) = responses[session] ?? ("r", 0)
    var fields: [(String, String)] = []
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
      case 0: fields = [("data", "plain \(redis.serial)")]
      case 1: fields = [("event", "note"), ("data", "x \(redis.serial)"), ("k", "v")]
      case 2: fields = [("data", String(repeating: "b", count: 500)), ("salt", "\(redis.serial)")]
      case 3:
        let joined = dice.roll(2...5)
        n += joined
        fields = [("data", "j\(redis.serial) "), ("response", name), ("n", "\(n)"), ("joined", "\(joined)")]
      default:
        n += 1
        fields = [("data", "t\(redis.serial) "), ("response", name), ("n", "\(n)")]
      }
    }
    responses[session] = (name, n)
    let last = redis.stream(session)?.lastGenerated ?? .zero
    let milliseconds = UInt64(schedule.now)
    var id = EntryID(milliseconds, 0)
    if id <= last { id = EntryID(last.milliseconds, last.sequence + 1) }
    if let sameIDAsLast { id = sameIDAsLast }
    guard let written = redis.add(session, id: id, fields) else { return }
    note(session, "XADD \(written.entry.offset) \(name) \(n)")
    histories[session]?.added(written)
    if dice.chance(15) { trim(session, to: dice.roll(5...60)) }
    changed(session)
  }

  func trim(_ session: SessionName, to count: Int) {
    let removed = redis.trim(session, to: count)
    note(session, "XTRIM to \(count): \(removed.count) up to \(removed.last?.entry.offset.description ?? "-")")
    if !removed.isEmpty { histories[session]?.wasDisturbed = true }
    histories[session]?.removed(removed, at: schedule.now, byDeletion: false)
  }

  func destroy(_ session: SessionName) {
    plan(after: dice.roll(500...40_000)) { [self] in
      if isCalm { return }
      let before = redis.stream(session)?.entries ?? []
      switch dice.roll(0...7) {
      case 0:
        trim(session, to: dice.roll(0...3))
      case 1:
        if !before.isEmpty {
          let index = dice.chance(40) ? before.count - 1 : dice.roll(0...before.count - 1)
          if let removed = redis.delete(session, at: index) {
            note(session, "XDEL \(removed.entry.offset)")
            histories[session]?.wasDisturbed = true
            histories[session]?.removed([removed], at: schedule.now, byDeletion: true)
          }
        }
      case 2, 3: lose(session, before, keeping: [])
      case 4:
        // The same ids with other content, before anybody can have looked.
        lose(session, before, keeping: [])
        for written in before.suffix(dice.roll(0...before.count)) {
          append(session, sameIDAsLast: written.entry.id)
        }
      case 5:
        lose(session, before, keeping: [])
        redis.keys[session] = .other
        plan(after: dice.roll(0...5000)) { [self] in
          guard case .other = redis.keys[session] else { return }
          redis.keys[session] = nil
          changed(session)
        }
      case 6:
        // Smaller ids than any before.
        lose(session, before, keeping: [])
        for sequence in 1...dice.roll(1...5) { append(session, sameIDAsLast: EntryID(0, UInt64(sequence))) }
      default: failOver()
      }
      changed(session)
      destroy(session)
    }
  }

  func lose(_ session: SessionName, _ before: [Written], keeping kept: [Written]) {
    redis.keys[session] = nil
    note(session, "DEL")
    histories[session]?.removed(before, at: schedule.now, byDeletion: false)
    histories[session]?.branched(keeping: kept, at: schedule.now)
  }

  /// A replica takes over that has not had the last entries of some sessions; or an older state is restored.
  func failOver() {
    let isRestore = dice.chance(30)
    for session in sessions {
      guard var stream = redis.stream(session) else { continue }
      let before = stream.entries
      if isRestore, case .stream(let old)? = backup[session] {
        stream = old
      } else if !before.isEmpty {
        let lost = dice.roll(0...min(8, before.count))
        if lost == 0 { continue }
        stream.entries.removeLast(lost)
        stream.added -= UInt64(lost)
        stream.lastGenerated = stream.entries.last?.entry.id ?? .zero
      }
      let kept = Set(stream.entries.map(\.serial))
      histories[session]?.removed(before.filter { !kept.contains($0.serial) }, at: schedule.now, byDeletion: false)
      histories[session]?.branched(keeping: stream.entries, at: schedule.now)
      redis.keys[session] = .stream(stream)
      note(session, "restored up to \(stream.lastGenerated)")
    }
    for node in nodes where node.isAlive { disconnect(node) }
  }

  /// Tells the armed notices, once.
  func changed(_ session: SessionName) {
    for node in nodes where node.isAlive && node.armed.remove(session) != nil {
      if weather.losesNotices, dice.chance(20) { continue }
      let generation = node.noticeLane.generation
      schedule.at(node.noticeLane.arrival(schedule.now + delay())) { [self] in
        guard node.isAlive, node.noticeLane.generation == generation else { return }
        node.tail.noticed(session)
        perform(node.tail.reads(), on: node)
      }
    }
  }

  func delay() -> Int64 { dice.chance(2) ? Int64(dice.roll(0...1500)) : Int64(dice.roll(0...4)) }

  // MARK: what befalls gateways and connections

  func disturb() {
    plan(after: dice.roll(1000...20_000)) { [self] in
      if isCalm { return }
      let node = nodes[dice.roll(0...nodes.count - 1)]
      switch dice.roll(0...5) {
      case 0: crash(node)
      case 1, 2: if node.isAlive { disconnect(node) }
      case 3: pausedUntil = schedule.now + Int64(dice.roll(100...6000))
      case 4:
        backup = redis.keys
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

  func crash(_ node: SimulatedNode) {
    guard node.isAlive, nodes.filter(\.isAlive).count > 1 else { return }
    node.isAlive = false
    for device in devices where device.node === node { drop(device) }
    plan(after: dice.roll(500...5000)) { [self] in
      guard let index = nodes.firstIndex(where: { $0 === node }) else { return }
      let fresh = SimulatedNode(node.number, node.tail.configuration)
      nodes[index] = fresh
      start(fresh)
    }
  }

  // MARK: devices

  /// Attaches, and sooner or later drops and comes back.
  func live(_ device: SimulatedDevice) {
    attach(device)
    if isCalm { return }
    plan(after: dice.roll(100...60_000)) { [self] in
      if isCalm || device.isClosed { return }
      drop(device)
      plan(after: dice.roll(0...4000)) { [self] in live(device) }
    }
  }

  func drop(_ device: SimulatedDevice) {
    device.generation += 1
    device.cursor = nil
    device.isLive = false
    guard let node = device.node else { return }
    device.node = nil
    leave(device, node)
    let generation = device.generation
    plan(after: dice.roll(10...2000)) { [self] in
      if device.node == nil, device.generation == generation, !device.isClosed { attach(device) }
    }
  }

  func judge(_ device: SimulatedDevice, _ step: Cursor.Step) {
    guard let history = histories[device.session] else { return }
    device.tell(step, at: schedule.now)
    switch step {
    case .deliver(let delivery):
      if dice.chance(5) {
        if let words = FrameJudge.complaint(delivery, counting: &tally.frames) { return complain(device, words) }
      }
      for entry in delivery.entries {
        tally.delivered += 1
        device.noteEnds(entry)
        if device.wantsReset { return complain(device, "a forged check was taken for true") }
        var words = history.complaint(
          after: device.holds, next: entry, since: device.anewAt, excused: device.isFresh ? schedule.now : device.liveAt
        )
        if words != nil, let holds = device.holds, history.wasDeleted(holds), let held = device.heldBefore {
          words = history.complaint(after: held, next: entry, excused: -1)
        }
        if let words { return complain(device, words) }
        if let holds = device.holds, !history.wasDeleted(holds) { device.heldBefore = holds }
        device.holds = entry
        device.offset = entry.offset
        device.isFresh = false
      }
      EntryFrames.runs(delivery.entries, joined: delivery.joined) { _, last, _ in device.sent.insert(last.offset) }
    case .attached(let offset, _, _):
      if let asked = device.offset,
        redis.stream(device.session)?.entries.contains(where: { $0.entry.id == asked.id }) != true
      {
        // Where the entry is gone its check proves nothing, either way.
        device.wantsReset = false
      }
      device.beginsAnew(redis.stream(device.session))
      device.sawEnd =
        device.untilEnd && offset.id == device.offset?.id && history.entry(offset)?.endsResponse == true
      if device.offset == nil {
        device.offset = offset
        if offset != .zero {
          device.holds = history.entry(offset)
          if device.holds == nil { complain(device, "attached at \(offset), which never was") }
          device.isFresh = false
        }
      }
    case .reset(let reset):
      tally.resets += 1
      device.beginsAnew(redis.stream(device.session))
      device.anewAt = schedule.now
      device.wantsReset = false
      // Before Redis 7 nothing can prove to somebody who waits at the start that nothing was missed.
      let isProvable = weather.countsAdded || device.holds != nil
      if !history.wasDisturbed, isProvable, device.number % 5 != 4 {
        complain(device, "reset \(reset.reason) for nothing")
      }
      if reset.from != .zero, !device.sent.contains(reset.from) {
        complain(device, "reset from \(reset.from), which it never had")
      }
      device.offset = reset.offset
      device.isFresh = reset.offset == .zero
      device.isLive = false
      device.holds = history.entry(reset.offset)
      device.heldBefore = nil
    case .live(let offset):
      if device.isLive { complain(device, "live twice") }
      device.isLive = true
      device.isFresh = false
      device.liveAt = schedule.now
      guard device.promised > offset.id, let stream = redis.stream(device.session) else { return }
      if let last = stream.entries.first(where: { $0.entry.id == device.promised }),
        last.entry.id > offset.id, histories[device.session]?.lineages.last?.contains(last.serial) == true,
        stream.entries.contains(where: { $0.entry.offset == offset })
      {
        complain(device, "live at \(offset), but \(device.promised) was there before it came")
      }
    case .behind, .stalled: device.isLive = false
    default: break
    }
  }

  func judgeTheEnd() {
    for device in devices where !device.isClosed {
      guard device.node != nil else {
        complain(device, "not attached at the end")
        continue
      }
      let last = redis.stream(device.session)?.entries.last?.entry.offset
      if !device.isLive { complain(device, "not live at the end; stream ends at \(last?.description ?? "nothing")") }
      if let words = device.mustHaveFinished(redis.stream(device.session)) { complain(device, words) }
      if let last, device.holds?.offset != last {
        complain(device, "stands at \(device.holds?.offset.description ?? "0"), the stream ends at \(last)")
      }
    }
  }
}
