import Atomics

/// Bytes of entries that all windows of the node keep.
final class WindowBudget: Sendable {
  private let count = ManagedAtomic(0)

  var bytes: Int { count.load(ordering: .relaxed) }

  func add(_ bytes: Int) { count.wrappingIncrement(by: bytes, ordering: .relaxed) }
}

/// Bytes of entries that windows keep.
struct WindowLimits: Sendable {
  /// In one session's.
  var windowBytes: Int
  /// In all of the node's.
  var nodeWindowBytes: Int
}
