import BatonProtocol

/// What replies bring: entries that follow what is known, or a verdict.
extension Tail {
  package mutating func completed(_ session: SessionName, _ outcome: TailOutcome, at now: Int64? = nil) -> [Action] {
    clock = now ?? clock
    guard let read = round.removeValue(forKey: session) else { return [] }
    guard var one = followed[session] else { return reads() }
    var actions: [Action] = []
    let before = entriesRead
    var isFinal = false
    switch outcome {
    case .failed:
      refused(session)
      if let since = followed[session]?.failingSince, clock - since >= configuration.stallMs, !one.isInTrouble {
        followed[session]?.isInTrouble = true
        actions.append(.tell(session, .stalled))
      }
      planNext(session)
      return actions + reads()
    case .shut:
      troubleSince = troubleSince ?? clock
      shutUntil = clock + 500
      followed[session]?.isNoticed = one.isNoticed || one.wasNoticed
      markDirty(session, isItsTurn: true)
      return actions + reads()
    case .again, .apart:
      if case .apart = outcome { one.readsAlone = true }
      if !one.isDirty { dirty.append(session) }
      one.isDirty = true
      one.isNoticed = one.isNoticed || one.wasNoticed
      followed[session] = one
      return reads()
    case .wrongType:
      if !one.isInTrouble { actions.append(.tell(session, .wrongType)) }
      (one.failures, one.failingSince, one.isInTrouble) = (0, nil, true)
    case .entries(let overlap, let entries, let info, let more):
      isFinal = take(overlap, entries, info: info, more: more, read: read, session, &one, &actions)
      if one.failures == 0 { one.failingSince = nil }
      one.readsAlone = !isFinal
      if isFinal, one.isInTrouble || one.sentTicket > 0 {
        one.isInTrouble = false
        actions.append(.tell(session, .confirmed(ticket: one.sentTicket)))
        if one.ticket == one.sentTicket { one.ticket = 0 }
      }
      if !isFinal, one.failures == 0, !one.isDirty {
        one.isDirty = true
        dirty.append(session)
      }
    }
    shutUntil = nil
    (one.isSuspect, one.losses) = (false, one.failures == 0 ? 0 : one.losses)
    let brought = entriesRead != before
    let isVain = actions.allSatisfy { if case .tell(_, .confirmed) = $0 { true } else { false } }
    actions += weigh(session, &one, brought: brought, isVain: isVain, isFinal: isFinal)
    if brought { one.pause = configuration.pollMs }
    followed[session] = one
    planNext(session)
    return actions + succeeded(at: clock) + reads()
  }

  /// Whether the notices told what the read has found.
  private mutating func weigh(
    _ session: SessionName, _ one: inout Followed, brought: Bool, isVain: Bool, isFinal: Bool
  ) -> [Action] {
    let isAnnounced = one.wasNoticed || one.isNoticed
    let wasWatched = one.isWatched
    one.isWatched = trust.isArmed && isFinal
    if !isVain { one.vainNotices = 0 } else if one.wasNoticed, trust.tookVainNotice(at: clock) { one.vainNotices += 1 }
    guard brought, wasWatched, trust.isArmed else { return [] }
    if isAnnounced {
      trust.confirmed()
      return believe()
    }
    return [.probeNotices(trust.suspect(session))]
  }

  /// Its next read is sent after a pause that grows.
  mutating func refused(_ session: SessionName) {
    guard var one = followed[session] else { return }
    one.failures += 1
    one.failingSince = one.failingSince ?? clock
    one.isDirty = false
    one.isNoticed = one.isNoticed || one.wasNoticed
    followed[session] = one
  }

  /// Whether nothing more is to be read for now.
  private mutating func take(
    _ overlap: Offset?, _ entries: Entries, info: StreamInfo?, more: Bool, read: TailRead, _ session: SessionName,
    _ one: inout Followed,
    _ actions: inout [Action]
  ) -> Bool {
    let isVain = entries.isEmpty
    if more, isVain, one.isOpen || info == nil {
      // Nothing but what was known fitted into the reply. That is a fact about the reply: ask for less, and where one entry
      // is too much already, not at once again.
      if one.count > 1 {
        one.count = one.count / 2
      } else {
        one.failures += 1
        one.failingSince = one.failingSince ?? clock
      }
      return false
    }
    one.failures = 0
    guard one.isOpen else {
      guard let info else { return false }
      stand(&one, at: info.end, info)
      one.isOpen = true
      one.needsLook = false
      actions.append(.tell(session, .opened(base: one.place)))
      // What was written since the look is told by a notice only if a read has armed it: XREAD did, in the same MULTI.
      return true
    }
    var verdict: Verdict
    if let overlap, one.place.isEntry, overlap.matches(one.place.offset) {
      verdict = .overlap
    } else if let info {
      verdict = Verdict.of(
        one.place, evidence: one.evidence, info: info,
        found: overlap ?? entries.first { $0.id >= one.place.offset.id }?.offset)
    } else {
      one.needsLook = true
      return false
    }
    one.needsLook = false
    let fresh = entries.drop { $0.id <= one.place.offset.id }
    if let first = fresh.first, first.id <= one.seen {
      // An id behind one that was told and deleted: only another history can hold it.
      guard info != nil else {
        one.needsLook = true
        return false
      }
      if verdict == .overlap || verdict == .proven { verdict = .reset(.diverged) }
    }
    switch verdict {
    case .overlap, .proven:
      if let last = fresh.last {
        one.place = last.place
        one.seen = last.id
        one.evidence = .init(existed: true, added: one.evidence?.added.map { $0 + UInt64(fresh.count) })
        entriesRead += UInt64(fresh.count)
        adapt(&one, to: entries, read)
        actions.append(.tell(session, .appended(Segment(fresh))))
      } else if verdict == .proven, let info, info.end != one.place {
        stand(&one, at: info.end, info)
        actions.append(.tell(session, .rebased(one.place)))
      }
      if let info, !more { one.evidence = .init(existed: true, added: info.entriesAdded) }
      return !more
    case .wait:
      if let info { one.evidence = .init(existed: info.exists, added: info.exists ? info.entriesAdded : 0) }
      return true
    case .reset(let reason):
      guard let info else { return false }
      let reset = Reset(reason, requested: one.place.offset, info)
      stand(&one, at: info.end, info)
      actions.append(.tell(session, .reset(reset, base: one.place)))
      return true
    }
  }

  /// All that the stream holds lies before here, and is left to the catch-up.
  private func stand(_ one: inout Followed, at place: Place, _ info: StreamInfo) {
    one.place = place
    one.seen = info.lastGenerated
    one.evidence = .init(existed: info.exists, added: info.exists ? info.entriesAdded : 0)
  }

  private func adapt(_ one: inout Followed, to entries: Entries, _ read: TailRead) {
    let bytes = entries.bytes + 96 * entries.count
    one.count = Int32(
      clamping: max(1, min(configuration.maxCount, configuration.readBytes * entries.count / max(bytes, 1))))
  }
}
