import BatonProtocol

/// One attached device: a place in the session's history, and what it is to be told next.
///
/// Whoever drives it asks for the `next` step while the device can take more, and again after the log changed, a page
/// came or a rollup window passed.
package struct Cursor: Sendable {
  package enum Step: Sendable {
    /// Answer with `pageArrived`.
    case read(PageRequest)
    /// The tail is to read this session now. Answer with `touched` at once.
    case touch
    case attached(offset: Offset, first: Offset?, last: Offset?)
    case reset(Reset)
    case deliver(Delivery)
    case behind
    case live(Offset)
    case stalled
    /// The key holds another type: 409, or an error and close 1011.
    case wrongType
    /// The store can't be read: 503. Only before `attached`.
    case unavailable
    /// All that was asked for has been sent: close 1000.
    case finish
  }

  /// Entries of one page of history.
  package static let pageLimit = 512

  private enum Phase {
    case opening
    /// Reads backwards for the place to start from.
    case locating(Locator)
    /// Reads the responses that were open before the place to start from, delivering nothing.
    case surveying(at: Place)
    case paging
    case following(Int)
    case finished
  }

  package let request: AttachRequest
  private var phase: Phase = .opening
  /// The last entry that was delivered, or the place to start from.
  package private(set) var place: Place = .zero
  package private(set) var isAttached = false
  package private(set) var isLive = false
  /// Whether a rollup window has passed; set by the driver.
  package var isDue = false

  private var inFlight = false
  /// The store failed a read: not again before the tail has read.
  private var isBlocked = false
  private var arrived: PageOutcome?
  /// What is left of the last page.
  private var stock: Delivery?
  /// Whether history goes on behind the last page.
  private var more = true
  private var needsLook = false
  /// The greatest id that was deleted singly; the window can't tell, so it is joined only behind it. Nil: not known.
  private var deletedUpTo: EntryID?
  /// What has to come first from the start on, where the device was live there.
  private var origin: Offset?
  private var saidStalled = false
  /// Nothing up to this id is to be told: it was had, or was gone before the place was taken.
  private var floor: EntryID = .zero
  /// `entries-added` when it was the last generated id.
  private var floorAdded: UInt64?
  /// The log's epoch when the stream was last looked at.
  private var lookEpoch = 0

  /// Live not before the log holds this entry, or was confirmed.
  private var target: EntryID = .zero
  private var ticket: UInt64?

  private var startPlace: Place = .zero
  private var epoch = 0
  private var steps: [Step] = []
  private var pendingReset: Reset?
  private var first: Offset?
  private var last: Offset?

  private var open = OpenResponses()
  private var sawEnd = false

  package init(_ request: AttachRequest) {
    self.request = request
  }

  package mutating func pageArrived(_ outcome: PageOutcome) {
    inFlight = false
    arrived = outcome
  }

  package mutating func touched(_ ticket: UInt64) {
    self.ticket = ticket
  }

  /// Nil: nothing to do until something happens.
  package mutating func next(_ log: borrowing SessionLog) -> Step? {
    while true {
      if !steps.isEmpty { return steps.removeFirst() }
      if case .finished = phase { return nil }
      if isAttached {
        if log.isWrongType {
          phase = .finished
          return .wrongType
        }
        if log.isStalled, !saidStalled {
          saidStalled = true
          isLive = false
          return .stalled
        }
        if !log.isStalled { saidStalled = false }
      }
      if let outcome = arrived {
        arrived = nil
        if let step = take(outcome, log) { return step }
        continue
      }
      if inFlight { return nil }
      if isBlocked {
        guard let ticket, log.confirmed >= ticket else { return nil }
        isBlocked = false
        self.ticket = nil
      }
      switch advance(log) {
      case .step(let step): return step
      case .again: continue
      case .nothing: return nil
      }
    }
  }

  private enum Advance {
    case step(Step)
    case again
    case nothing
  }

  private mutating func advance(_ log: borrowing SessionLog) -> Advance {
    switch phase {
    case .finished: return .nothing
    case .opening:
      switch request.start {
      case .after(let offset) where log.index(after: offset) != nil && offset != .zero:
        return .step(ask(.after(offset.id), limit: 0, look: true))
      case .after(let offset): return .step(ask(.after(offset.id), look: true))
      case .response: return .step(ask(.after(.zero), look: true))
      case .end: return .step(ask(.before(nil), limit: 1, look: true))
      case .newest(let n):
        phase = .locating(Locator(.newest(n), pageLimit: Cursor.pageLimit))
        return .again
      }
    case .locating(let locator):
      if log.isStalled { return .nothing }
      return .step(ask(locator.span, limit: locator.pageLimit, look: true))
    case .surveying(let at):
      return .step(ask(.after(at.offset.id), look: false))
    case .paging: return page(log)
    case .following(let index): return follow(index, log)
    }
  }

  private mutating func ask(
    _ span: PageRequest.Span, limit: Int = Cursor.pageLimit, look: Bool
  ) -> Step {
    inFlight = true
    return .read(PageRequest(session: request.session, span: span, limit: limit, look: look))
  }

  // MARK: paging

  private mutating func page(_ log: borrowing SessionLog) -> Advance {
    if let delivery = stock {
      stock = nil
      return .step(deliver(delivery))
    }
    let isStart = place.offset == .zero
    let mayJoin = !more || !isStart && (deletedUpTo.map { $0 <= place.offset.id } ?? false)
    if mayJoin, !needsLook, var index = log.index(after: place.offset) {
      if place.offset.id < floor || isStart && index < log.next {
        // No entry proves that page and window are of one history, or that the window holds nothing that is gone: the tail
        // has to have read since.
        guard let ticket else { return .step(.touch) }
        guard log.confirmed >= ticket else { return .nothing }
        guard lookEpoch == log.epoch else {
          self.ticket = nil
          needsLook = true
          return .again
        }
        index = max(index, log.index(behind: floor))
        target = .zero
      }
      phase = .following(index)
      epoch = log.epoch
      ticket = nil
      return .again
    }
    if more || needsLook { return .step(ask(.after(place.offset.id), look: needsLook)) }
    // All of the stream was read, and the window does not hold its end: one of both is older than the other.
    guard let ticket else { return .step(.touch) }
    guard log.isOpen, log.confirmed >= ticket else { return .nothing }
    self.ticket = nil
    needsLook = true
    return .again
  }

  private mutating func take(_ outcome: PageOutcome, _ log: borrowing SessionLog) -> Step? {
    let page: Page
    switch outcome {
    case .page(let found): page = found
    case .wrongType:
      phase = .finished
      return .wrongType
    case .unavailable, .refused:
      guard isAttached else {
        phase = .finished
        return .unavailable
      }
      isBlocked = true
      ticket = nil
      return .touch
    }
    if page.info != nil { lookEpoch = log.epoch }
    switch phase {
    case .opening: open(page, log)
    case .locating(var locator): locate(&locator, page)
    case .surveying(let at): survey(at, page)
    case .paging: takePage(page)
    case .following, .finished: break
    }
    return nil
  }

  private mutating func takePage(_ page: Page) {
    var entries = page.entries[...]
    if place.offset == .zero, floor != .zero {
      // All that comes after the floor was promised, and no entry is there to prove it by.
      guard let info = page.info else {
        needsLook = true
        return
      }
      let evidence = Verdict.Evidence(existed: true, added: floorAdded)
      if info.lastGenerated != floor,
        case .reset(let reason) = Verdict.of(.zero, evidence: evidence, info: info, entries: page.entries)
      {
        lose(reason, first: info.first, last: info.last?.offset, past: [])
        return
      }
    }
    if let info = page.info {
      deletedUpTo = info.maxDeleted
      floorAdded = info.entriesAdded
      floor = page.entries.contains { $0.id > place.offset.id } ? .zero : info.lastGenerated
    }
    if place.offset == .zero, let origin, entries.first?.offset.matches(origin) != true {
      if let info = page.info {
        lose(info.exists ? .trimmed : .deleted, first: info.first, last: info.last?.offset, past: [])
      } else {
        needsLook = true
      }
      return
    } else if place.offset == .zero {
      more = page.more
    } else if let first = entries.first, first.offset.matches(place.offset) {
      entries.removeFirst()
      more = page.more
    } else if let info = page.info {
      switch Verdict.of(place, evidence: nil, info: info, entries: page.entries) {
      case .reset(let reason):
        lose(reason, first: info.first, last: info.last?.offset, past: [])
        return
      case .overlap, .wait: break
      case .proven:
        if entries.isEmpty { place = info.last ?? .zero }
        more = page.more
      }
    } else {
      needsLook = true
      return
    }
    needsLook = false
    origin = nil
    if entries.isEmpty {
      if !page.more { more = false }
    } else {
      stock = Delivery(page.segment, entries.indices, joined: request.rollup != .off)
    }
  }

  // MARK: attaching

  private mutating func open(_ page: Page, _ log: borrowing SessionLog) {
    guard let info = page.info else { return }
    note(info)
    switch request.start {
    case .end:
      floor = info.lastGenerated
      floorAdded = info.entriesAdded
      start(at: info.last ?? .zero, more: false)
    case .newest: break
    case .response:
      start(at: .zero, more: true)
      takePage(page)
    case .after(let offset):
      switch Verdict.of(Place(offset: offset), evidence: nil, info: info, entries: page.entries) {
      case .overlap:
        guard let anchor = page.entries.first else { return }
        if anchor.endsResponse, isWanted(anchor) { sawEnd = true }
        let isVerifyOnly = page.entries.count == 1 && info.last.map { $0.offset.id > anchor.id } ?? false
        start(at: anchor.place, more: isVerifyOnly || page.more)
        if !isVerifyOnly, !isSurveying { takePage(page) }
      case .proven where offset == .zero:
        start(at: .zero, more: true)
        takePage(page)
      case .proven, .wait:
        floor = info.lastGenerated
        floorAdded = info.entriesAdded
        start(at: info.last ?? .zero, more: false)
      case .reset(let reason):
        let reset = Reset(reason, requested: offset, first: info.first, last: info.last?.offset)
        switch reason {
        case .ahead: refuse(reset, standingAt: info.last?.offset ?? .zero)
        case .trimmed, .deleted: refuse(reset, standingAt: .zero)
        case .diverged:
          pendingReset = reset
          phase = .locating(Locator(.newest(0), from: offset.id, pageLimit: 0))
        }
      }
    }
  }

  private mutating func note(_ info: StreamInfo) {
    first = info.first
    last = info.last?.offset
    target = info.last?.offset.id ?? .zero
    deletedUpTo = info.maxDeleted
  }

  private var isSurveying: Bool { if case .surveying = phase { true } else { false } }

  private mutating func start(at place: Place, more: Bool) {
    startPlace = place
    isAttached = true
    steps.append(.attached(offset: place.offset, first: first, last: last))
    stand(at: place, more: more)
  }

  /// Attached, but not at the place that was asked for.
  private mutating func refuse(_ reset: Reset, standingAt offset: Offset) {
    isAttached = true
    steps.append(.attached(offset: offset, first: first, last: last))
    steps.append(.reset(reset))
    restart(at: .zero)
  }

  private mutating func locate(_ locator: inout Locator, _ page: Page) {
    if !isAttached, let info = page.info, first == nil { note(info) }
    switch locator.take(page) {
    case .read: phase = .locating(locator)
    case .found(let found):
      if !isAttached {
        if let reset = pendingReset {
          pendingReset = nil
          refuse(reset, standingAt: found.offset)
        } else {
          start(at: found, more: true)
        }
      } else if var reset = pendingReset {
        pendingReset = nil
        reset.offset = found.offset
        if case .end = request.start, found.offset.id > startPlace.offset.id { reset.from = found.offset }
        if let info = page.info {
          reset.first = info.first
          reset.last = info.last?.offset
        }
        steps.append(.reset(reset))
        restart(at: found)
      }
    }
  }

  // MARK: continuity

  /// Continuity is broken: says so once the place to go on from is known.
  private mutating func lose(_ reason: ResetReason, first: Offset?, last: Offset?, past: [Offset]) {
    let reset = Reset(reason, requested: place.offset, first: first, last: last)
    stock = nil
    isLive = false
    switch request.start {
    case .after, .response:
      steps.append(.reset(reset))
      restart(at: .zero)
    case .newest(let n):
      pendingReset = reset
      phase = .locating(Locator(.newest(n), pageLimit: Cursor.pageLimit))
    case .end:
      var candidates = [startPlace.offset.id: startPlace.offset]
      candidates[place.offset.id] = place.offset
      for offset in past where offset.id > startPlace.offset.id && offset.id <= place.offset.id {
        candidates[offset.id] = offset
      }
      pendingReset = reset
      phase = .locating(
        Locator(
          .anyOf(candidates, floor: startPlace.offset.id), from: place.offset.id, pageLimit: Cursor.pageLimit))
    }
  }

  private mutating func restart(at place: Place) {
    stock = nil
    needsLook = false
    ticket = nil
    isLive = false
    open = OpenResponses()
    sawEnd = false
    floor = .zero
    stand(at: place, more: true)
  }

  private mutating func stand(at place: Place, more: Bool) {
    self.place = place
    self.more = more
    origin = nil
    phase = .paging
    if request.untilEnd || request.onlyResponse != nil, place.offset != .zero {
      self.more = true
      phase = .surveying(at: .zero)
    }
  }

  // MARK: following

  private mutating func follow(_ index: Int, _ log: borrowing SessionLog) -> Advance {
    if log.epoch != epoch {
      epoch = log.epoch
      let reset = log.reset
      lose(reset?.reason ?? .diverged, first: reset?.first, last: reset?.last, past: log.past)
      return .again
    }
    if index < log.first {
      phase = .paging
      more = true
      origin = log.origin
      guard isLive else { return .again }
      isLive = false
      return .step(.behind)
    }
    if index < log.next {
      guard let (segment, range) = log.segment(at: index) else { return .nothing }
      if case .window = request.rollup, isLive {
        guard isDue else { return .nothing }
        isDue = false
        phase = .following(log.next)
        let segment = log.gather(from: index)
        return .step(deliver(Delivery(segment, segment.entries.indices, joined: true)))
      }
      phase = .following(index + range.count)
      return .step(deliver(Delivery(segment, range, joined: !isLive && request.rollup != .off)))
    }
    place = log.end
    isDue = false
    if isLive { return finishIfDone() }
    if log.isStalled || log.isHeld { return .nothing }
    if log.end.offset.id < target {
      guard let ticket else { return .step(.touch) }
      guard log.confirmed >= ticket else { return .nothing }
    }
    ticket = nil
    target = .zero
    isLive = true
    steps.append(.live(place.offset))
    return .again
  }

  private mutating func deliver(_ delivery: Delivery) -> Step {
    if let last = delivery.entries.last { place = last.place }
    if request.untilEnd || request.onlyResponse != nil {
      for entry in delivery.entries where isWanted(entry) {
        open.note(entry)
        if entry.endsResponse { sawEnd = true }
      }
    }
    return .deliver(delivery)
  }

  private func isWanted(_ entry: Entry) -> Bool {
    guard let only = request.onlyResponse else { return true }
    return entry.response == only
  }

  private mutating func finishIfDone() -> Advance {
    guard request.untilEnd || request.onlyResponse != nil, sawEnd, open.isEmpty else { return .nothing }
    phase = .finished
    return .step(.finish)
  }

  private mutating func survey(_ at: Place, _ page: Page) {
    var entries = page.entries[...]
    if at.offset != .zero {
      guard let overlap = entries.popFirst(), overlap.offset.matches(at.offset) else {
        open = OpenResponses()
        phase = .surveying(at: .zero)
        return
      }
    }
    var reached = at
    for entry in entries {
      if entry.id > place.offset.id {
        phase = .paging
        return
      }
      if isWanted(entry) {
        open.note(entry)
        // The one that is waited for may have ended before the place to go on from.
        if request.onlyResponse != nil, entry.endsResponse { sawEnd = true }
      }
      reached = entry.place
    }
    phase = page.more && reached.offset.id < place.offset.id ? .surveying(at: reached) : .paging
  }
}
