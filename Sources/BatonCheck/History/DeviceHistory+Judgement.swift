import BatonProtocol

/// What section 10 says of what a device was shown.
extension DeviceHistory {
  // MARK: in time

  func late(_ shown: Shown, _ session: SessionHistory, _ names: Names) -> [Finding] {
    guard let limit = options.late, let liveSince,
      let acknowledged = acknowledged(
        shown.response, shown.range, isEnd: ["end", "error", "cancelled"].contains(names[shown.event]),
        since: liveSince, session),
      shown.at - acknowledged > limit
    else { return [] }
    return [
      finding(.late, session, names, shown, "it came \(shown.at - acknowledged) ms after it was acknowledged")
    ]
  }

  /// The device was live until now: what should have come by then?
  mutating func noLongerLive(_ session: SessionHistory, _ names: Names) -> [Finding] {
    guard let limit = options.late, let liveSince = liveSince.take(), let stream = session.stream, let place else {
      self.liveSince = nil
      return []
    }
    var findings: [Finding] = []
    for item in stream.items[stream.upperBound(place.id)...] where isVisible(item) {
      guard
        let acknowledged = acknowledged(
          item.response, item.firstN.flatMap { first in item.n.map { first...$0 } },
          isEnd: ["end", "error", "cancelled"].contains(names[item.event]), since: liveSince, session),
        at - acknowledged > limit
      else { break }
      findings.append(
        finding(
          .late, session, names, item, "it had not come \(at - acknowledged) ms after it was acknowledged"))
    }
    return findings
  }

  private func acknowledged(
    _ response: Name?, _ range: ClosedRange<UInt64>?, isEnd: Bool, since: Int64, _ session: SessionHistory
  ) -> Int64? {
    guard let response, let produced = session.producers[response] else { return nil }
    if let range { return produced.firstAcknowledged(range, since: since)?.at }
    guard isEnd, let end = produced.acknowledgedEnd, end.at >= since else { return nil }
    return end.at
  }

  // MARK: the whole

  /// The recording is over. Whether the device has come to the stream's end is another question: ``notToEnd(_:_:)``.
  mutating func ended(_ session: SessionHistory, _ names: Names) -> [Finding] {
    var findings = noLongerLive(session, names)
    let (found, pass) = judge(from: 0, isDropped: false, session, names)
    findings += found
    if !isFinished { vanished = pass.vanished }
    let isEnd = { (shown: Shown) in ["end", "error", "cancelled"].contains(names[shown.event]) }
    let begun = Set(kept.compactMap(\.response)).union(onlyResponse.map { [$0] } ?? [])
    let open = begun.subtracting(kept.filter(isEnd).compactMap(\.response))
    if let stream = session.stream {
      let known = (base ?? neverAttachedAfter).map { stream.upperBound($0.id) } ?? pass.position
      end = known ?? kept.last.map { stream.upperBound($0.id) }
      if isFinished, let known {
        for item in stream.items[known...] where isVisible(item) {
          guard let response = item.response, open.contains(response) else { continue }
          findings.append(
            finding(.lost, session, names, item, "the device was told that all had come, and was not shown it"))
        }
      }
    }
    (kept, numbers) = ([], [:])
    return findings
  }

  /// What the device lacks at the end of the stream, and what it has that the stream lacks.
  func notToEnd(_ session: SessionHistory, _ names: Names) -> [Finding] {
    var findings: [Finding] = []
    if let vanished {
      findings.append(
        finding(.undisclosed, session, names, vanished, "it is not in the stream any more, and no reset has come"))
    }
    guard let end, let stream = session.stream else { return findings }
    return findings
      + stream.items[end...].filter(isVisible).map {
        finding(.lost, session, names, $0, "the device was not shown it")
      }
  }

  /// What a device asked for that no gateway has let in.
  private var neverAttachedAfter: Offset? {
    if place == nil, case .after(let offset) = asked.start { offset } else { nil }
  }

  /// Where a frame stands in the stream at the end.
  private enum Standing {
    case present(Int)
    /// Gone, as it was meant to be.
    case excused
    /// The recording of the stream does not say.
    case unknown
    case absent
  }

