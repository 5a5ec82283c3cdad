@testable import BatonProtocol
@testable import BatonSession

/// All that ever happened to one session's stream, and whether what a device was told is true to it (PROTOCOL 10).
struct History {
  struct Fate {
    var entry: Entry
    /// Those that were retained, and those gone before it, when this one was appended: the lineage's place in order.
    var lineage: Int
    var position: Int
    var index: UInt64
    /// The last id before it, where it tells.
    var follows: EntryID?
    var removedAt: Int64?
    /// A restore brought it back.
    var restoredAt: Int64?
    /// Removed by XDEL, which makes no gap; trimming and loss do.
    var wasDeleted = false
  }

  /// By serial number.
  var fates: [Int: Fate] = [:]
  /// The serials of each lineage in order; a lineage that branches off begins with a copy of what it shares.
  var lineages: [[Int]] = [[]]
  /// Whether Redis tells `entries-added`.
  var countsAdded = true
  /// When the present lineage began.
  var branchedAt: Int64 = 0
  /// Something happened that may break continuity, so resets are allowed.
  var wasDisturbed = false

  var current: Int { lineages.count - 1 }

  mutating func added(_ entry: Entry, _ stored: ModelRedisServer.StreamEntry) {
    fates[stored.serial] = Fate(
      entry: entry, lineage: current, position: lineages[current].count, index: stored.index,
      follows: stored.fields.count > 1 && String(buffer: stored.fields[stored.fields.count - 2]) == "_after"
        ? stored.fields.last.flatMap { EntryID(String(buffer: $0)) } : nil)
    lineages[current].append(stored.serial)
  }

  /// A master that had been replaced took it, and is going to lose it.
  mutating func strayed(
    _ entry: Entry, _ stored: ModelRedisServer.StreamEntry, behind last: ModelRedisServer.StreamEntry?, at now: Int64
  ) {
    wasDisturbed = true
    fates[stored.serial] = Fate(
      entry: entry, lineage: current, position: 0, index: stored.index, follows: nil, removedAt: now)
    var shared: [Int] = []
    if let last {
      for lineage in lineages.reversed() {
        guard let index = lineage.firstIndex(of: last.serial) else { continue }
        shared = Array(lineage[...index])
        break
      }
    }
    lineages.insert(shared + [stored.serial], at: current)
  }

  /// What the stream holds, as devices see it.
  func entries(_ stream: ModelRedisServer.Stream?) -> [Entry] {
    stream?.entries.compactMap { fates[$0.serial]?.entry } ?? []
  }

  mutating func removed(_ written: [ModelRedisServer.StreamEntry], at now: Int64, byDeletion: Bool) {
    for one in written {
      fates[one.serial]?.removedAt = now
      fates[one.serial]?.restoredAt = nil
      fates[one.serial]?.wasDeleted = byDeletion
    }
  }

  /// From now on the stream holds just these: after DEL, a restore or a lossy failover.
  mutating func branched(keeping retained: [ModelRedisServer.StreamEntry], at now: Int64) {
    wasDisturbed = true
    branchedAt = now
    let kept = retained.map(\.serial)
    var shared: [Int] = []
    if let last = kept.last {
      for lineage in lineages.reversed() {
        if let index = lineage.firstIndex(of: last) {
          shared = Array(lineage[...index])
          break
        }
      }
    }
    for serial in kept {
      if fates[serial]?.removedAt != nil { fates[serial]?.restoredAt = now }
      fates[serial]?.wasDeleted = false
    }
    lineages.append(shared)
  }

  /// Closed because all that was asked for had been sent: it was live, had an end, and nothing that is retained before its
  /// place is open.
  func complaintAboutFinish(of device: SimulatedDevice, _ stream: ModelRedisServer.Stream?) -> String? {
    if !device.isLive { return "finished before it was live" }
    if !device.sawEnd { return "finished without an end" }
    guard device.untilEnd, device.anewAt > branchedAt, let holds = device.holds,
      let place = lineages.last?.lastIndex(where: { fates[$0]?.entry.offset.matches(holds.offset) == true })
    else { return nil }
    var ended: Set<String> = []
    for serial in lineages.last?[...place] ?? [] {
      if let entry = fates[serial]?.entry, entry.endsResponse, let response = entry.response { ended.insert(response) }
    }
    for entry in entries(stream) where entry.id <= holds.id {
      if let response = entry.response, !ended.contains(response) {
        return "finished while \(response) is open"
      }
    }
    return nil
  }

  /// The serial of an entry as a device saw it: newest history first. Where nothing was retained only the id is known.
  func serial(_ offset: Offset) -> Int? {
    for lineage in lineages.reversed() {
      for serial in lineage.reversed() where fates[serial]?.entry.offset.matches(offset) == true { return serial }
    }
    return nil
  }

  func entry(_ offset: Offset) -> Entry? { serial(offset).flatMap { fates[$0]?.entry } }

  /// Whether XDEL removed it.
  func wasDeleted(_ entry: Entry) -> Bool {
    serial(entry.offset).flatMap { fates[$0]?.wasDeleted } ?? false
  }

  /// The proofs take the entry of another history for the next one if it is counted as the next one, or says that it is.
  private func isNextByCount(_ place: Entry, _ next: Entry) -> Bool {
    guard let here = serial(place.offset).flatMap({ fates[$0] }), let there = serial(next.offset).flatMap({ fates[$0] })
    else { return false }
    return countsAdded ? there.index == here.index + 1 : there.follows == place.id
  }

  /// Whether a device that stands at `place` (nil: at the start) may be told `next` without a word. At the start, what was
  /// gone at some time between `since` and `excused` was never promised.
  func complaint(after place: Entry?, next: Entry, since: Int64 = 0, excused: Int64) -> String? {
    var reason = "no history holds \(next.offset)"
    for lineage in lineages.reversed() {
      guard let to = lineage.lastIndex(where: { fates[$0]?.entry.offset.matches(next.offset) == true }) else {
        continue
      }
      var from = -1
      if let place {
        // Where another history's entry of the same id was deleted, nothing tells the one from the other (section 4).
        let twin = lineage.lastIndex { fates[$0]?.entry.id == place.id && fates[$0]?.wasDeleted == true }
        guard
          let index = lineage.lastIndex(where: { fates[$0]?.entry.offset.matches(place.offset) == true }) ?? twin
        else {
          if isNextByCount(place, next) { return nil }
          reason = "\(next.offset) is of another history than \(place.offset)"
          continue
        }
        from = index
      }
      guard from < to else {
        reason = "\(next.offset) comes again or too early after \(place?.offset.description ?? "0")"
        continue
      }
      let missed = lineage[(from + 1)..<to].first { serial in
        guard let fate = fates[serial] else { return true }
        if fate.wasDeleted { return false }
        return !(place == nil && fate.removedAt.map { $0 <= excused } ?? false && fate.restoredAt ?? .max >= since)
      }
      guard let missed else { return nil }
      reason = "\(fates[missed]?.entry.offset.description ?? "?") is missing before \(next.offset)"
    }
    return reason
  }
}
