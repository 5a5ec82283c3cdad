import BatonProtocol

/// What the tail asks Redis for, for one session.
package struct TailRead: Sendable, Equatable {
  package var session: SessionName
  /// `XREAD` from here: the entry that is known comes back first.
  package var after: EntryID
  package var count: Int
  /// Whether `XINFO STREAM` goes with it in one MULTI.
  package var look: Bool
  /// Whether one `XREAD` may ask for it with others of the round that are shared: all have the same `count`.
  package var isShared = false

  package init(session: SessionName, after: EntryID, count: Int, look: Bool, isShared: Bool = false) {
    (self.session, self.after, self.count, self.look, self.isShared) = (session, after, count, look, isShared)
  }

  /// The id right behind `after`: an entry there is the one that is known.
  package var overlap: EntryID? {
    if after == .zero { return nil }
    if after.sequence == .max { return EntryID(after.milliseconds &+ 1, 0) }
    return EntryID(after.milliseconds, after.sequence + 1)
  }
}

/// What came of one `TailRead`.
package enum TailOutcome: Sendable {
  /// `overlap`: the entry that was known, where it came back; `more`: the reply was cut at the read's count or at its
  /// bytes.
  case entries(overlap: Offset?, Entries, info: StreamInfo?, more: Bool)
  case wrongType
  /// It was refused in this form: read again.
  case again
  /// It was refused with others that it shared a command with: read again, by itself.
  case apart
  /// This one read was refused: it is this session's trouble alone.
  case failed
  /// Redis answers nobody for now.
  case shut
}