  private func standing(_ shown: Shown, near: Int, _ session: SessionHistory) -> Standing {
    guard let stream = session.stream else { return .unknown }
    if let index = stream.index(of: shown.id, near: near) { return .present(index) }
    if session.deletions.covers(shown.id, at: shown.at) { return .excused }
    if stream.isUnknown(shown.id) { return .unknown }
    // A stream that was trimmed lacks its beginning.
    if stream.hasRemoved, shown.id < stream.items.first?.id ?? EntryID(.max, .max) { return .excused }
    return .absent
  }

  /// Compares what is kept from an index on with the stream.
  ///
  /// - Returns: where the pass stands behind the last frame, too.
  func judge(
    from start: Int, isDropped: Bool, _ session: SessionHistory, _ names: Names
  ) -> (findings: [Finding], pass: Pass) {
    var pass = Pass(isDropped: isDropped)
    var findings: [Finding] = []
    // The one before says where the first follows.
    for index in kept.indices[max(0, start - 1)...] {
      let found = judge(kept[index], &pass, session, names)
      if index >= start { findings += found }
    }
    return (findings, pass)
  }

  struct Pass {
    let isDropped: Bool
    var position: Int?
    /// A frame that the stream does not have any more, and that nothing excuses.
    var vanished: Shown?
    /// The last number of each response, as far as the stream can't say.
    var numbers: [Name: UInt64] = [:]

    init(isDropped: Bool) { self.isDropped = isDropped }
  }

  private func judge(
    _ shown: Shown, _ pass: inout Pass, _ session: SessionHistory, _ names: Names
  ) -> [Finding] {
    let stream = session.stream
    if let base = shown.base {
      pass = Pass(isDropped: pass.isDropped)
      pass.position = stream?.upperBound(base.id)
    }
    if shown.kind == .live { return judgeLive(shown, &pass, session, names) }
    var findings: [Finding] = []
    defer {
      if let response = shown.response, let n = shown.n { pass.numbers[response] = n }
    }
    let standing = standing(shown, near: pass.position ?? 0, session)
    if case .present(let index) = standing, let stream {
      let comparison = compare(shown, index, stream, session)
      if comparison.isSame || !isOtherHistory(shown, stream.items[index]) {
        if let detail = comparison.foreign { findings.append(finding(.foreign, session, names, shown, detail)) }
        if let detail = comparison.undisclosed {
          findings.append(finding(.undisclosed, session, names, shown, detail))
        }
        if let before = pass.vanished.take() {
          findings.append(
            finding(
              .undisclosed, session, names, shown,
              "it follows \(before.offset), which is not in the stream any more, and no reset came between"))
        } else if let position = pass.position, !comparison.isPartial || shown.n != nil {
          findings += passedOver(position..<max(position, comparison.start), before: shown, session, names)
          if comparison.start < position {
            findings.append(finding(.doubled, session, names, shown, "it holds what the device has been shown before"))
          }
        }
        pass.position = index + 1
        return findings
      }
    }
    if case .excused = standing {
      let end = stream?.upperBound(shown.id)
      // A joined frame without numbers may hold what is left before it.
      if let position = pass.position, let end, position < end, shown.joined == 1 || shown.n != nil {
        findings += passedOver(position..<end, before: shown, session, names)
      }
      pass.position = end
      if let deleted = session.deletions.sessionAt, shown.at <= deleted { pass.vanished = shown }
      return findings + verify(shown, isProof: false, session, names)
    }
    findings += gapInNumbers(shown, pass, session, names)
    if case .unknown = standing { return findings + verify(shown, isProof: false, session, names) }
    findings += verify(shown, isProof: !pass.isDropped, session, names)
    pass.vanished = shown
    pass.position = nil
    return findings
  }

  /// `live` names a place behind the device's: it has everything up to there, it says.
  private func judgeLive(
    _ shown: Shown, _ pass: inout Pass, _ session: SessionHistory, _ names: Names
  ) -> [Finding] {
    guard let position = pass.position, let stream = session.stream else { return [] }
    let end = max(position, stream.upperBound(shown.id))
    pass.position = end
    return passedOver(position..<end, before: shown, session, names)
  }

