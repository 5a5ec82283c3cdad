import Atomics
import Metrics
import NIOConcurrencyHelpers

/// A swift-metrics backend that prints the Prometheus text format (version 0.0.4). Timers become histograms in seconds,
/// recorders histograms without unit; labels are printed with `baton_` before them unless they have it.
package final class MetricsRegistry: MetricsFactory {
  private struct Key: Hashable {
    var name: String
    var labels: String
  }

  private let metrics = NIOLockedValueBox<[Key: any PrintedMetric]>([:])
  private let help: [String: String]

  /// - Parameter help: one line a metric, by its printed name.
  package init(help: [String: String] = [:]) { self.help = help }

  private func metric<M: PrintedMetric>(_ label: String, _ dimensions: [(String, String)], _ make: () -> M) -> M {
    let key = Key(name: MetricsRegistry.name(label), labels: MetricsRegistry.labels(dimensions))
    return metrics.withLockedValue { metrics in
      if let known = metrics[key] as? M { return known }
      let made = make()
      metrics[key] = made
      return made
    }
  }

  package func makeCounter(label: String, dimensions: [(String, String)]) -> any CounterHandler {
    metric(label, dimensions) { PrintedCounter() }
  }

  package func makeMeter(label: String, dimensions: [(String, String)]) -> any MeterHandler {
    metric(label, dimensions) { PrintedGauge() }
  }

  package func makeRecorder(label: String, dimensions: [(String, String)], aggregate: Bool) -> any RecorderHandler {
    aggregate
      ? metric(label, dimensions) { PrintedHistogram(bounds: PrintedHistogram.plain, scale: 1) }
      : metric(label, dimensions) { PrintedGauge() } as any RecorderHandler
  }

  package func makeTimer(label: String, dimensions: [(String, String)]) -> any TimerHandler {
    metric(label, dimensions) { PrintedHistogram(bounds: PrintedHistogram.seconds, scale: 1e-9) }
  }

  package func destroyCounter(_ handler: any CounterHandler) {}
  package func destroyMeter(_ handler: any MeterHandler) {}
  package func destroyRecorder(_ handler: any RecorderHandler) {}
  package func destroyTimer(_ handler: any TimerHandler) {}

  package static let contentType = "text/plain; version=0.0.4; charset=utf-8"

  package var text: String {
    let all = metrics.withLockedValue { $0 }
    var lines = ""
    var name = ""
    for (key, metric) in all.sorted(by: { ($0.key.name, $0.key.labels) < ($1.key.name, $1.key.labels) }) {
      if key.name != name {
        name = key.name
        if let help = help[name] { lines += "# HELP \(name) \(help)\n" }
        lines += "# TYPE \(name) \(metric.type)\n"
      }
      metric.print(key.name, key.labels, into: &lines)
    }
    return lines
  }

  private static func name(_ label: String) -> String {
    let name = String(label.map { $0.isASCII && ($0.isLetter || $0.isNumber || $0 == "_") ? $0 : "_" })
    return name.hasPrefix("baton_") ? name : "baton_" + name
  }

  private static func labels(_ dimensions: [(String, String)]) -> String {
    dimensions.map { name, value in
      var escaped = ""
      for character in value {
        switch character {
        case "\\": escaped += "\\\\"
        case "\"": escaped += "\\\""
        case "\n": escaped += "\\n"
        default: escaped.append(character)
        }
      }
      return "\(name)=\"\(escaped)\""
    }.joined(separator: ",")
  }
}

protocol PrintedMetric: AnyObject, Sendable {
  var type: String { get }
  func print(_ name: String, _ labels: String, into text: inout String)
}

final class PrintedCounter: PrintedMetric, CounterHandler {
  private let value = ManagedAtomic<Int64>(0)
  let type = "counter"

  func increment(by amount: Int64) { value.wrappingIncrement(by: amount, ordering: .relaxed) }
  func reset() { value.store(0, ordering: .relaxed) }

  func print(_ name: String, _ labels: String, into text: inout String) {
    text += "\(name)\(braced(labels)) \(value.load(ordering: .relaxed))\n"
  }
}

final class PrintedGauge: PrintedMetric, MeterHandler, RecorderHandler {
  private let bits = ManagedAtomic<UInt64>(0)
  let type = "gauge"

  func set(_ value: Int64) { set(Double(value)) }
  func set(_ value: Double) { bits.store(value.bitPattern, ordering: .relaxed) }
  func increment(by amount: Double) { change(by: amount) }
  func decrement(by amount: Double) { change(by: -amount) }
  func record(_ value: Int64) { set(value) }
  func record(_ value: Double) { set(value) }

  private func change(by amount: Double) {
    var old = bits.load(ordering: .relaxed)
    while true {
      let new = (Double(bitPattern: old) + amount).bitPattern
      let (done, current) = bits.compareExchange(expected: old, desired: new, ordering: .relaxed)
      if done { return }
      old = current
    }
  }

  func print(_ name: String, _ labels: String, into text: inout String) {
    text += "\(name)\(braced(labels)) \(number(Double(bitPattern: bits.load(ordering: .relaxed))))\n"
  }
}

final class PrintedHistogram: PrintedMetric, TimerHandler, RecorderHandler {
  static let seconds = [
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10,
  ]
  static let plain: [Double] = [1, 4, 16, 64, 256, 1024, 4096, 16_384, 65_536, 262_144, 1_048_576]

  private struct Counts {
    var buckets: [UInt64]
    var sum = 0.0
    var count: UInt64 = 0
  }

  private let bounds: [Double]
  private let scale: Double
  private let counts: NIOLockedValueBox<Counts>
  let type = "histogram"

  init(bounds: [Double], scale: Double) {
    self.bounds = bounds
    self.scale = scale
    counts = NIOLockedValueBox(Counts(buckets: Array(repeating: 0, count: bounds.count)))
  }

  func recordNanoseconds(_ duration: Int64) { record(Double(duration)) }
  func record(_ value: Int64) { record(Double(value)) }

  func record(_ value: Double) {
    let value = value * scale
    let bucket = bounds.firstIndex { value <= $0 }
    counts.withLockedValue { counts in
      if let bucket { counts.buckets[bucket] += 1 }
      counts.sum += value
      counts.count += 1
    }
  }

  func print(_ name: String, _ labels: String, into text: inout String) {
    let counts = counts.withLockedValue { $0 }
    let prefix = labels.isEmpty ? "" : labels + ","
    var sum: UInt64 = 0
    for (bound, count) in zip(bounds, counts.buckets) {
      sum += count
      text += "\(name)_bucket{\(prefix)le=\"\(number(bound))\"} \(sum)\n"
    }
    text += "\(name)_bucket{\(prefix)le=\"+Inf\"} \(counts.count)\n"
    text += "\(name)_sum\(braced(labels)) \(number(counts.sum))\n"
    text += "\(name)_count\(braced(labels)) \(counts.count)\n"
  }
}

private func braced(_ labels: String) -> String { labels.isEmpty ? "" : "{\(labels)}" }

private func number(_ value: Double) -> String {
  Int64(exactly: value).map(String.init) ?? "\(value)"
}
