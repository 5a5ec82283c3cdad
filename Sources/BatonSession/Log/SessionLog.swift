import BatonProtocol
import Collections

/// What the tail tells about one session, in the order in which it happened.
package enum TailUpdate: Sendable {
  /// The session is followed from here on.
  case opened(base: Place)
  /// New entries, right behind the last ones.
  case appended(Segment)
  /// The last entry was deleted, and it was the newest: the same history ends here now.
  case rebased(Place)
  /// Continuity is broken; the new history is followed from `base` on.
  case reset(Reset, base: Place)
  /// The stream was read after this ticket was drawn, and all it held was told.
  case confirmed(ticket: UInt64)
  /// The store has been out of reach for 2 s.
  case stalled
  /// Whether nobody is to be told `live`: a response may be about to be ended for a producer that is lost.
  case held(Bool)
  /// The key holds another type.
  case wrongType
}

/// A session's window: its newest entries, and the one place before them. Devices are cursors over it.
package struct SessionLog {
  /// The last entry before the window.
  package private(set) var base: Place = .zero
  /// The last entry that the tail has seen.
  package private(set) var end: Place = .zero
  /// False until the tail has looked for the first time.
  package private(set) var isOpen = false
  /// Grows with every reset.
  package private(set) var epoch = 0
  @Boxed package private(set) var reset: Reset?
  /// The first entry that came where there was none to prove the place by: whoever waited there must be told it first.
  @Boxed package private(set) var origin: (after: EntryID, first: Offset)?
  package private(set) var isStalled = false
  package private(set) var isHeld = false
  package private(set) var isWrongType = false
  package private(set) var confirmed: UInt64 = 0
  /// Bytes of the segments that are kept.
  package private(set) var bytes = 0

  /// Counts entries; the window holds `first..<next`.
  package private(set) var first = 0
  package private(set) var next = 0
  /// Entries before this one go when all devices have been asked: whoever waits to join them with later ones takes them now.
  package private(set) var staysFrom = 0
  private var segments: Deque<(start: Int, segment: Segment)> = []
  /// How many of the newest segments are as they came, and how many before them were put together once.
  private var fresh = 0
  private var grouped = 0

  /// What a device that is live and level has to know of it: plain numbers, so that the log is not copied for each device.
  package struct Standing: Sendable {
    let next: Int
    let epoch: Int
    let end: Place
    let isInTrouble: Bool
  }

  package var standing: Standing {
    Standing(next: next, epoch: epoch, end: end, isInTrouble: isStalled || isWrongType)
  }

  package init() {}

  package mutating func apply(_ update: TailUpdate) {
    switch update {
    case .opened(let base):
      isOpen = true
      drop(to: base)
    case .appended(let segment):
      guard let last = segment.entries.end else { return }
      if !end.isEntry, let first = segment.entries.first { origin = (end.offset.id, first.offset) }
      if gathered == nil { gathered = Gathered() }
      segments.append((next, segment))
      next += segment.entries.count
      bytes += segment.bytes
      putTogether()
      end = Place(offset: last)
    case .rebased(let base):
      drop(to: base)
    case .reset(let reset, let base):
      epoch += 1
      self.reset = reset
      drop(to: base)
      // Nobody who stood in the old window stands anywhere in the new one.
      next += 1
      first = next
    case .confirmed(let ticket):
      confirmed = max(confirmed, ticket)
      isStalled = false
      isWrongType = false
    case .stalled:
      isStalled = true
    case .held(let isHeld):
      self.isHeld = isHeld
    case .wrongType:
      isWrongType = true
    }
  }

  /// What `shrink(toBytes:)` is going to let go is told before: from now on `staysFrom` counts.
  package mutating func willShrink(toBytes limit: Int) {
    var left = bytes
    staysFrom = first
    for (start, segment) in segments {
      if left <= limit { break }
      left -= segment.bytes
      staysFrom = start + segment.entries.count
    }
  }

  /// Lets the oldest segments go until at most `limit` bytes are left.
  package mutating func shrink(toBytes limit: Int) {
    while bytes > limit, let oldest = segments.popFirst() {
      bytes -= oldest.segment.bytes
      first = oldest.start + oldest.segment.entries.count
      if let last = oldest.segment.entries.end { base = Place(offset: last) }
    }
    fresh = min(fresh, segments.count)
    grouped = min(grouped, segments.count - fresh)
  }

  /// What each read brought is an arena of its own, which costs as much as an entry: sixteen that are small become one, and
  /// sixteen of those again. The newest stays as it is: devices are about to be sent it.
  private mutating func putTogether() {
    fresh += 1
    guard fresh > SessionLog.groupSize else { return }
    let end = segments.count - 1
    fresh -= SessionLog.groupSize
    grouped = putTogether(end - SessionLog.groupSize..<end) ? grouped + 1 : 0
    guard grouped == SessionLog.groupSize else { return }
    let last = segments.count - fresh
    _ = putTogether(last - SessionLog.groupSize..<last)
    grouped = 0
  }

  /// False where they are too large.
  private mutating func putTogether(_ range: Range<Int>) -> Bool {
    let group = segments[range]
    let size = group.reduce(0) { $0 + $1.segment.bytes }
    guard size <= SessionLog.maxGroupBytes else { return false }
    var builder = EntriesBuilder()
    for (_, segment) in group { for entry in segment.entries { builder.append(entry) } }
    let whole = Segment(builder.finish())
    bytes += whole.bytes - size
    segments[range.lowerBound].segment = whole
    segments.removeSubrange(range.dropFirst())
    return true
  }

  private static let groupSize = 16
  /// Arenas are put together up to this size.
  private static let maxGroupBytes = 64 * 1024

  private mutating func drop(to place: Place) {
    segments.removeAll()
    (fresh, grouped) = (0, 0)
    bytes = 0
    first = next
    base = place
    end = place
  }

  /// Where somebody who has `place`'s entry goes on in the window; nil where the window does not hold it.
  package func index(after offset: Offset) -> Int? {
    guard isOpen else { return nil }
    if base.offset.matches(offset) { return first }
    guard offset.id > base.offset.id, offset.id <= end.offset.id else { return nil }
    guard let (start, segment) = segment(endingFrom: offset.id) else { return nil }
    let found = segment.entries.firstIndex(from: offset.id)
    guard found < segment.entries.endIndex, segment.entries[found].offset.matches(offset) else { return nil }
    return start + found + 1
  }

  /// The index of the first entry with a greater id; `next` where there is none.
  package func index(behind id: EntryID) -> Int {
    guard let (start, segment) = segment(endingFrom: id) else { return next }
    let found = segment.entries.firstIndex(from: id)
    let isThere = found < segment.entries.endIndex && segment.entries[found].id == id
    return start + found + (isThere ? 1 : 0)
  }

  /// The first segment whose last entry has no smaller id.
  private func segment(endingFrom id: EntryID) -> (start: Int, segment: Segment)? {
    var (low, high) = (0, segments.count)
    while low < high {
      let middle = (low + high) / 2
      if segments[middle].segment.entries.end.map({ $0.id < id }) ?? true { low = middle + 1 } else { high = middle }
    }
    return low < segments.count ? segments[low] : nil
  }

  /// The segment that holds entry `index`, and the range of it from there to its end.
  package func segment(at index: Int) -> (Segment, Range<Int>)? {
    guard index >= first, index < next else { return nil }
    var low = 0
    var high = segments.count
    while high - low > 1 {
      let middle = (low + high) / 2
      if segments[middle].start <= index { low = middle } else { high = middle }
    }
    let (start, segment) = segments[low]
    return (segment, (index - start)..<segment.entries.count)
  }

  /// All entries from `index` on as one segment, the same for all who ask for the same.
  package func gather(from index: Int) -> Segment {
    if let known = gathered?.known, known.range == index..<next { return known.segment }
    var builder = EntriesBuilder()
    var reached = index
    while let (segment, range) = segment(at: reached) {
      for entry in segment.entries[range] { builder.append(entry) }
      reached += range.count
    }
    let segment = Segment(builder.finish())
    gathered?.known = (index..<next, segment)
    return segment
  }

  private final class Gathered {
    var known: (range: Range<Int>, segment: Segment)?
  }

  /// Nil where the log never held an entry.
  private var gathered: Gathered?
}
