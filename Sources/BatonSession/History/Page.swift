import BatonProtocol

/// One bounded read of a session's history, shared by all who ask for the same at the same time.
package struct PageRequest: Sendable, Hashable {
  package enum Span: Sendable, Hashable {
    /// The entry at this id first, if it is there, then up to `limit` entries after it. `0-0`: from the first.
    case after(EntryID)
    /// The entry at this id first, if it is there, then up to `limit` entries before it, newest first. Nil: from the last.
    case before(EntryID?)
  }

  package var session: SessionName
  package var span: Span
  /// Entries at the most, beside the one that is asked after.
  package var limit: Int
  /// Whether `XINFO STREAM` is wanted from the same MULTI.
  package var look: Bool

  package init(session: SessionName, span: Span, limit: Int, look: Bool) {
    self.session = session
    self.span = span
    self.limit = limit
    self.look = look
  }

  /// COUNT of the XRANGE or XREVRANGE.
  package var count: Int {
    switch span {
    case .after(.zero), .before(nil): max(limit, 1)
    default: limit + 1
    }
  }
}

package struct Page: Sendable {
  /// Nil where no look was asked for.
  package var info: StreamInfo?
  /// The entries, in the order in which they were read.
  package let segment: Segment
  /// False where the read came to the end of the stream.
  package var more: Bool

  package var entries: Entries { segment.entries }

  package init(info: StreamInfo?, entries: Entries, more: Bool, charge: MemoryCharge? = nil) {
    self.info = info
    self.segment = Segment(entries, charge: charge)
    self.more = more
  }
}

/// How a page read ended.
package enum PageOutcome: Sendable {
  indirect case page(Page)
  case wrongType
  /// The store did not answer; ask again when it is back.
  case unavailable
  /// The store refuses to read it, in these words.
  case refused(String)
}
