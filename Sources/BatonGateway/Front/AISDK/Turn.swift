import BatonProtocol
import BatonRelay
import BatonSession
import BatonStore

/// The newest message of a session: a response, or several that follow each other under one `messageId`.
struct Turn: Sendable, Equatable {
  /// Oldest first; at least one.
  let responses: [String]
  /// Before its first entry.
  let place: Offset
  /// Nil while its last response is open.
  let ended: EntryID?
}

/// Looks for the newest turn from the stream's end backwards.
struct TurnSearch {
  private struct Seen {
    let name: String
    /// The entry before the oldest one that was seen; nil before there was one.
    var before: Offset?
    var hasBegun = false
    var ended: EntryID?
    /// The message's id as the response's start has it, and as its first event has it.
    var named: String?
    var told: String?

    var messageID: String { told ?? named ?? name }
    var isNamed: Bool { messageID != name }
  }

  private var seen: [String: Seen] = [:]
  /// Newest first: by their beginnings, and by their last entries.
  private var begun: [String] = []
  private var recent: [String] = []
  private var previous: String?
  private var isComplete = false

  /// The next older entry.
  mutating func take(_ entry: Entry) {
    if let previous, seen[previous]?.before == nil { seen[previous]?.before = entry.offset }
    previous = entry.response
    guard let name = entry.response else { return }
    var response = seen[name] ?? Seen(name: name)
    if seen[name] == nil { recent.append(name) }
    response.before = nil
    if entry.endsResponse { response.ended = entry.id }
    let isStart = entry.event == "start"
    if isStart { response.named = UIMessageWire.messageID(of: entry) }
    if entry.event == UIMessageCodec.event, entry.n ?? 1 == 1 {
      response.told = UIMessageWire.messageID(of: entry) ?? response.told
    }
    if isStart || entry.n.map({ $0 == entry.joined }) ?? false, !response.hasBegun {
      response.hasBegun = true
      begun.append(name)
    }
    seen[name] = response
  }

  /// There is no older entry.
  mutating func end() {
    isComplete = true
    for name in recent {
      if seen[name]?.before == nil { seen[name]?.before = .zero }
      if seen[name]?.hasBegun == false {
        seen[name]?.hasBegun = true
        begun.append(name)
      }
    }
  }

  /// The response that was begun last; nil while that is not known.
  var newest: String? { begun.first }

  func isOpen(_ name: String) -> Bool { seen[name]?.ended == nil }

  /// Others that no end was seen of.
  var open: [String] { recent.filter { $0 != newest && isOpen($0) } }

  /// The turn whose last response this is; nil while more is to be seen for that.
  func turn(of name: String) -> Turn? {
    guard let last = seen[name], last.hasBegun, let before = last.before else { return nil }
    var (responses, place) = ([name], before)
    let earlier = begun.drop { $0 != name }.dropFirst().lazy.compactMap { seen[$0] }
    if last.isNamed {
      for response in earlier {
        guard let before = response.before else { return nil }
        guard response.messageID == last.messageID else {
          return Turn(responses: responses, place: place, ended: last.ended)
        }
        responses.insert(response.name, at: 0)
        place = before
      }
      guard isComplete else { return nil }
    }
    return Turn(responses: responses, place: place, ended: last.ended)
  }
}

extension Routes {
  /// Entries of a page that is looked through, and pages of a search.
  private static let pageEntries = 1000
  private static let maxPages = 128

  /// Nil where the session has no response.
  func newestTurn(of session: SessionName) async throws -> Turn? {
    var search = TurnSearch()
    var before: EntryID?
    var alive: String?
    var looked: Set<String> = []
    for page in 1...Self.maxPages {
      let (entries, hasMore) = try await store.entries(of: session, before: before, limit: Self.pageEntries)
      for entry in entries { search.take(entry) }
      if !hasMore || entries.isEmpty || page == Self.maxPages { search.end() }
      before = entries.last?.id ?? before
      guard let newest = search.newest else {
        if !hasMore || entries.isEmpty { return nil }
        continue
      }
      // One that was begun before it, and is still produced. What nobody produces may lack an end for ever.
      if alive == nil, !search.isOpen(newest) {
        for name in search.open where looked.insert(name).inserted {
          if try await store.response(name, in: session)?.state == .open { alive = name }
        }
      }
      if let turn = search.turn(of: alive ?? newest) { return turn }
    }
    return nil
  }
}
