import Atomics
import BatonProtocol
import BatonSession
import Metrics
import NIOConcurrencyHelpers
import NIOCore

/// What an operator asks first. Events that are rare are counted at once; what happens per delivery goes to
/// `LoopCounters`, which nobody waits for.
package final class GatewayMetrics: Sendable {
  package enum ResumeOutcome: String, CaseIterable, Sendable {
    /// From Redis, told to start anew, or nothing yet to resume from.
    case history, reset, waiting
  }

  package let registry: MetricsRegistry
  private let devices: Meter
  private let attaches: Counter
  package let sessions: Meter
  package let windowBytes: Meter
  package let entriesRead: Counter
  package let misshapenFields: Counter
  /// From an entry's id (its time in Redis) to the read that brought it.
  package let lag: Timer
  package let redisLatency: Timer
  package let redisReconnects: Counter
  package let redisErrors: Counter
  package let tailSweepFinds: Counter
  package let webhooks: WebhookMetrics
  private let wakeups: [Tail.Source: Meter]
  private let resumes: [ResumeOutcome: Counter]
  private let resets: [ResetReason: Counter]
  private let limits: [Limit: Counter]
  private let asks: [AskedApp.Outcome: Counter]
  private let loops = NIOLockedValueBox<[LoopCounters]>([])

  package init(registry: MetricsRegistry = MetricsRegistry(help: GatewayMetrics.help)) {
    self.registry = registry
    func counter(_ label: String, _ dimensions: [(String, String)] = []) -> Counter {
      Counter(label: label, dimensions: dimensions, factory: registry)
    }
    devices = Meter(label: "devices", factory: registry)
    attaches = counter("attaches_total")
    sessions = Meter(label: "sessions", factory: registry)
    windowBytes = Meter(label: "window_bytes", factory: registry)
    entriesRead = counter("entries_read_total")
    misshapenFields = counter("misshapen_fields_total")
    lag = Timer(label: "lag_seconds", factory: registry)
    redisLatency = Timer(label: "redis_latency_seconds", factory: registry)
    redisReconnects = counter("redis_reconnects_total")
    redisErrors = counter("redis_errors_total")
    tailSweepFinds = counter("sweep_finds_total")
    webhooks = WebhookMetrics(registry)
    wakeups = Dictionary(
      uniqueKeysWithValues: Tail.Source.allCases.map {
        ($0, Meter(label: "wakeup", dimensions: [("mode", $0.rawValue)], factory: registry))
      })
    resumes = Dictionary(
      uniqueKeysWithValues: ResumeOutcome.allCases.map { ($0, counter("resumes_total", [("outcome", $0.rawValue)])) })
    resets = Dictionary(
      uniqueKeysWithValues: [ResetReason.trimmed, .diverged, .ahead, .deleted].map {
        ($0, counter("resets_total", [("reason", $0.rawValue)]))
      })
    asks = Dictionary(
      uniqueKeysWithValues: AskedApp.Outcome.allCases.map {
        ($0, counter("auth_asks_total", [("outcome", $0.rawValue)]))
      })
    limits = Dictionary(
      uniqueKeysWithValues: Limit.allCases.map { ($0, counter("limits_exceeded_total", [("limit", $0.rawValue)])) })
  }

  /// Whether an option that gives up safety is in effect.
  package func insecure(_ option: String, _ isInEffect: Bool) {
    Meter(label: "insecure", dimensions: [("option", option)], factory: registry).set(isInEffect ? 1 : 0)
  }

  func deviceAttached() {
    devices.increment()
    attaches.increment()
  }

  func deviceLeft() { devices.decrement() }

  /// How changes are learnt from here on.
  package func wakeup(_ source: Tail.Source) {
    for (mode, meter) in wakeups { meter.set(mode == source ? 1 : 0) }
  }

  package func resumed(_ outcome: ResumeOutcome) { resumes[outcome]?.increment() }
  package func reset(_ reason: ResetReason) { resets[reason]?.increment() }
  package func exceeded(_ limit: Limit) { limits[limit]?.increment() }

  func refused(status: UInt, reason: String) {
    Counter(
      label: "http_refusals_total", dimensions: [("status", String(status)), ("reason", reason)], factory: registry
    ).increment()
  }

  /// - Parameter rule: of RFC 6455, or of a bound of messages.
  func violated(_ rule: String) {
    Counter(label: "websocket_violations_total", dimensions: [("reason", rule)], factory: registry).increment()
  }

  func asked(_ outcome: AskedApp.Outcome) { asks[outcome]?.increment() }

  func acceptPaused() { Counter(label: "accept_pauses_total", factory: registry).increment() }

  /// The counters of one event loop; the driver of that loop keeps them.
  package func makeLoopCounters() -> LoopCounters {
    let counters = LoopCounters()
    loops.withLockedValue { $0.append(counters) }
    return counters
  }

  /// The Prometheus text.
  package func text(isReady: Bool, relays: Int = 0, roles: NodeRoles = .all, auditLinesDropped: UInt64 = 0) -> String {
    var delivered: UInt64 = 0
    var bytes: UInt64 = 0
    for loop in loops.withLockedValue({ $0 }) {
      delivered &+= loop.entriesDelivered.value
      bytes &+= loop.bytesSent.value
    }
    var text = registry.text
    let dropped = LineOutput.standardError.dropped
    let values: [(name: String, type: String, UInt64)] = [
      ("baton_ready", "gauge", isReady ? 1 : 0), ("baton_entries_delivered_total", "counter", delivered),
      ("baton_bytes_sent_total", "counter", bytes), ("baton_log_lines_dropped_total", "counter", dropped),
      ("baton_audit_lines_dropped_total", "counter", auditLinesDropped), ("baton_relays", "gauge", UInt64(relays)),
    ]
    for (name, type, value) in values {
      if let help = GatewayMetrics.help[name] { text += "# HELP \(name) \(help)\n" }
      text += "# TYPE \(name) \(type)\n\(name) \(value)\n"
    }
    let name = "baton_role"
    if let help = GatewayMetrics.help[name] { text += "# HELP \(name) \(help)\n" }
    text += "# TYPE \(name) gauge\n"
    for (word, role) in NodeRoles.words {
      text += "\(name){role=\"\(word)\"} \(roles.contains(role) ? 1 : 0)\n"
    }
    return text
  }

  package static let help = [
    "baton_ready": "1 where /readyz says 200.",
    "baton_insecure": "1 where an option that gives up safety is in effect, by its name.",
    "baton_devices": "Attached devices.",
    "baton_role": "1 for each role that the node has (--roles).",
    "baton_relays": "Answers of model servers and backends that are being relayed.",
    "baton_attaches_total": "Devices that were let in.",
    "baton_sessions": "Sessions with devices.",
    "baton_window_bytes": "Bytes of entries kept for devices.",
    "baton_entries_read_total": "Entries read from Redis, each once.",
    "baton_entries_delivered_total": "Entries sent to devices, once a device.",
    "baton_bytes_sent_total": "Bytes of frames that carried entries.",
    "baton_log_lines_dropped_total": "Lines that standard error did not take.",
    "baton_audit_lines_dropped_total": "Lines that --audit-log did not take.",
    "baton_misshapen_fields_total": "Fields of a wrong shape, forwarded as they are.",
    "baton_lag_seconds": "From an entry's id to the read that brought it.",
    "baton_redis_latency_seconds": "From a command to its reply.",
    "baton_redis_reconnects_total": "Connections to Redis that were replaced.",
    "baton_redis_errors_total": "Commands that Redis refused.",
    "baton_sweep_finds_total": "Sweeps that found entries nobody had announced.",
    "baton_wakeup": "1 for the way in use to learn of changes: by notices, by notices not proven yet, or by polling.",
    "baton_resumes_total": "Attaches by where they went on from.",
    "baton_resets_total": "Devices told that continuity is broken.",
    "baton_http_refusals_total": "Requests refused, by status and by the last part of the problem's type.",
    "baton_limits_exceeded_total": "Times that a limit was exceeded, by the name of its option.",
    "baton_websocket_violations_total":
      "WebSockets that were closed for what came on them, such as frames or messages over a limit, by the reason.",
    "baton_auth_asks_total": "Times that --auth-url was asked, or what it had said was remembered, by its answer.",
    "baton_webhooks_sender": "1 where this node is the one that sends webhooks.",
    "baton_webhooks_pending": "Events that are to be sent by webhooks, as far as this node has taken them up.",
    "baton_webhooks_attempts_total": "Requests to the addresses of --webhook, by what came of them.",
    "baton_webhooks_dropped_total": "Events that an address was not told, by the reason.",
    "baton_accept_pauses_total":
      "Times that no connection was accepted for a while because none may be open, or no descriptor was left.",
  ]
}

/// Counters with one writer: the event loop that they belong to.
package final class LoopCounters: Sendable {
  package let entriesDelivered = LoopCounter()
  package let bytesSent = LoopCounter()
}

package final class LoopCounter: Sendable {
  private let count = ManagedAtomic<UInt64>(0)

  package var value: UInt64 { count.load(ordering: .relaxed) }

  /// Only on the loop that owns it.
  package func add(_ amount: UInt64) { count.store(count.load(ordering: .relaxed) &+ amount, ordering: .relaxed) }
}
