import Synchronization

/// Bytes of history that the node holds: from a reply until the last device has written what came of it.
package final class HistoryBudget: Sendable {
  package let limit: Int
  private let count = Atomic(0)
  private let shortReaders = Atomic(0)

  package init(limit: Int) { self.limit = limit }

  package var used: Int { count.load(ordering: .relaxed) }

  /// Whether so many bytes more would fit. Something always fits into an empty budget.
  package func fits(_ bytes: Int) -> Bool { used == 0 || used + bytes <= limit }

  /// Somebody has waited for a while because nothing fits: who holds bytes and writes none of them is to let go.
  package var isShort: Bool { shortReaders.load(ordering: .relaxed) > 0 }

  /// One of those who read for it waits from now on, or no longer.
  package func readerWaits(_ waits: Bool) { shortReaders.wrappingAdd(waits ? 1 : -1, ordering: .relaxed) }

  package func charge(_ bytes: Int) -> MemoryCharge { MemoryCharge(self, bytes) }

  fileprivate func add(_ bytes: Int) { count.wrappingAdd(bytes, ordering: .relaxed) }
}

/// What one page, its encodings and the writes that wait for a device cost the budget; given back with the last of them.
package final class MemoryCharge: Sendable {
  private let budget: HistoryBudget
  private let count: Atomic<Int>

  fileprivate init(_ budget: HistoryBudget, _ bytes: Int) {
    self.budget = budget
    count = Atomic(bytes)
    budget.add(bytes)
  }

  deinit { budget.add(-count.load(ordering: .relaxed)) }

  package func add(_ bytes: Int) {
    count.wrappingAdd(bytes, ordering: .relaxed)
    budget.add(bytes)
  }
}
