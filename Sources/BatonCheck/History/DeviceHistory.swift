import BatonProtocol

/// What one device got, and what section 10 says of it.
///
/// It obeys the frames as section 4 asks devices to, keeps of each entry what is needed to find it again, and compares what
/// it keeps with the stream when it is told to drop it, and at the end.
struct DeviceHistory {
  /// A frame that the device keeps.
  struct Shown {
    enum Kind { case entry, skipped, live }
    var kind: Kind
    var offset: Offset
    var event: Name = 0
    var response: Name?
    var part: Name?
    var n: UInt64?
    var joined: UInt64 = 1
    var hasMore = false
    var data: Digest?
    var fields: UInt64 = 0
    var bytes: UInt64?
    var at: Int64
    /// It is the first after this place, and what lies before it is not asked for.
    var base: Offset?

    var id: EntryID { offset.id }
    var range: ClosedRange<UInt64>? {
      n.flatMap { n in joined <= n && joined > 0 ? n - joined + 1...n : nil }
    }
  }

  let label: String
  let asked: RecordingHeader.Asked
  let onlyResponse: Name?
  let options: HistoryCheck.Options

  var kept: [Shown] = []
  /// Where the device stands; nil before its first `attached`.
  var place: Offset?
  /// Where what it was sent begins, until the first entry has come.
  var base: Offset?
  var isAttached = false
  /// The attach moved the device: a reset has to say why before anything else comes.
  var mustReset = false
  var liveSince: Int64?
  var isFinished = false
  var at: Int64 = 0
  /// Behind the last frame's entry in the stream; known when the recording is over.
  var end: Int?
  /// The last frame that was kept, where the stream has lost it since.
  var vanished: Shown?
  /// The highest number shown of each response.
  var numbers: [Name: UInt64] = [:]
  private(set) var frames = 0
  private(set) var attaches = 0
  private(set) var resets = 0

  init(
    label: String, asked: RecordingHeader.Asked, onlyResponse: Name?, options: HistoryCheck.Options
  ) {
    (self.label, self.asked, self.onlyResponse, self.options) = (label, asked, onlyResponse, options)
  }

  // MARK: what was recorded

  mutating func happened(
    _ event: RecordingEvent, at: Int64, in session: SessionHistory, _ names: inout Names
  ) -> [Finding] {
    self.at = at
    switch event {
    case .connecting, .lost, .closed, .rejected:
      isAttached = false
      return noLongerLive(session, names)
    case .finished:
      isFinished = true
      return noLongerLive(session, names)
    case .frame(let frame): return got(frame, session, &names)
    default: return []
    }
  }

  private mutating func got(
    _ frame: DeviceFrame, _ session: SessionHistory, _ names: inout Names
  ) -> [Finding] {
    switch frame {
    case .attached(let name, let offset, let holdsEntries):
      attached(offset, holdsEntries)
      // Devices know it by its own name alone.
      guard let name, name != session.name, name != session.ownName else { return [] }
      return [finding(.foreign, session, names, offset, detail: "the device was attached to another session")]
    case .reset(_, let from, let offset): return reset(from, offset, session, names)
    case .live(let offset):
      var findings = continuous(session, names, Shown(kind: .live, offset: offset, at: at))
      if let place, offset.id > max(place.id, kept.last?.id ?? .zero) {
        findings += keep(Shown(kind: .live, offset: offset, at: at), session, names)
      }
      // Where the stream holds nothing, the place is the last generated id.
      if place == .zero, offset.check == nil { place = offset }
      liveSince = at
      return findings
    case .behind, .stalled: return noLongerLive(session, names)
    case .skipped(let offset, let bytes):
      return keep(Shown(kind: .skipped, offset: offset, bytes: bytes, at: at), session, names)
    case .entry(let entry):
      return keep(
        Shown(
          kind: .entry, offset: entry.offset, event: names.number(entry.event),
          response: entry.response.map { names.number($0) }, part: entry.part.map { names.number($0) }, n: entry.n,
          joined: entry.joined, hasMore: entry.hasMore, data: entry.data, fields: entry.fields, at: at),
        session, names)
    case .other: return []
    }
  }

