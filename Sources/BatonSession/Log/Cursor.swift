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
    /// - `recovered`: at the place that was asked for, with nothing missing from there on.
    case attached(offset: Offset, first: Offset?, last: Offset?, recovered: Bool)
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

  enum Phase {
    case opening
    /// Reads backwards for the place to start from, at the attach or after a reset.
    indirect case locating(Locator, for: Purpose)
    case paging(Pager)
    case following(Follower)
    case finished
  }

  enum Purpose {
    case attach(StreamInfo?)
    /// The offset does not hold: which entry is there now?
    case refusal(Reset, StreamInfo)
    case reset(Reset)
  }

  /// What it asked for and has not got.
  enum Wait {
    case nothing
    case page
    /// A page for the `EndWatch`: entries are delivered meanwhile.
    case survey
    /// A page that is wanted no more.
    case stale
    /// A read that the tail sends after this ticket was drawn.
    case tail(UInt64?)
    /// The same, because the store failed a page.
    case store(UInt64?)
  }

  enum Advance {
    case step(Step)
    case again
    case nothing
  }

  package let request: AttachRequest
  var phase: Phase = .opening
  var wait: Wait = .nothing
  /// The last entry that was delivered, or the place to start from.
  package internal(set) var place: Place = .zero
  package internal(set) var isAttached = false
  package internal(set) var isLive = false
  /// Whether a rollup window has passed; set by the driver.
  package var isDue = false
  /// The stream as it was last looked at.
  var look = Look()
  /// Live not before the log holds this entry, or was confirmed.
  var target: EntryID = .zero
  var steps: [Step] = []
  var arrived: PageOutcome?
  private var saidStalled = false
  /// Only where a reset goes back to what the device still has: after `$`.
  var trail: Trail?
  private var watched: Watched?

  package init(_ request: AttachRequest) {
    self.request = request
  }

  /// Whether the attach has an end that is yet to come.
  var hasEnd: Bool { watched != nil }

  package mutating func pageArrived(_ outcome: PageOutcome) { arrived = outcome }

  package mutating func touched(_ ticket: UInt64) {
    switch wait {
    case .tail: wait = .tail(ticket)
    case .store: wait = .store(ticket)
    case .nothing, .page, .survey, .stale: break
    }
  }

  /// It is live, and whether all has been sent that was asked for is being looked up.
  package var isFinishing: Bool {
    if case .survey? = watched?.end.decision { isLive } else { false }
  }

  /// Nil: nothing to do until something happens.
  package mutating func next(_ log: borrowing SessionLog) -> Step? {
    while true {
      if let step = steps.first {
        // The memory goes with the last one: devices are many, and most are quiet.
        if steps.count == 1 { steps = [] } else { steps.removeFirst() }
        return step
      }
      if case .finished = phase { return nil }
      if isAttached, let step = trouble(log) { return step }
      if let outcome = arrived {
        arrived = nil
        if let step = take(outcome, log) { return step }
        continue
      }
      switch advance(log) {
      case .step(let step): return step
      case .again: continue
      case .nothing: return nil
      }
    }
  }

  private mutating func trouble(_ log: borrowing SessionLog) -> Step? {
    if log.isWrongType {
      phase = .finished
      return .wrongType
    }
    defer { saidStalled = log.isStalled }
    guard log.isStalled, !saidStalled else { return nil }
    isLive = false
    return .stalled
  }

  private mutating func advance(_ log: borrowing SessionLog) -> Advance {
    if case .store(let ticket?) = wait, log.confirmed >= ticket { wait = .nothing }
    if case .following(let follower) = phase { return follow(follower, log) }
    switch wait {
    case .page, .survey, .stale, .store: return .nothing
    case .nothing, .tail: break
    }
    switch phase {
    case .following, .finished: return .nothing
    case .opening: return open(log)
    case .locating(let locator, _):
      return log.isStalled ? .nothing : .step(ask(locator.span, limit: locator.pageLimit, look: true))
    case .paging(let pager): return page(pager, log)
    }
  }

  mutating func ask(_ span: PageRequest.Span, limit: Int = Cursor.pageLimit, look: Bool) -> Step {
    wait = .page
    return .read(PageRequest(session: request.session, span: span, limit: limit, look: look))
  }

  /// `again` once the tail has read since this was first asked.
  mutating func confirmed(_ log: borrowing SessionLog) -> Advance {
    guard case .tail(let ticket) = wait else {
      wait = .tail(nil)
      return .step(.touch)
    }
    guard let ticket, log.confirmed >= ticket else { return .nothing }
    wait = .nothing
    return .again
  }

  private mutating func take(_ outcome: PageOutcome, _ log: borrowing SessionLog) -> Step? {
    let asked = wait
    wait = .nothing
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
      wait = .store(nil)
      return .touch
    }
    switch asked {
    case .survey:
      changeEndWatch { $0.surveyed(page.entries, more: page.more) }
      return nil
    case .stale: return nil
    case .nothing, .page, .tail, .store: break
    }
    if page.info != nil { look.epoch = log.epoch }
    switch phase {
    case .opening: opened(page)
    case .locating(let locator, let purpose): located(locator, purpose, page)
    case .paging(let pager): take(page, pager)
    case .following, .finished: break
    }
    return nil
  }

  // MARK: entries

  mutating func deliver(_ delivery: Delivery) -> Step {
    if let end = delivery.entries.end { place = Place(offset: end) }
    noted(delivery)
    return .deliver(delivery)
  }

  /// Goes on from here, with history first.
  mutating func stand(at place: Place, more: Bool) {
    self.place = place
    watched = EndWatch(request, from: place).map(Watched.init)
    phase = .paging(Pager(more: more))
  }

  mutating func verified(_ anchor: Entry) {
    if anchor.endsResponse { changeEndWatch { $0.delivered(anchor) } }
  }

  mutating func finishIfDone() -> Advance {
    guard let watched else { return .nothing }
    switch watched.end.decision {
    case .finish:
      phase = .finished
      return .step(.finish)
    case .survey(let span):
      guard case .nothing = wait else { return .nothing }
      let step = ask(span, look: false)
      wait = .survey
      return .step(step)
    case .wait: return .nothing
    }
  }

  // MARK: whether all was sent

  /// On the heap: most attaches have no end. Changed only by a cursor that has it for itself.
  private final class Watched: @unchecked Sendable {
    var end: EndWatch
    init(_ end: EndWatch) { self.end = end }
  }

  private mutating func changeEndWatch(_ change: (inout EndWatch) -> Void) {
    if !isKnownUniquelyReferenced(&watched) { watched = watched.map { Watched($0.end) } }
    if let watched { change(&watched.end) }
  }

  /// The device was sent this.
  private mutating func noted(_ delivery: Delivery) {
    trail?.delivered(delivery)
    guard watched != nil else { return }
    changeEndWatch { end in for entry in delivery.entries { end.delivered(entry) } }
  }
}

/// What a look at the stream has shown, as far as it counts later.
struct Look: Sendable {
  /// Nothing up to this id is to be told: it was had, or was gone before the place was taken.
  var floor: EntryID = .zero
  /// `entries-added` when `floor` was the last generated id.
  var added: UInt64?
  /// The greatest id that was deleted singly; the window can't tell, so it is joined only behind it. Nil: not known.
  var deletedUpTo: EntryID?
  /// The log's epoch.
  var epoch = 0
}
