import Metrics

/// What becomes of webhooks on this node.
package struct WebhookMetrics: Sendable {
  package enum Attempt: String, CaseIterable, Sendable { case delivered, refused, unreachable, gone }
  package enum Drop: String, CaseIterable, Sendable { case expired, deleted, gone, full }

  package let pending: Meter
  /// Set to 1 when all slots are recorded in.
  package let sender: Meter
  private let attempts: [Attempt: Counter]
  private let drops: [Drop: Counter]

  init(_ factory: any MetricsFactory) {
    pending = Meter(label: "webhooks_pending", factory: factory)
    sender = Meter(label: "webhooks_sender", factory: factory)
    attempts = Dictionary(
      uniqueKeysWithValues: Attempt.allCases.map {
        (
          $0,
          Counter(label: "webhooks_attempts_total", dimensions: [("outcome", $0.rawValue)], factory: factory)
        )
      })
    drops = Dictionary(
      uniqueKeysWithValues: Drop.allCases.map {
        ($0, Counter(label: "webhooks_dropped_total", dimensions: [("reason", $0.rawValue)], factory: factory))
      })
    pending.set(0)
    sender.set(0)
  }

  func attempted(_ outcome: Attempt) { attempts[outcome]?.increment() }
  func dropped(_ reason: Drop, _ count: Int = 1) { drops[reason]?.increment(by: Int64(count)) }
}
