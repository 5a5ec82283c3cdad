import Collections

/// What happens when, in virtual milliseconds; what falls on the same moment happens in the order in which it was planned.
struct Schedule {
  private struct Planned: Comparable {
    let time: Int64
    let order: Int
    let happen: () -> Void

    static func < (a: Planned, b: Planned) -> Bool { (a.time, a.order) < (b.time, b.order) }
    static func == (a: Planned, b: Planned) -> Bool { a.order == b.order }
  }

  private(set) var now: Int64 = 1
  private(set) var steps = 0
  private var heap = Heap<Planned>()

  mutating func at(_ time: Int64, _ happen: @escaping () -> Void) {
    steps += 1
    heap.insert(Planned(time: max(time, now), order: steps, happen: happen))
  }

  /// The next thing to happen before `deadline`; nil when there is none.
  mutating func next(before deadline: Int64) -> (() -> Void)? {
    guard let first = heap.min, first.time < deadline else { return nil }
    _ = heap.popMin()
    now = first.time
    return first.happen
  }
}

/// A connection keeps what is sent over it in order.
struct Lane {
  private var last: Int64 = 0
  var generation = 0

  mutating func arrival(_ time: Int64) -> Int64 {
    last = max(last, time)
    return last
  }
}
