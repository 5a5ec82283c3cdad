import Metrics
import Testing

@testable import BatonGateway

@Suite struct MetricsTests {
  @Test("counters, gauges and histograms as Prometheus text")
  func text() {
    let registry = MetricsRegistry(help: ["baton_hits_total": "Hits."])
    Counter(label: "hits_total", dimensions: [("why", "a\"b")], factory: registry).increment(by: 2)
    Counter(label: "hits_total", dimensions: [("why", "a\"b")], factory: registry).increment()
    Meter(label: "baton_level", factory: registry).set(1.5)
    Timer(label: "wait_seconds", factory: registry).recordNanoseconds(2_000_000)
    let lines = registry.text.split(separator: "\n").map(String.init)
    #expect(lines.contains("# HELP baton_hits_total Hits."))
    #expect(lines.contains("# TYPE baton_hits_total counter"))
    #expect(lines.contains(#"baton_hits_total{why="a\"b"} 3"#))
    #expect(lines.contains("baton_level 1.5"))
    #expect(lines.contains(#"baton_wait_seconds_bucket{le="0.001"} 0"#))
    #expect(lines.contains(#"baton_wait_seconds_bucket{le="0.0025"} 1"#))
    #expect(lines.contains(#"baton_wait_seconds_bucket{le="+Inf"} 1"#))
    #expect(lines.contains("baton_wait_seconds_count 1"))
    #expect(lines.filter { $0.hasPrefix("# TYPE baton_hits_total") }.count == 1)
  }

  @Test("what loops counted is summed when it is asked for")
  func loops() {
    let metrics = GatewayMetrics()
    let (one, two) = (metrics.makeLoopCounters(), metrics.makeLoopCounters())
    one.entriesDelivered.add(3)
    two.entriesDelivered.add(4)
    #expect(metrics.text(isReady: true).contains("\nbaton_entries_delivered_total 7\n"))
    #expect(metrics.text(isReady: true).contains(#"baton_resets_total{reason="trimmed"} 0"#))
  }

  @Test("a device stalls only where it takes nothing")
  func stall() {
    var watch = StallWatch()
    func look(_ pending: Int, _ isWritable: Bool = false) -> Bool {
      watch.isOver(pending, isWritable: isWritable, interval: .seconds(1), limit: .seconds(2))
    }
    #expect(!look(10))
    #expect(!look(10))
    #expect(!look(9))  // It took one byte.
    #expect(!look(9))
    #expect(!look(9, true))
    #expect(!look(9))
    #expect(look(12))
  }
}
