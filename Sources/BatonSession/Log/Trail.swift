import BatonProtocol
import Collections

/// The ends of the frames that a device was sent lately: where it can go back to after a reset.
struct Trail: Sendable {
  /// Frames that are remembered at the most.
  static let maxFrames = 256

  /// Where the device began.
  let start: Place
  private var ends: Deque<Offset> = []

  init(from start: Place) {
    self.start = start
  }

  mutating func delivered(_ delivery: Delivery) {
    EntryFrames.frames(delivery.entries, joined: delivery.joined) { frame in
      if ends.count == Trail.maxFrames { ends.removeFirst() }
      ends.append(frame.offset)
    }
  }

  /// Whether it is the end of a frame that was sent: a device can only drop whole frames after it.
  func holds(_ offset: Offset) -> Bool { ends.contains(offset) }

  /// Finds the newest place that still holds, out of these, `place` and the start.
  func locator(from place: Place) -> Locator {
    var candidates: [EntryID: Offset] = [:]
    for place in [start, place] where place.isEntry { candidates[place.offset.id] = place.offset }
    for end in ends { candidates[end.id] = end }
    return Locator(
      .anyOf(candidates, floor: start.offset.id), from: place.offset.id, pageLimit: Cursor.pageLimit)
  }
}
