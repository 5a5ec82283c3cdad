import BatonProtocol
import TestSupport

@testable import BatonRedis
@testable import BatonSession

/// What befalls a cluster: its masters fail over, with and without their last entries, and slots move key by key.
extension Fleet {
  func disturbCluster() {
    plan(after: dice.roll(500...6000)) { [self] in
      if isCalm { return }
      if dice.chance(40) { failOverShard() } else { migrate() }
      disturbCluster()
    }
  }

  /// Something that goes on by itself ends so much later.
  private func later(_ delay: Int, _ happen: @escaping () -> Void) {
    busyUntil = max(busyUntil, now + Int64(delay))
    plan(after: delay, happen)
  }

  func failOverShard() {
    guard let cluster else { return }
    let masters = cluster.masters.filter {
      !cluster.isMoving($0) && !cluster.dead.contains($0) && !failing.contains($0)
        && !failing.contains(cluster.twin(of: $0))
    }
    guard !masters.isEmpty else { return }
    let node = masters[dice.roll(0...masters.count - 1)]
    let (host, vote) = (cluster.hosts[node], dice.roll(300...2000))
    failing.insert(node)
    func over(after delay: Int) { later(delay) { [self] in failing.remove(node) } }
    func dies() {
      let stops = dice.chance(30)
      if stops { troubledUntil = max(troubledUntil, now + Int64(vote)) }
      cluster.died(node, stops: stops)
    }
    switch dice.roll(0...2) {
    case 0:
      note(nil, "master \(node) hands over")
      promote(insteadOf: node, isLossy: false)
      over(after: 500)
    case 1:
      note(nil, "master \(node) dies")
      let isBack = vote + dice.roll(0...5000)
      host.refusingUntil = max(host.refusingUntil, now + Int64(isBack))
      network.kill { $0.host === host }
      dies()
      later(vote) { [self] in promote(insteadOf: node, isLossy: true) }
      over(after: isBack)
    default:
      note(nil, "master \(node) hangs")
      let thaws = vote + dice.roll(0...1500)
      host.pausedUntil = max(host.pausedUntil, now + Int64(thaws))
      dies()
      later(vote) { [self] in
        wrongUntil = .max
        promote(insteadOf: node, isLossy: true, isUnaware: true)
      }
      later(thaws + dice.roll(0...600)) { [self] in
        note(nil, "\(node) hears that it is a replica")
        cluster.hears(node)
        // What it has said may be under way.
        if !cluster.isAnybodyWrong { wrongUntil = now + 1600 }
      }
      over(after: thaws + 1000)
    }
  }

  private func promote(insteadOf node: Int, isLossy: Bool, isUnaware: Bool = false) {
    guard let cluster else { return }
    var kept = cluster.hosts[node].server.keys
    for session in sessions where isLossy {
      guard case .stream(var stream)? = kept[key(session)], dice.chance(70) else { continue }
      let before = stream.entries
      let known = points[session, default: []].filter { point in
        point.at > now - 5_000 && before.contains { $0.serial == point.serial }
      }
      guard !known.isEmpty else { continue }
      let point = known[dice.roll(0...known.count - 1)]
      guard let from = before.firstIndex(where: { $0.serial == point.serial }) else { continue }
      let lost = before.count - from
      points[session]?.removeAll { $0.number >= point.number }
      stream.entries.removeLast(lost)
      stream.added -= UInt64(lost)
      stream.lastGenerated = stream.entries.last?.id ?? .zero
      kept[key(session)] = stream.entries.isEmpty ? nil : .stream(stream)
      kept[key(session) + ":producers"] = stream.entries.isEmpty ? nil : point.producers
      histories[session]?.removed(Array(before.suffix(lost)), at: now, byDeletion: false)
      histories[session]?.branched(keeping: stream.entries, at: now)
      note(session, "lost with master \(node): all after \(stream.lastGenerated)")
    }
    note(nil, "\(cluster.twin(of: node)) is the master in place of \(node)")
    cluster.promoted(insteadOf: node, keeping: kept.map { ($0, $1) }, isUnaware: isUnaware)
  }

  private func migrate() {
    guard let cluster else { return }
    let session = sessions[dice.roll(0...sessions.count - 1)]
    let slot = RedisSlot.of(key(session))
    let from = cluster.truth.owners[slot]
    let targets = cluster.masters.filter { $0 != from && !failing.contains($0) && !cluster.dead.contains($0) }
    guard cluster.migrations[slot] == nil, !failing.contains(from), !cluster.dead.contains(from), !targets.isEmpty
    else { return }
    let to = targets[dice.roll(0...targets.count - 1)]
    note(session, "its slot begins to move from \(from) to \(to)")
    cluster.begins(moving: slot, to: to)
    var keys = [key(session), key(session) + ":producers"]
    if dice.chance(50) { keys.reverse() }
    var at = 0
    for key in keys {
      at += [0, 5, 100, 1500][dice.roll(0...3)]
      later(at) { [self] in
        note(session, "\(key) moves to \(to)")
        cluster.moves(key)
      }
    }
    let stays = [0, 300, 3500, 6000, weather.hasProducers ? 25_000 : 9000][dice.roll(0...4)]
    // Something is written where the slot goes to, and devices are told of it before it is there.
    for turn in stride(from: 0, to: stays, by: 700) {
      plan(after: at + turn) { [self] in
        if !isCalm { append(session) }
        judgeMotion(session, since: now - Int64(turn))
      }
    }
    at += stays
    movingUntil[session] = now + Int64(at) + 2000
    later(at) { [self] in
      for key in keys { cluster.moves(key) }
      note(session, "its slot has moved to \(to)")
      cluster.lands(slot)
    }
  }

  /// However long a slot is on its way, devices are told what is written meanwhile.
  /// - Parameter start: when its keys had moved.
  private func judgeMotion(_ session: SessionName, since start: Int64) {
    if weather.losesNotices || now - max(troubledUntil, lostAt[session] ?? 0) < 4000 { return }
    guard let due = stream(session)?.entries.last(where: { $0.id.milliseconds + 2500 < UInt64(now) }),
      due.id.milliseconds >= UInt64(start)
    else { return }
    tally.inMotion += 1
    for device in devices where device.session == session && device.node != nil && device.takes {
      if max(device.attachedAt, device.takesSince) < now - 4000, device.place < due.id {
        complain("stands at \(device.place) while its slot is on its way, the stream is at \(due.id)", device)
      }
    }
  }
}
