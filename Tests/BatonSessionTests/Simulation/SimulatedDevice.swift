@testable import BatonProtocol
@testable import BatonSession

/// A device as it is outside: it keeps its offset over any number of attaches, and what it was told is judged.
final class SimulatedDevice {
  let number: Int
  let session: SessionName
  /// Nil while it is not attached.
  var node: SimulatedNode?
  var loop = 0
  var cursor: Cursor?
  /// Grows with every attach and detach; answers to earlier ones are dropped.
  var generation = 0
  var takes = true
  /// A device that is attached for good ends here.
  var isClosed = false

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
  func beginsAnew(_ stream: ModelRedis.Stream?) {
    begun = []
    ended = []
    for written in stream?.entries ?? [] { noteEnds(written.entry) }
    sawEnd = false
  }

  /// Live and at the end of the stream, it waits: is there something to wait for?
  func mustHaveFinished(_ stream: ModelRedis.Stream?) -> String? {
    let saw = sawEnd
    for written in stream?.entries ?? [] { noteEnds(written.entry) }
    guard saw, untilEnd && begun.isSubset(of: ended) || followsOne else { return nil }
    return "waits, though all it waited for has ended"
  }

  /// What it was told lately.
  var story: [(Int64, String)] = []

  func tell(_ step: Cursor.Step, at now: Int64) {
    if story.count > 100 { story.removeFirst(50) }
    switch step {
    case .deliver(let delivery):
      story.append((now, "  told \(delivery.entries.map { $0.offset.description })"))
    default: story.append((now, "  told \(step) on \(node?.number ?? -1)"))
    }
  }

  init(_ number: Int, _ session: SessionName) {
    self.number = number
    self.session = session
  }
}

final class SimulatedRoom {
  let session: SessionName
  let loop: Int
  var log = SessionLog()
  var devices: [SimulatedDevice] = []
  var lane = Lane()

  init(_ session: SessionName, _ loop: Int) {
    self.session = session
    self.loop = loop
  }
}

/// A gateway: one tail, one queue of history reads, two event loops with a room for each session that has devices there.
final class SimulatedNode {
  let number: Int
  var tail: Tail
  var pages = PageQueue<(SimulatedDevice, Int)>()
  var rooms: [SessionName: [SimulatedRoom]] = [:]
  var isAlive = true
  var tickets: UInt64 = 0
  var isConnected = false
  var tailLane = Lane()
  var noticeLane = Lane()
  var pageLane = Lane()
  var armed: Set<SessionName> = []

  init(_ number: Int, _ configuration: Tail.Configuration) {
    self.number = number
    tail = Tail(configuration)
  }
}
