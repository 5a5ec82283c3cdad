import BatonProtocol

/// From the attach to a place, and back to one after a reset.
extension Cursor {
  mutating func open(_ log: borrowing SessionLog) -> Advance {
    switch request.start {
    case .after(let offset):
      let isInWindow = offset != .zero && log.index(after: offset) != nil
      return .step(ask(.after(offset.id), limit: isInWindow ? 0 : Cursor.pageLimit, look: true))
    case .response: return .step(ask(.after(.zero), look: true))
    case .end: return .step(ask(.before(nil), limit: 1, look: true))
    case .newest(let n):
      phase = .locating(Locator(.newest(n), pageLimit: Cursor.pageLimit), for: .attach(nil))
      return .again
    }
  }

  mutating func opened(_ page: Page) {
    guard let info = page.info else { return }
    note(info)
    switch request.start {
    case .newest: break
    case .end: start(at: info.end, info)
    case .response: start(at: info.start, info, with: page)
    case .after(.zero): start(at: info.start, info, with: page)
    case .after(let offset):
      switch Verdict.of(Place(offset: offset), evidence: nil, info: info, entries: page.entries) {
      case .overlap:
        guard let anchor = page.entries.first else { return }
        // The window holds what follows, so no more than this entry was asked for.
        let isAlone = page.entries.count == 1 && info.last.map { $0.offset.id > anchor.id } ?? false
        start(at: anchor.place, info, with: isAlone ? nil : page, more: true, recovered: true)
        verified(anchor)
      case .proven, .wait: start(at: info.end, info, recovered: true)
      case .reset(let reason):
        let reset = Reset(reason, requested: offset, info)
        switch reason {
        case .ahead: refuse(reset, standingAt: info.end.offset, info)
        case .trimmed, .deleted: refuse(reset, standingAt: info.start.offset, info)
        case .diverged:
          phase = .locating(Locator(.newest(0), from: offset.id, pageLimit: 0), for: .refusal(reset, info))
        }
      }
    }
  }

  private mutating func note(_ info: StreamInfo) {
    target = info.last?.offset.id ?? .zero
    look.deletedUpTo = info.maxDeleted
  }

  /// - Parameter page: what follows the place; nil where all that does is yet to come, or (`more`) yet to be read.
  private mutating func start(
    at place: Place, _ info: StreamInfo, with page: Page? = nil, more: Bool = false, recovered: Bool = false
  ) {
    isAttached = true
    if case .end = request.start { trail = Trail(from: place) }
    steps.append(.attached(offset: place.offset, first: info.first, last: info.last?.offset, recovered: recovered))
    stand(at: place, more: more || page != nil)
    if let page {
      take(page, Pager(more: true))
    } else if !more {
      look.floor = info.lastGenerated
      look.added = info.entriesAdded
    }
  }

  /// Attached, but not at the place that was asked for.
  private mutating func refuse(_ reset: Reset, standingAt offset: Offset, _ info: StreamInfo) {
    isAttached = true
    steps.append(.attached(offset: offset, first: info.first, last: info.last?.offset, recovered: false))
    restart(reset, at: info.start, added: info.entriesAdded)
  }

  mutating func located(_ locator: Locator, _ purpose: Purpose, _ page: Page) {
    var locator = locator
    var purpose = purpose
    if case .attach(nil) = purpose, let info = page.info {
      note(info)
      purpose = .attach(info)
    }
    guard case .found(var found) = locator.take(page) else {
      phase = .locating(locator, for: purpose)
      return
    }
    if found == .zero, let info = page.info { found = info.start }
    switch purpose {
    case .attach(let info): start(at: found, info ?? .absent, more: true)
    case .refusal(let reset, let info): refuse(reset, standingAt: found.offset, info)
    case .reset(var reset):
      if trail?.holds(found.offset) == true { reset.from = found.offset }
      if let info = page.info {
        reset.first = info.first
        reset.last = info.last?.offset
      }
      restart(reset, at: found, added: page.info?.entriesAdded)
    }
  }

  /// Continuity is broken: says so once the place to go on from is known.
  ///
  /// - Parameters:
  ///   - start: before all that is retained.
  ///   - added: `entries-added` there.
  mutating func lose(_ reset: Reset, start: Place, added: UInt64? = nil) {
    isLive = false
    switch wait {
    case .survey: wait = .stale
    case .tail: wait = .nothing
    case .nothing, .page, .stale, .store: break
    }
    switch request.start {
    case .after, .response:
      restart(reset, at: start, added: added)
    case .newest(let n):
      phase = .locating(Locator(.newest(n), pageLimit: Cursor.pageLimit), for: .reset(reset))
    case .end:
      phase = .locating((trail ?? Trail(from: place)).locator(from: place), for: .reset(reset))
    }
  }

  private mutating func restart(_ reset: Reset, at place: Place, added: UInt64?) {
    var reset = reset
    reset.offset = place.offset
    steps.append(.reset(reset))
    isLive = false
    // Where nothing is retained, what comes and goes unseen before the next page is missed.
    look.floor = place.isEntry ? .zero : place.offset.id
    look.added = added
    stand(at: place, more: true)
  }
}
