import NIOConcurrencyHelpers

/// Slots in which something was recorded for webhooks, as far as notices tell of it.
package final class WebhookNotices: Sendable {
  private let noticed = NIOLockedValueBox<Set<WebhookSlot>>([])
  private let begun = NIOLockedValueBox(false)

  package init() {}

  package func came(to letters: String) {
    if let slot = WebhookSlot(letters: letters) { noticed.withLockedValue { _ = $0.insert(slot) } }
  }

  /// Notices come from now on; some may have been missed before.
  package func begin() { begun.withLockedValue { $0 = true } }

  /// Told once.
  package func takeBegun() -> Bool {
    begun.withLockedValue { begun in
      defer { begun = false }
      return begun
    }
  }

  /// Each is told once.
  package func take() -> Set<WebhookSlot> {
    noticed.withLockedValue { noticed in
      defer { noticed = [] }
      return noticed
    }
  }
}
