import BatonProtocol

/// What the stream's state means for somebody who stands at a place.
package enum Verdict: Sendable, Equatable {
  /// The entry itself came back: what follows it in the read follows it in the stream.
  case overlap
  /// There is no entry to prove the place by, and still nothing was missed: all that the read brought comes after it.
  case proven
  /// There is no stream, and none was promised.
  case wait
  case reset(ResetReason)

  /// What was seen at a place when it was last looked at, by the same observer.
  package struct Evidence: Sendable, Equatable {
    package var existed: Bool
    /// `entries-added` when the stream ended at the place.
    package var added: UInt64?

    package init(existed: Bool, added: UInt64?) {
      self.existed = existed
      self.added = added
    }
  }

  /// The table of PROTOCOL 4 and the proofs before it.
  ///
  /// - Parameters:
  ///   - place: the last entry that was seen, or the start.
  ///   - evidence: what an attached observer saw there; nil for somebody who just came with an offset.
  ///   - info: from the same MULTI as the read.
  ///   - entries: a read that includes `place`'s entry, if it is still there.
  package static func of(
    _ place: Place, evidence: Evidence?, info: StreamInfo, entries: Entries
  ) -> Verdict {
    of(place, evidence: evidence, info: info, found: entries.first { $0.id >= place.offset.id }?.offset)
  }

  /// - Parameter found: the first entry that the read brought at the place's id or behind it.
  package static func of(_ place: Place, evidence: Evidence?, info: StreamInfo, found: Offset?) -> Verdict {
    let offset = place.offset
    guard info.exists else {
      let had = evidence?.existed ?? false
      return offset == .zero && !had ? .wait : .reset(.deleted)
    }
    if offset == .zero, evidence == nil { return .proven }
    if offset != .zero, let found, found.id == offset.id {
      return place.isEntry && found.matches(offset) ? .overlap : .reset(.diverged)
    }
    if let evidence, info.firstFollows == offset.id || provesCount(offset, evidence, info) { return .proven }
    if offset.id > info.lastGenerated { return .reset(.ahead) }
    if let now = info.entriesAdded, let then = evidence?.added, now < then { return .reset(.diverged) }
    if offset.id == info.lastGenerated { return offset == .zero ? .wait : .proven }
    guard let first = info.first, first.id < offset.id else { return .reset(.trimmed) }
    return .reset(.diverged)
  }

  /// All retained entries lie after the place, none that did was deleted, and as many were added as are retained.
  private static func provesCount(_ offset: Offset, _ evidence: Evidence, _ info: StreamInfo) -> Bool {
    if let first = info.first, first.id <= offset.id { return false }
    if let deleted = info.maxDeleted, deleted > offset.id { return false }
    guard let now = info.entriesAdded, let then = evidence.added, now >= then else { return false }
    return now - then == info.length
  }
}
