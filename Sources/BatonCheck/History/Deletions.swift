import BatonProtocol

/// What was deleted on purpose.
struct Deletions {
  private(set) var trimmedBefore: EntryID?
  private var trimmedAt: Int64?
  private var ids: Set<EntryID> = []
  /// When the whole session was deleted, last.
  private(set) var sessionAt: Int64?

  var isEmpty: Bool { trimmedBefore == nil && ids.isEmpty && sessionAt == nil }

  mutating func trimmed(before id: EntryID, at: Int64) {
    trimmedBefore = max(trimmedBefore ?? .zero, id)
    trimmedAt = max(trimmedAt ?? .min, at)
  }

  mutating func deleted(_ ids: [EntryID]) { self.ids.formUnion(ids) }

  mutating func deletedSession(at: Int64) { sessionAt = max(sessionAt ?? .min, at) }

  /// Whether an entry that was there at this time may be gone.
  func covers(_ id: EntryID, at: Int64) -> Bool {
    ids.contains(id) || id < trimmedBefore ?? .zero || at <= sessionAt ?? .min
  }

  /// Whether something that was acknowledged at this time may be gone with what was before its response's first entry that
  /// is left.
  func coversBeginning(_ id: EntryID?, at: Int64) -> Bool {
    if at <= sessionAt ?? .min { return true }
    guard let trimmedBefore, let trimmedAt else { return false }
    return id.map { $0 < trimmedBefore } ?? (at <= trimmedAt)
  }

  func isDeleted(_ id: EntryID) -> Bool { ids.contains(id) }

  /// Whether a single entry between two places was deleted.
  func hasDeleted(after: EntryID, before: EntryID) -> Bool { ids.contains { $0 > after && $0 < before } }
}
