import BatonProtocol

/// What `XINFO STREAM` says of a session's stream at one moment.
package struct StreamInfo: Sendable, Equatable {
  /// False: there is no such key.
  package var exists: Bool
  /// Retained entries.
  package var length: UInt64
  package var first: Offset?
  package var last: Place?
  package var lastGenerated: EntryID
  /// How many entries were ever added; nil before Redis 7.
  package var entriesAdded: UInt64?
  /// The greatest id that XDEL removed (XTRIM does not count); nil before Redis 7.
  package var maxDeleted: EntryID?
  /// The last id that had been generated when the first retained entry was added, as far as that entry tells (`_after`);
  /// nil from Redis 7 on, where entries are counted.
  package var firstFollows: EntryID?

  package static let absent = StreamInfo(
    exists: false, length: 0, first: nil, last: nil, lastGenerated: .zero, entriesAdded: nil, maxDeleted: nil)

  package init(
    exists: Bool, length: UInt64, first: Offset?, last: Place?, lastGenerated: EntryID, entriesAdded: UInt64?,
    maxDeleted: EntryID?, firstFollows: EntryID? = nil
  ) {
    self.exists = exists
    self.length = length
    self.first = first
    self.last = last
    self.lastGenerated = lastGenerated
    self.entriesAdded = entriesAdded
    self.maxDeleted = maxDeleted
    self.firstFollows = firstFollows
  }

  /// Where somebody stands who has all that is retained.
  package var end: Place { last ?? Place(emptyUpTo: lastGenerated) }

  /// Where somebody stands who is to have all that is retained: where nothing is, behind the last generated id.
  package var start: Place { last == nil ? end : .zero }
}

extension Reset {
  package init(_ reason: ResetReason, requested: Offset, _ info: StreamInfo) {
    self.init(reason, requested: requested, first: info.first, last: info.last?.offset)
  }
}
