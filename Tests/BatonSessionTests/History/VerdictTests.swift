import Testing

@testable import BatonProtocol
@testable import BatonSession

/// The table of PROTOCOL 4 and the proofs before it.
@Suite struct VerdictTests {
  struct Row: CustomTestStringConvertible, Sendable {
    var testDescription: String
    var place: Place
    var evidence: Verdict.Evidence?
    var info: StreamInfo
    var entries: [Entry]
    var verdict: Verdict

    init(
      _ words: String, at place: Place, _ evidence: Verdict.Evidence?, _ info: StreamInfo, _ entries: [Entry],
      _ verdict: Verdict
    ) {
      testDescription = words
      self.place = place
      self.evidence = evidence
      self.info = info
      self.entries = entries
      self.verdict = verdict
    }

    /// For somebody who just came with an offset.
    init(_ words: String, at place: Place, _ info: StreamInfo, _ entries: [Entry], _ verdict: Verdict) {
      self.init(words, at: place, nil, info, entries, verdict)
    }
  }

  /// A stream that holds these, with the ids up to `generated` given out and `added` entries counted.
  static func stream(_ entries: [Entry], generated: UInt64, added: UInt64?) -> StreamInfo {
    StreamInfo(
      exists: true, length: UInt64(entries.count), first: entries.first?.offset, last: entries.last?.place,
      lastGenerated: EntryID(generated, 0), entriesAdded: added, maxDeleted: nil)
  }

  /// On Redis 6, where the first of these tells after which id it came.
  static func stream(_ entries: [Entry], after: EntryID) -> StreamInfo {
    var info = stream(entries, generated: entries.last?.id.milliseconds ?? 0, added: nil)
    info.firstFollows = after
    return info
  }

  static func at(_ id: UInt64, _ data: String) -> Place { entry(id, data).place }
  static func bare(_ id: UInt64) -> Place { Place(offset: Offset(id: EntryID(id, 0))) }
  static let e = (0...9).map { entry(UInt64($0), "\($0)") }
  static let other = entry(5, "other")

