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
  var resets = 0
  var delivered = 0

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