  private func passedOver(
    _ range: Range<Int>, before shown: Shown, _ session: SessionHistory, _ names: Names
  ) -> [Finding] {
    guard let stream = session.stream else { return [] }
    // The frame may hold them, behind a hole.
    func isHeld(_ item: StreamHistory.Item) -> Bool {
      guard item.response == shown.response, let n = item.n else { return false }
      return shown.range?.contains(n) ?? false
    }
    return stream.items[range].filter { isVisible($0) && !isHeld($0) }.map {
      finding(.lost, session, names, $0, "the device was shown later ones, and not this")
    }
  }

  func isVisible(_ item: StreamHistory.Item) -> Bool { onlyResponse == nil || item.response == onlyResponse }

  /// Whether the stream has issued the id again, for something else.
  private func isOtherHistory(_ shown: Shown, _ item: StreamHistory.Item) -> Bool {
    guard let check = shown.offset.check, let other = item.offset.check else { return false }
    return check != other
  }

  private struct Comparison {
    /// The content is the stream's.
    var isSame = false
    /// The first entry that the frame stands for.
    var start: Int
    /// Some of what it stands for is gone, as it was meant to be.
    var isPartial = false
    var foreign: String?
    var undisclosed: String?
  }

  /// The frame with the entry at `index`, and those before it that it stands for.
  private func compare(
    _ shown: Shown, _ index: Int, _ stream: StreamHistory, _ session: SessionHistory
  ) -> Comparison {
    let item = stream.items[index]
    var comparison = Comparison(start: index)
    if shown.kind == .skipped {
      comparison.isSame = true
      if let bytes = shown.bytes, bytes != item.bytes, !item.isElided {
        comparison.foreign = "`skipped` names \(bytes) bytes, the entry has \(item.bytes)"
      } else if !shown.offset.matches(item.offset) {
        comparison.foreign = "its check is not the entry's"
      }
      return comparison
    }
    // An entry that was too large to be read can't be compared.
    if item.isElided {
      comparison.isSame = true
      return comparison
    }
    guard shown.event == item.event, shown.response == item.response, shown.part == item.part, shown.n == item.n,
      shown.hasMore == item.hasMore, shown.fields == item.fields, shown.joined >= item.joined
    else {
      comparison.foreign = "the stream has another entry there"
      return comparison
    }
    var (count, whole) = (item.joined, item.data)
    while count < shown.joined {
      let next = stream.items[comparison.start]
      let before = stream.items[..<comparison.start].lastIndex(where: isVisible)
      guard let before, joins(stream.items[before], next) else {
        let after = before.map { stream.items[$0].id } ?? .zero
        comparison.isPartial =
          before == nil && (stream.hasRemoved || !session.deletions.isEmpty)
          || session.deletions.hasDeleted(after: after, before: next.id)
        if !comparison.isPartial {
          comparison.isSame = shown.range.map { session.means(shown.response, $0, shown.data) } ?? false
          comparison.undisclosed =
            "it joins \(shown.joined) deltas across a hole, or what must stand alone; adjacent there are \(count)"
        }
        break
      }
      comparison.start = before
      count += stream.items[before].joined
      whole = stream.items[before].data.map { data in
        var data = data
        data.append(whole ?? Digest())
        return data
      }
    }
    if comparison.isPartial {
      comparison.isSame = true
      // What is gone can still be compared with what was meant.
      if let range = shown.range, session.isRecorded(shown.response), !session.means(shown.response, range, shown.data)
      {
        comparison.foreign = "its data is not what its producer meant"
      }
    } else if comparison.undisclosed != nil {
      // It has been compared with what its producer meant.
    } else if count != shown.joined {
      comparison.foreign = "it joins \(shown.joined) deltas, the stream has \(count) there"
    } else if whole != shown.data {
      comparison.foreign = "its data is not the stream's"
    } else {
      comparison.isSame = true
    }
    if comparison.isSame, comparison.foreign == nil, !shown.offset.matches(item.offset) {
      comparison.foreign = "its check is not the entry's"
    }
    return comparison
  }

