import Synchronization

/// Gives an answer up when nothing has come for too long.
package final class UpstreamWatch: Sendable {
  /// Nobody has said anything for too long.
  package struct Silence: Error {
    package let seconds: Int
  }

  private let deadline = Mutex<(at: ContinuousClock.Instant, limit: Duration)>((.now + .seconds(1 << 40), .zero))
  private let isFinishing = Atomic(false)
  private let task = Mutex<Task<Void, Never>?>(nil)

  package init(_ response: UpstreamResponse) {
    let watching = Task { [weak self] in
      // Sooner or later: whoever waits for a deadline that was moved on waits again.
      while !Task.isCancelled {
        guard let (at, limit) = self?.deadline.withLock({ $0 }) else { return }
        if at <= .now { return response.giveUp(Silence(seconds: Int(limit.components.seconds))) }
        try? await Task.sleep(until: min(at, .now + .milliseconds(200)))
      }
    }
    task.withLock { $0 = watching }
  }

  package func end() { task.withLock { $0 }?.cancel() }

  /// - Parameter limit: nil: as long as it likes.
  package func expect(within limit: Duration?) {
    guard !isFinishing.load(ordering: .relaxed) else { return }
    deadline.withLock { $0 = (.now + (limit ?? .seconds(1 << 40)), limit ?? .zero) }
  }

  /// All but the stream's end has come.
  package func finish(within limit: Duration) {
    guard !isFinishing.exchange(true, ordering: .relaxed) else { return }
    deadline.withLock { $0 = (.now + limit, limit) }
  }
}