  static let rows: [Row] = [
    // the offset's entry
    Row(
      "the check fits", at: at(5, "5"), stream(e[3...7].map(\.self), generated: 7, added: 7), [e[5], e[6]], .overlap),
    Row("no check", at: bare(5), stream(e[3...7].map(\.self), generated: 7, added: 7), [e[5]], .overlap),
    Row(
      "the check does not fit", at: at(5, "5"), stream([e[3], other, e[6]], generated: 6, added: 3), [other, e[6]],
      .reset(.diverged)),
    // no such entry
    Row("the last generated id", at: at(7, "7"), stream(e[3...6].map(\.self), generated: 7, added: 7), [], .proven),
    Row("the last generated id, empty", at: at(7, "7"), stream([], generated: 7, added: 7), [], .proven),
    Row("beyond", at: at(8, "8"), stream(e[3...7].map(\.self), generated: 7, added: 7), [], .reset(.ahead)),
    Row("beyond, empty", at: at(8, "8"), stream([], generated: 7, added: 7), [], .reset(.ahead)),
    Row(
      "before the first", at: at(2, "2"), stream(e[3...7].map(\.self), generated: 7, added: 7), [e[3]], .reset(.trimmed)
    ),
    Row("empty", at: at(2, "2"), stream([], generated: 7, added: 7), [], .reset(.trimmed)),
    Row("inside", at: at(5, "5"), stream([e[3], e[6]], generated: 6, added: 6), [e[6]], .reset(.diverged)),
    // no stream
    Row("no stream, at the start", at: .zero, .absent, [], .wait),
    Row("no stream, waited at the start", at: .zero, .init(existed: false, added: 0), .absent, [], .wait),
    Row("no stream, after an offset", at: at(5, "5"), .absent, [], .reset(.deleted)),
    Row("the empty stream disappears", at: .zero, .init(existed: true, added: 0), .absent, [], .reset(.deleted)),
    Row("the stream disappears", at: at(5, "5"), .init(existed: true, added: 5), .absent, [], .reset(.deleted)),
    // the start
    Row("a new device", at: .zero, stream(e[3...5].map(\.self), generated: 5, added: 5), [e[3]], .proven),
    Row(
      "the first entries", at: .zero, .init(existed: false, added: 0), stream([e[1], e[2]], generated: 2, added: 2),
      [e[1], e[2]], .proven),
    Row(
      "the first entries, one trimmed", at: .zero, .init(existed: false, added: 0),
      stream([e[2]], generated: 2, added: 2), [e[2]], .reset(.trimmed)),
    Row(
      "the first entry on Redis 6", at: .zero, .init(existed: false, added: 0),
      stream([e[1]], generated: 1, added: nil), [e[1]], .reset(.trimmed)),
    Row(
      "created and empty", at: .zero, .init(existed: false, added: 0), stream([], generated: 0, added: 0), [], .proven),
    Row(
      "created and empty, Redis 6", at: .zero, .init(existed: false, added: nil), stream([], generated: 0, added: nil),
      [], .wait),
    Row(
      "came and went", at: .zero, .init(existed: false, added: 0), stream([], generated: 2, added: 2), [],
      .reset(.trimmed)),
    // what the first entry tells where nothing is counted
    Row(
      "the first entry on Redis 6 says that it is", at: .zero, .init(existed: false, added: 0),
      stream([e[1], e[2]], after: .zero), [e[1], e[2]], .proven),
    Row(
      "the first entry on Redis 6 came after others", at: .zero, .init(existed: false, added: 0),
      stream([e[3]], after: EntryID(2, 0)), [e[3]], .reset(.trimmed)),
    Row(
      "found empty on Redis 6, and the next one says so", at: Place(emptyUpTo: EntryID(5, 0)),
      .init(existed: true, added: nil), stream([e[6]], after: EntryID(5, 0)), [e[6]], .proven),
    Row(
      "found empty on Redis 6, and others came and went", at: Place(emptyUpTo: EntryID(5, 0)),
      .init(existed: true, added: nil), stream([e[7]], after: EntryID(6, 0)), [e[7]], .reset(.trimmed)),
    Row(
      "what it says is nothing to who was not there", at: bare(5), stream([e[6]], after: EntryID(5, 0)), [e[6]],
      .reset(.trimmed)),
    // numbers prove nothing: an entry that has none, or another response's, may have come and gone between them
    Row(
      "the next number, its own trimmed", at: delta(5, "r", 5).place,
      stream([delta(6, "r", 6)], generated: 6, added: 99), [delta(6, "r", 6)], .reset(.trimmed)),
    Row(
      "the next number behind entries that were rolled back", at: delta(5, "r", 5).place,
      stream([delta(2, "r", 2), delta(6, "r", 6)], generated: 6, added: nil), [delta(6, "r", 6)], .reset(.diverged)),
    // where the stream was found empty
    Row(
      "found empty, and an entry came", at: Place(emptyUpTo: EntryID(5, 0)), .init(existed: true, added: 5),
      stream([e[6]], generated: 6, added: 6), [e[6]], .proven),
    Row(
      "found empty, and two came", at: Place(emptyUpTo: EntryID(5, 0)), .init(existed: true, added: 5),
      stream([e[6]], generated: 6, added: 7), [e[6]], .reset(.trimmed)),
    Row(
      "found empty, and its last id is an entry's again", at: Place(emptyUpTo: EntryID(5, 0)),
      .init(existed: true, added: 5), stream([e[5]], generated: 5, added: 5), [e[5]], .reset(.diverged)),
    // proof by count
    Row(
      "all since are retained", at: at(5, "5"), .init(existed: true, added: 40),
      stream([e[6], e[7]], generated: 7, added: 42),
      [e[6], e[7]], .proven),
    Row(
      "one since is gone", at: at(5, "5"), .init(existed: true, added: 40),
      stream([e[6], e[7]], generated: 7, added: 43),
      [e[6], e[7]], .reset(.trimmed)),
    Row(
      "fewer were added than before", at: at(5, "5"), .init(existed: true, added: 40),
      stream([e[6]], generated: 6, added: 1),
      [e[6]], .reset(.diverged)),
    Row(
      "fewer were added than before, the same last id", at: at(5, "5"), .init(existed: true, added: 40),
      stream([], generated: 5, added: 3), [], .reset(.diverged)),
    Row(
      "fewer were added than before, nothing retained at the place", at: Place(emptyUpTo: EntryID(5, 0)),
      .init(existed: true, added: 40), stream([], generated: 5, added: 3), [], .reset(.diverged)),
    Row(
      "an older one is retained too", at: at(5, "5"), .init(existed: true, added: 40),
      stream([e[4], e[6]], generated: 6, added: 42), [e[6]], .reset(.diverged)),
    Row(
      "not counted before", at: at(5, "5"), .init(existed: true, added: nil), stream([e[6]], generated: 6, added: 41),
      [e[6]], .reset(.trimmed)),
    Row(
      "not counted now", at: at(5, "5"), .init(existed: true, added: 40), stream([e[6]], generated: 6, added: nil),
      [e[6]],
      .reset(.trimmed)),
    Row(
      "the count does not excuse another check", at: at(5, "5"), .init(existed: true, added: 40),
      stream([other], generated: 5, added: 41), [other], .reset(.diverged)),
    Row(
      "all trimmed, nothing new", at: at(5, "5"), .init(existed: true, added: 40), stream([], generated: 5, added: 40),
      [],
      .proven),
    Row(
      "all trimmed, unseen ones too", at: at(5, "5"), .init(existed: true, added: 40),
      stream([], generated: 7, added: 42), [],
      .reset(.trimmed)),
  ]

  @Test(arguments: rows)
  func decides(_ row: Row) {
    #expect(Verdict.of(row.place, evidence: row.evidence, info: row.info, entries: Entries(row.entries)) == row.verdict)
  }
}
