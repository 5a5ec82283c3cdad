import BatonProtocol

/// What the tail asks Redis for, for one session.
package struct TailRead: Sendable, Equatable {
  package var session: SessionName
  /// `XREAD` from here: the entry that is known comes back first.
  package var after: EntryID
  package var count: Int
  /// Whether `XINFO STREAM` goes with it in one MULTI.
  package var look: Bool
}

/// What came of one `TailRead`.
package enum TailOutcome: Sendable {
  /// `more`: the reply was cut at the read's count or at its bytes.
  case entries([Entry], info: StreamInfo?, more: Bool)
  case wrongType
  /// It was refused in this form: read again.
  case again
  /// This one read was refused: it is this session's trouble alone.
  case failed
  /// Redis answers nobody for now.
  case shut
}
