import BatonProtocol

/// Whether an attach has been sent all that it asked for (PROTOCOL 3, `until=end` and `response=R`).
///
/// What was open before the attach's place is looked up only once nothing else keeps it: backwards from there, and no
/// further than to a page with a response that is open.
struct EndWatch: Sendable {
  enum Decision {
    /// An end has not been seen, or a response is open.
    case wait
    /// What lies before its place has to be read first; answer with `surveyed`.
    case survey(PageRequest.Span)
    case finish
  }

  /// The one response whose end counts; nil: all.
  private let only: String?
  private var open = OpenResponses()
  private var hasSeenEnd = false
  /// What is retained up to this id has not been looked at; nil: all has.
  private var unknownUpTo: EntryID?

  /// Nil where the attach has no end.
  init?(_ request: AttachRequest, from place: Place) {
    guard request.untilEnd || request.onlyResponse != nil else { return nil }
    only = request.onlyResponse
    unknownUpTo = place.isEntry ? place.offset.id : nil
  }

  var decision: Decision {
    guard open.isEmpty else { return .wait }
    // The one that is waited for may have ended before the place.
    guard hasSeenEnd || only != nil && unknownUpTo != nil else { return .wait }
    if only != nil, hasSeenEnd { return .finish }
    return unknownUpTo.map { .survey(.before($0)) } ?? .finish
  }

  mutating func delivered(_ entry: Entry) {
    if let only, !entry.isOf(only) { return }
    open.note(entry)
    if entry.endsResponse { hasSeenEnd = true }
  }

  /// - Parameter entries: newest first.
  mutating func surveyed(_ entries: Entries, more: Bool) {
    guard let from = unknownUpTo else { return }
    for entry in entries where entry.id <= from {
      if only.map(entry.isOf) ?? true {
        open.note(entry)
        if only != nil, entry.endsResponse { hasSeenEnd = true }
      }
      unknownUpTo = entry.id
    }
    if !more { unknownUpTo = nil }
  }
}
