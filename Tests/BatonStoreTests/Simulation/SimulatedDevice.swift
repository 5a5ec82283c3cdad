@testable import BatonProtocol
@testable import BatonSession

/// A device as it is outside: it keeps its offset over any number of attaches, and what it was told is judged.
final class SimulatedDevice: @unchecked Sendable {
  let number: Int
  let session: SessionName
  /// Nil while it is not attached.
  var node: SimulatedNode?
  var loop = 0
  var cursor: Cursor?
  /// Grows with every attach and detach; answers to earlier ones are dropped.
  var generation = 0
  var takes = true { didSet { if takes, !oldValue { takesSince = now() } } }
  /// Since when it is not slow any more.
  private(set) var takesSince: Int64 = 0
  private let now: () -> Int64
  /// The page that it waits for.
  var pageTicket: UInt64?
  var patience = PagePatience()
  /// When it was last told something, or began to wait.
  var attachedAt: Int64 = 0
  /// A device that is attached for good ends here.
  var isClosed = false

  /// Where it stands: the last entry it holds, or what it was told to begin behind.
  var place: EntryID = .zero
  /// The last entry it holds; nil: none since the start or the last reset.
  var holds: Entry?
  /// The last one before it that nobody has deleted singly.
  var heldBefore: Entry?
  /// It holds nothing and was never told that it has everything.
  var isFresh = true
  var liveAt: Int64 = 0
  /// It has held something or was live, so it comes back with its offset.
  var offset: Offset?
  var sent: Set<Offset> = []
  var wantsReset = false
  var isLive = false
  /// When it was last told that it no longer has everything.
  var fellBehindAt: Int64 = 0
  /// Responses whose leases were over when it came, as the first one on its node.
  var overdue: Set<String> = []
  /// The stream's last id when it asked to attach: live means to have at least that.
  var promised: EntryID = .zero

  /// Attached with `until=end`.
  var untilEnd: Bool { number % 7 == 2 }
  /// Attached with `response=R`.
  var followsOne: Bool { number % 7 == 3 }
  var wanted: String?
  /// Since the attach or the last reset: whether an end was sent that counts, and which responses have begun and ended.
  var sawEnd = false
  var begun: Set<String> = []
  var ended: Set<String> = []
  /// When it asked to attach, or was last reset.
  var anewAt: Int64 = 0

  /// It holds nothing, as if it attached for the first time.
  func forget() {
    offset = nil
    holds = nil
    heldBefore = nil
    isFresh = true
  }

  func noteEnds(_ entry: Entry) {
    guard let response = entry.response else {
      if entry.endsResponse, !followsOne { sawEnd = true }
      return
    }
    if entry.endsResponse {
      ended.insert(response)
      if !followsOne || response == wanted { sawEnd = true }
    } else {
      begun.insert(response)
    }
  }

  /// Attached or reset: what is retained may be open.
  func beginsAnew(_ retained: [Entry]) {
    begun = []
    ended = []
    for entry in retained { noteEnds(entry) }
    sawEnd = false
  }

  /// Live and at the end of the stream, it waits: is there something to wait for?
  func mustHaveFinished(_ retained: [Entry]) -> String? {
    let saw = sawEnd
    for entry in retained { noteEnds(entry) }
    guard saw, untilEnd && begun.isSubset(of: ended) || followsOne else { return nil }
    return "waits, though all it waited for has ended"
  }

  /// What it was told lately.
  var story: [(Int64, String)] = []

  func note(_ words: String, at now: Int64) {
    if story.count > 100 { story.removeFirst(50) }
    story.append((now, words))
  }

  func tell(_ step: Cursor.Step, at now: Int64) {
    switch step {
    case .deliver(let delivery): note("  told \(delivery.entries.map { $0.offset.description })", at: now)
    default: note("  told \(step) on \(node?.number ?? -1)", at: now)
    }
  }

  init(_ number: Int, _ session: SessionName, now: @escaping () -> Int64) {
    (self.number, self.now) = (number, now)
    self.session = session
  }
}