  private mutating func attached(_ offset: Offset, _ holdsEntries: Bool) {
    attaches += 1
    (isAttached, liveSince, mustReset) = (true, nil, false)
    let wanted: Offset? =
      if let place { place } else if case .after(let offset) = asked.start { offset } else { nil }
    if let wanted, wanted != .zero {
      // Who is shown one response only may have moved over others' entries unseen.
      mustReset =
        offset.id > wanted.id && onlyResponse == nil || offset.id == wanted.id && !offset.matches(wanted)
    } else if wanted != nil {
      // From the start of a stream that holds nothing, the place is the last generated id.
      mustReset = offset.id > .zero && holdsEntries
    }
    if place == nil { base = offset }
    place = offset
  }

  private mutating func reset(
    _ from: Offset, _ offset: Offset, _ session: SessionHistory, _ names: Names
  ) -> [Finding] {
    resets += 1
    var findings = noLongerLive(session, names)
    let end = index(after: from.id)
    let isFrameEnd = end > 0 && kept[end - 1].offset.matches(from)
    if from != .zero, !isFrameEnd {
      findings.append(
        finding(.undisclosed, session, names, from, detail: "a reset keeps what is before it, but no frame ends there"))
    }
    findings += judge(from: end, isDropped: true, session, names).findings
    kept.removeSubrange(end...)
    numbers = [:]
    for shown in kept { note(shown) }
    (place, mustReset) = (offset, false)
    base = from.id == offset.id && !kept.isEmpty ? nil : offset
    return findings
  }

  /// An entry, a `skipped`, or the place that a `live` names.
  private mutating func keep(_ shown: Shown, _ session: SessionHistory, _ names: Names) -> [Finding] {
    var findings = continuous(session, names, shown)
    if shown.kind != .live {
      frames += 1
      if shown.id > place?.id ?? .zero { place = shown.offset }
    }
    var shown = shown
    if let last = kept.last, shown.id <= last.id {
      let index = index(after: shown.id)
      if index > 0, kept[index - 1].id == shown.id, kept[index - 1].kind != .live {
        // What was taken out on purpose may come again after a restore.
        if session.deletions.isDeleted(shown.id) { return findings }
        return findings + [finding(.doubled, session, names, shown, "the device has been shown it before")]
      }
      if shown.kind != .live {
        findings.append(finding(.reordered, session, names, shown, "the device has been shown a later one before"))
      }
      if index < kept.count, let base = kept[index].base {
        shown.base = base
        kept[index].base = nil
      }
      kept.insert(shown, at: index)
    } else {
      findings += doubledNumbers(shown, session, names)
      (shown.base, base) = (base, nil)
      kept.append(shown)
    }
    note(shown)
    return findings + late(shown, session, names)
  }

  private mutating func note(_ shown: Shown) {
    if let response = shown.response, let n = shown.n { numbers[response] = max(numbers[response] ?? 0, n) }
  }

  /// Numbers that the device has been shown before, in another entry.
  private func doubledNumbers(_ shown: Shown, _ session: SessionHistory, _ names: Names) -> [Finding] {
    guard let response = shown.response, let range = shown.range, range.lowerBound <= numbers[response] ?? 0,
      session.producers[response] != nil,
      let other = kept.last(where: { $0.response == response && $0.range?.overlaps(range) ?? false })
    else { return [] }
    // Where the stream has both, it is the stream's fault.
    if let stream = session.stream, stream.index(of: other.id, near: 0) != nil,
      stream.index(of: shown.id, near: 0) != nil
    {
      return []
    }
    return [finding(.doubled, session, names, shown, "the device has been shown these deltas before")]
  }

  private mutating func continuous(_ session: SessionHistory, _ names: Names, _ shown: Shown) -> [Finding] {
    if !isAttached {
      isAttached = true
      return [finding(.undisclosed, session, names, shown, "it came on an attach without `attached`")]
    }
    guard mustReset else { return [] }
    mustReset = false
    return [finding(.undisclosed, session, names, shown, "the attach has moved the device, and no reset said why")]
  }
}
