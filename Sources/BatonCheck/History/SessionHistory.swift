import BatonProtocol

/// All that is known of one session but its devices: what was meant, what the stream held, what was deleted.
struct SessionHistory {
  let name: String
  /// Among its tenant's.
  let ownName: String
  private(set) var stream: StreamHistory?
  private(set) var producers: [Name: ProducedResponse] = [:]
  var deletions = Deletions()
  /// Other producers wrote, too.
  let hasUnrecordedProducers: Bool
  /// Found while the stream was taken in; told with what ``judge(_:)`` finds.
  private var misplaced: [Finding] = []

  init(name: String, hasUnrecordedProducers: Bool) {
    (self.name, self.hasUnrecordedProducers) = (name, hasUnrecordedProducers)
    ownName = SessionName(qualified: name)?.description ?? name
  }

  // MARK: what was recorded

  /// Of several recordings of a stream the last one counts.
  mutating func streamBegan(at: Int64) -> Bool {
    if let stream, stream.at > at { return false }
    (stream, misplaced) = (StreamHistory(at: at), [])
    return true
  }

  mutating func producerBegan(_ response: Name) {
    producers[response] = producers[response] ?? ProducedResponse()
  }

  mutating func happened(_ event: RecordingEvent, at: Int64, response: Name?, names: inout Names) {
    switch event {
    case .opened, .delta, .end, .acknowledged: response.map { producers[$0]?.happened(event, at: at) }
    case .info(let facts): stream?.hasRemoved = facts.entriesAdded.map { $0 > facts.length } ?? true
    case .entry(let entry): took(entry, &names)
    case .whole: stream?.isWhole = true
    case .trimmed(let id): deletions.trimmed(before: id, at: at)
    case .deleted(let ids): deletions.deleted(ids)
    case .deletedSession: deletions.deletedSession(at: at)
    case .connecting, .frame, .lost, .finished, .closed, .rejected: break
    }
  }

  private mutating func took(_ entry: StreamEntry, _ names: inout Names) {
    let shown = entry.shown
    let item = StreamHistory.Item(
      offset: shown.offset, event: names.number(shown.event), response: shown.response.map { names.number($0) },
      part: shown.part.map { names.number($0) }, n: shown.n, joined: shown.joined, hasMore: shown.hasMore,
      data: shown.data, fields: shown.fields, bytes: entry.bytes, isElided: entry.isElided, isJoinable: entry.isJoinable
    )
    guard let kind = stream?.append(item) else { return }
    misplaced.append(
      finding(kind, item, names, kind == .doubled ? "the recording has it twice" : "it comes after a later one"))
  }

  mutating func sort() {
    for response in producers.keys { producers[response]?.sort() }
  }

  // MARK: the judgement of the stream

  /// What is wrong with the stream by itself, and against what producers meant.
  func judge(_ names: Names) -> [Finding] {
    guard let stream else { return [] }
    var findings = misplaced
    var responses: [Name: Written] = [:]
    for item in stream.items {
      guard !item.isElided, let response = item.response, let produced = producers[response] else {
        if isForeign(item, names) {
          findings.append(finding(.foreign, item, names, "no producer that was recorded meant it"))
        }
        continue
      }
      var written = responses[response, default: Written()]
      if let n = item.n, let first = item.firstN {
        if let kind = written.took(first...n, item.id) {
          findings.append(
            finding(
              kind, item, names, kind == .doubled ? "its deltas are there already" : "later deltas come before it"))
        }
        if names[item.event] == "token", !hasUnrecordedProducers, !produced.means(first...n, item.data ?? Digest()) {
          findings.append(finding(.foreign, item, names, "it is not what its producer meant"))
        }
      } else if ["end", "error", "cancelled"].contains(names[item.event]) {
        if !written.ends.isEmpty { findings.append(finding(.doubled, item, names, "the response has ended before")) }
        written.ends.insert(names[item.event])
        if !hasUnrecordedProducers, !produced.meansEnd(names[item.event], item.data) {
          findings.append(finding(.foreign, item, names, "it is not the end that its producer meant"))
        }
      } else if names[item.event] == "token" {
        if !hasUnrecordedProducers { findings.append(finding(.foreign, item, names, "it has no number")) }
      } else {
        written.hasStart = true
      }
      responses[response] = written
    }
    for (response, produced) in producers.sorted(by: { $0.key < $1.key }) {
      findings += lost(of: names[response], produced, responses[response] ?? Written(), stream)
    }
    return findings
  }

