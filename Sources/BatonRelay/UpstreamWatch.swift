import NIOConcurrencyHelpers

/// Gives an answer up when nothing has come for too long.
package final class UpstreamWatch: Sendable {
  /// Nobody has said anything for too long.
  package struct Silence: Error {
    package let seconds: Int
  }

  private let deadline = NIOLockedValueBox<(at: ContinuousClock.Instant, limit: Duration)>(
    (.now + .seconds(1 << 40), .zero))
  private let isFinishing = NIOLockedValueBox(false)
  private let task = NIOLockedValueBox<Task<Void, Never>?>(nil)

  package init(_ response: UpstreamResponse) {
    let watching = Task { [weak self] in
      // Sooner or later: whoever waits for a deadline that was moved on waits again.
      while !Task.isCancelled {
        guard let (at, limit) = self?.deadline.withLockedValue({ $0 }) else { return }
        if at <= .now { return response.giveUp(Silence(seconds: Int(limit.components.seconds))) }
        try? await Task.sleep(until: min(at, .now + .milliseconds(200)))
      }
    }
    task.withLockedValue { $0 = watching }
  }

  package func end() { task.withLockedValue { $0 }?.cancel() }

  /// - Parameter limit: nil: as long as it likes.
  package func expect(within limit: Duration?) {
    guard !isFinishing.withLockedValue({ $0 }) else { return }
    deadline.withLockedValue { $0 = (.now + (limit ?? .seconds(1 << 40)), limit ?? .zero) }
  }

  /// All but the stream's end has come.
  package func finish(within limit: Duration) {
    let wasFinishing = isFinishing.withLockedValue { isFinishing in
      defer { isFinishing = true }
      return isFinishing
    }
    guard !wasFinishing else { return }
    deadline.withLockedValue { $0 = (.now + limit, limit) }
  }
}
