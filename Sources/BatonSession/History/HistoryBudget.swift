import Atomics

/// Bytes of history that the node holds: from a reply until the last device has written what came of it.
package final class HistoryBudget: Sendable {
  package let limit: Int
  private let count = ManagedAtomic(0)
  private let shortReaders = ManagedAtomic(0)
  private let isBeyond = ManagedAtomic(false)

  package init(limit: Int) { self.limit = limit }

  package var used: Int { count.load(ordering: .relaxed) }

  /// Whether so many bytes more would fit. Something always fits into an empty budget.
  package func fits(_ bytes: Int) -> Bool { used == 0 || used + bytes <= limit }

  /// Somebody has waited for a while because nothing fits: who holds bytes and writes none of them is to let go.
  package var isShort: Bool { shortReaders.load(ordering: .relaxed) > 0 }

  /// One of those who read for it waits from now on, or no longer.
  package func readerWaits(_ waits: Bool) { shortReaders.wrappingIncrement(by: waits ? 1 : -1, ordering: .relaxed) }

  package func charge(_ bytes: Int) -> MemoryCharge { MemoryCharge(self, bytes) }

  /// Room for bytes that are to be made of what is charged already; nil where there is none now. One at a time goes
  /// beyond the limit: those who hold entries and wait for room would wait for each other.
  package func reserve(_ bytes: Int) -> MemoryCharge? {
    var known = used
    while known + bytes <= limit {
      let (exchanged, original) = count.compareExchange(expected: known, desired: known + bytes, ordering: .relaxed)
      if exchanged { return MemoryCharge(reserved: bytes, of: self) }
      known = original
    }
    guard isBeyond.compareExchange(expected: false, desired: true, ordering: .relaxed).exchanged else { return nil }
    add(bytes)
    return MemoryCharge(reserved: bytes, of: self, isBeyond: true)
  }

  fileprivate func add(_ bytes: Int) { count.wrappingIncrement(by: bytes, ordering: .relaxed) }

  fileprivate func release(_ bytes: Int, wasBeyond: Bool) {
    add(-bytes)
    if wasBeyond { isBeyond.store(false, ordering: .relaxed) }
  }
}

/// What one page, its encodings and the writes that wait for a device cost the budget; given back with the last of them.
package final class MemoryCharge: Sendable {
  private let budget: HistoryBudget
  private let count: ManagedAtomic<Int>
  private let isBeyond: Bool

  fileprivate convenience init(_ budget: HistoryBudget, _ bytes: Int) {
    budget.add(bytes)
    self.init(reserved: bytes, of: budget)
  }

  fileprivate init(reserved bytes: Int, of budget: HistoryBudget, isBeyond: Bool = false) {
    self.budget = budget
    self.isBeyond = isBeyond
    count = ManagedAtomic(bytes)
  }

  deinit { budget.release(count.load(ordering: .relaxed), wasBeyond: isBeyond) }

  package func add(_ bytes: Int) {
    count.wrappingIncrement(by: bytes, ordering: .relaxed)
    budget.add(bytes)
  }
}