  /// How one response stands in the stream.
  private struct Written {
    var last: UInt64 = 0
    /// Numbers that were passed over, with the ids around them.
    var holes: [(range: ClosedRange<UInt64>, after: EntryID, before: EntryID)] = []
    var lastID = EntryID.zero
    var hasStart = false
    var ends: Set<String> = []
    /// No delta is left, nor what came before them.
    var isGone: Bool { last == 0 && !hasStart }

    mutating func took(_ range: ClosedRange<UInt64>, _ id: EntryID) -> Finding.Kind? {
      defer { lastID = id }
      if range.lowerBound > last {
        if range.lowerBound > last + 1 { holes.append((last + 1...range.lowerBound - 1, lastID, id)) }
        last = range.upperBound
        return nil
      }
      last = max(last, range.upperBound)
      guard
        let index = holes.firstIndex(where: {
          $0.range.lowerBound <= range.lowerBound && range.upperBound <= $0.range.upperBound
        })
      else { return .doubled }
      let hole = holes.remove(at: index)
      if hole.range.upperBound > range.upperBound {
        holes.insert((range.upperBound + 1...hole.range.upperBound, hole.after, hole.before), at: index)
      }
      if hole.range.lowerBound < range.lowerBound {
        holes.insert((hole.range.lowerBound...range.lowerBound - 1, hole.after, hole.before), at: index)
      }
      return .reordered
    }
  }

  /// Numbers in a row that are told one by one.
  private static let lostLimit = 100_000

  private func lost(
    of response: String, _ produced: ProducedResponse, _ written: Written, _ stream: StreamHistory
  ) -> [Finding] {
    var findings: [Finding] = []
    func lost(_ n: UInt64?, _ id: EntryID?, _ detail: String) {
      findings.append(
        Finding(
          kind: .lost, session: name, offset: id.map { Offset(id: $0) }, response: response, n: n, detail: detail))
    }
    func judge(_ range: ClosedRange<UInt64>, _ isExcused: (UInt64, Int64) -> Bool) {
      for n in range.prefix(Self.lostLimit) {
        guard let at = produced.acknowledgedAt(n) else { break }
        if !isExcused(n, at) { lost(n, produced.id(of: n), "it was acknowledged and is not in the stream") }
      }
    }
    let elided = stream.items.filter(\.isElided).map(\.id)
    for hole in written.holes {
      let isBeginning = hole.range.lowerBound == 1 && !written.hasStart
      if elided.contains(where: { $0 > hole.after && $0 < hole.before }) { continue }
      if deletions.hasDeleted(after: hole.after, before: hole.before) { continue }
      judge(hole.range) { n, at in isBeginning && deletions.coversBeginning(produced.id(of: n), at: at) }
    }
    guard stream.isWhole else { return findings }
    if produced.acknowledgedThrough > written.last {
      judge(written.last + 1...produced.acknowledgedThrough) { n, at in
        written.isGone && deletions.coversBeginning(produced.id(of: n), at: at)
          || deletions.hasDeleted(after: written.lastID, before: EntryID(.max, .max))
      }
    }
    if let end = produced.acknowledgedEnd, !written.ends.contains(end.event) {
      let isExcused =
        end.id.map { deletions.covers($0, at: end.at) }
        ?? (written.isGone && deletions.coversBeginning(nil, at: end.at))
      if !isExcused { lost(nil, end.id, "the response's end was acknowledged and is not in the stream") }
    }
    return findings
  }

  /// Whether it is something that only a producer writes, where all producers were recorded.
  private func isForeign(_ item: StreamHistory.Item, _ names: Names) -> Bool {
    !item.isElided && isForeign(event: names[item.event], response: item.response)
  }

  /// Whether an entry of this kind must be some recorded producer's, and can't be.
  func isForeign(event: String, response: Name?) -> Bool {
    guard !producers.isEmpty, !hasUnrecordedProducers else { return false }
    guard let response else { return event == "token" }
    return producers[response] == nil && ["token", "start", "end", "error", "cancelled"].contains(event)
  }

  private func finding(_ kind: Finding.Kind, _ item: StreamHistory.Item, _ names: Names, _ detail: String) -> Finding {
    Finding(
      kind: kind, session: name, offset: item.offset, response: item.response.map { names[$0] }, n: item.n,
      detail: detail)
  }
}
