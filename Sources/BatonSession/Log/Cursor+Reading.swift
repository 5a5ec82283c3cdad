import BatonProtocol

/// Reads history until it meets the window.
struct Pager: Sendable {
  /// What has to come first, by what the log told.
  enum Seam: Sendable {
    /// What comes first is first.
    case open
    /// The device was live here, and this came next.
    case first(Offset)
    /// The device was live here, and what came next is not known.
    case unknown
  }

  /// Whether history goes on behind the last page.
  var more: Bool
  var seam = Seam.open
  var needsLook = false
  /// What is left of the last page.
  var stock: Delivery?
}

/// Follows the session's log.
struct Follower: Sendable {
  /// The log's entry that is next.
  var index: Int
  /// The log's.
  var epoch: Int
}

extension Cursor {
  mutating func page(_ known: Pager, _ log: borrowing SessionLog) -> Advance {
    var pager = known
    defer { if case .paging = phase { phase = .paging(pager) } }
    if let delivery = pager.stock {
      pager.stock = nil
      return .step(deliver(delivery))
    }
    let mayJoin = !pager.more || place.isEntry && (look.deletedUpTo.map { $0 <= place.offset.id } ?? false)
    if mayJoin, !pager.needsLook, var index = log.index(after: place.offset) {
      if place.offset.id < look.floor || !place.isEntry && index < log.next {
        // No entry proves that page and window are of one history, or that the window holds nothing that is gone: the tail
        // has to have read since.
        let advance = confirmed(log)
        guard case .again = advance else { return advance }
        guard look.epoch == log.epoch else {
          pager.needsLook = true
          return .again
        }
        index = max(index, log.index(behind: look.floor))
        target = .zero
      }
      wait = .nothing
      phase = .following(Follower(index: index, epoch: log.epoch))
      return .again
    }
    if pager.more || pager.needsLook { return .step(ask(.after(place.offset.id), look: pager.needsLook)) }
    // All of the stream was read, and the window does not hold its end: one of both is older than the other.
    if case .tail = wait, !log.isOpen { return .nothing }
    let advance = confirmed(log)
    if case .again = advance { pager.needsLook = true }
    return advance
  }

  mutating func take(_ page: Page, _ known: Pager) {
    var pager = known
    var entries = page.entries[...]
    if provesItself(page, pager.seam) {
      if place.isEntry { entries = entries.dropFirst() }
    } else {
      guard let info = page.info else {
        pager.needsLook = true
        phase = .paging(pager)
        return
      }
      if let reason = broken(page, info, pager.seam) {
        return lose(Reset(reason, requested: place.offset, info), start: info.start, added: info.entriesAdded)
      }
    }
    if let info = page.info {
      look.deletedUpTo = info.maxDeleted
      look.added = info.entriesAdded
      look.floor = entries.contains { $0.id > place.offset.id } ? .zero : info.lastGenerated
      if entries.isEmpty, page.entries.isEmpty, !page.more { place = info.end }
    }
    pager.needsLook = false
    pager.seam = .open
    pager.more = page.more
    if !entries.isEmpty {
      pager.stock = Delivery(page.segment, entries.startIndex..<entries.endIndex, joined: request.rollup != .off)
    }
    phase = .paging(pager)
  }

  /// Whether what was promised is there without a look.
  private func provesItself(_ page: Page, _ seam: Pager.Seam) -> Bool {
    let first = page.entries.first?.offset
    if place.isEntry { return first?.matches(place.offset) == true }
    switch seam {
    case .open: return look.floor == .zero || look.floor != place.offset.id
    case .first(let offset): return first?.matches(offset) == true
    case .unknown: return false
    }
  }

  private func broken(_ page: Page, _ info: StreamInfo, _ seam: Pager.Seam) -> ResetReason? {
    guard case .open = seam else { return info.exists ? .trimmed : .deleted }
    let evidence = place.isEntry ? nil : Verdict.Evidence(existed: true, added: look.added)
    switch Verdict.of(place, evidence: evidence, info: info, entries: page.entries) {
    case .reset(let reason): return reason
    case .overlap, .proven, .wait: return nil
    }
  }

  /// Takes the log's newest segment where that is all there is to do, as `next` would in several steps: the device is live
  /// and had everything before it.
  ///
  /// - Parameters:
  ///   - start: the index of the segment's first entry.
  ///   - log: as it is with the segment.
  /// - Returns: false where nothing was taken; ask for the `next` step.
  package mutating func takesNewest(_ segment: Segment, at start: Int, _ log: SessionLog.Standing) -> Bool {
    guard isLive, steps.isEmpty, arrived == nil, !hasEnd, case .following(let follower) = phase,
      follower.index == start, follower.epoch == log.epoch, !log.isInTrouble
    else { return false }
    if case .window = request.rollup { return false }
    trail?.delivered(Delivery(segment, 0..<segment.entries.count, joined: false))
    phase = .following(Follower(index: log.next, epoch: log.epoch))
    place = log.end
    isDue = false
    return true
  }

  mutating func follow(_ known: Follower, _ log: borrowing SessionLog) -> Advance {
    guard log.epoch == known.epoch else {
      var reset = log.reset ?? Reset(.diverged, requested: place.offset, first: nil, last: nil)
      reset.requested = place.offset
      lose(reset, start: log.base.isEntry ? .zero : log.base)
      if case .paging(var pager) = phase, let origin = log.origin, place != .zero, origin.after == place.offset.id {
        pager.seam = .first(origin.first)
        phase = .paging(pager)
      }
      return .again
    }
    let index = known.index
    if index < log.first {
      var pager = Pager(more: true)
      if !place.isEntry {
        pager.seam = log.origin.flatMap { $0.after == place.offset.id ? .first($0.first) : nil } ?? .unknown
      }
      phase = .paging(pager)
      guard isLive else { return .again }
      isLive = false
      return .step(.behind)
    }
    if index < log.next {
      guard let (segment, range) = log.segment(at: index) else { return .nothing }
      var follower = known
      defer { phase = .following(follower) }
      if case .window = request.rollup, isLive {
        guard isDue || index < log.staysFrom else { return .nothing }
        isDue = false
        follower.index = log.next
        let segment = log.gather(from: index)
        return .step(deliver(Delivery(segment, 0..<segment.entries.count, joined: true)))
      }
      follower.index = index + range.count
      return .step(deliver(Delivery(segment, range, joined: !isLive && request.rollup != .off)))
    }
    place = log.end
    isDue = false
    if isLive { return finishIfDone() }
    if log.isStalled || log.isHeld { return .nothing }
    if log.end.offset.id < target {
      let advance = confirmed(log)
      guard case .again = advance else { return advance }
    }
    if case .tail = wait { wait = .nothing }
    target = .zero
    isLive = true
    steps.append(.live(place.offset))
    return .again
  }
}