  /// Whether a gateway may join them (section 4).
  private func joins(_ one: StreamHistory.Item, _ next: StreamHistory.Item) -> Bool {
    guard one.isJoinable, next.isJoinable, one.response == next.response, one.part == next.part else { return false }
    switch (one.n, next.firstN) {
    case (nil, nil): return true
    case (let n?, let first?): return n + 1 == first
    default: return false
    }
  }

  /// Acknowledged numbers between this frame and the one before it of its response, where the stream can't say.
  private func gapInNumbers(
    _ shown: Shown, _ pass: Pass, _ session: SessionHistory, _ names: Names
  ) -> [Finding] {
    guard let response = shown.response, let range = shown.range, let last = pass.numbers[response],
      range.lowerBound > last + 1, session.deletions.isEmpty, let produced = session.producers[response]
    else { return [] }
    return (last + 1..<range.lowerBound).prefix { produced.acknowledgedAt($0) != nil }.map { n in
      var lost = finding(.lost, session, names, shown, "it was acknowledged, and the device was shown later ones")
      (lost.n, lost.offset) = (n, produced.id(of: n).map { Offset(id: $0) })
      return lost
    }
  }

  /// Whether somebody meant what the stream does not have.
  ///
  /// - Parameter isProof: what nobody was recorded to have meant is nobody's.
  private func verify(
    _ shown: Shown, isProof: Bool, _ session: SessionHistory, _ names: Names
  ) -> [Finding] {
    guard shown.kind == .entry else { return [] }
    let foreign = { (detail: String) in [finding(.foreign, session, names, shown, detail)] }
    if session.isForeign(event: names[shown.event], response: shown.response) {
      return foreign("no producer that was recorded meant it")
    }
    guard !session.hasUnrecordedProducers, let response = shown.response, let produced = session.producers[response]
    else {
      let isOrphan = isProof && session.producers.isEmpty
      return isOrphan ? foreign("it is not in the stream, and no producer was recorded") : []
    }
    switch names[shown.event] {
    case "token":
      let isMeant = shown.range.map { produced.means($0, shown.data ?? Digest()) } ?? false
      return isMeant ? [] : foreign("it is not what its producer meant")
    case "end", "error", "cancelled":
      return produced.meansEnd(names[shown.event], shown.data) ? [] : foreign("its producer meant another end")
    default: return []
    }
  }

  // MARK: words

  /// The index behind everything up to this id.
  func index(after id: EntryID) -> Int {
    var (low, high) = (0, kept.count)
    while low < high {
      let middle = (low + high) / 2
      if kept[middle].id <= id { low = middle + 1 } else { high = middle }
    }
    return low
  }

  func finding(
    _ kind: Finding.Kind, _ session: SessionHistory, _ names: Names, _ offset: Offset, response: Name? = nil,
    n: UInt64? = nil, detail: String
  ) -> Finding {
    Finding(
      kind: kind, session: session.name, device: label, offset: offset, response: response.map { names[$0] }, n: n,
      detail: detail)
  }

  func finding(
    _ kind: Finding.Kind, _ session: SessionHistory, _ names: Names, _ shown: Shown, _ detail: String
  ) -> Finding {
    finding(kind, session, names, shown.offset, response: shown.response, n: shown.n, detail: detail)
  }

  func finding(
    _ kind: Finding.Kind, _ session: SessionHistory, _ names: Names, _ item: StreamHistory.Item, _ detail: String
  ) -> Finding {
    finding(kind, session, names, item.offset, response: item.response, n: item.n, detail: detail)
  }
}

extension SessionHistory {
  /// Whether all that was meant of a response was recorded.
  fileprivate func isRecorded(_ response: Name?) -> Bool {
    !hasUnrecordedProducers && response.map { producers[$0] != nil } ?? false
  }

  fileprivate func means(_ response: Name?, _ range: ClosedRange<UInt64>, _ data: Digest?) -> Bool {
    guard let response, let produced = producers[response] else { return false }
    return produced.means(range, data ?? Digest())
  }
}
