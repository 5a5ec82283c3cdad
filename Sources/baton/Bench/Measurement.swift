/// What one contender needed for one workload. What does not apply is nil.
struct Measurement: Codable, Sendable {
  var workload: String
  var contender: String
  var devices: Int
  /// Entries that devices were sent while it was measured (of `attach`: devices that attached), and for how long.
  var deliveries: Int?
  var seconds: Double?
  /// Microseconds of CPU for each of them: of the server, of Redis, and of this program.
  var server: Double?
  var redis: Double?
  var generator: Double?
  /// Of them, a second.
  var rate: Double?
  /// Milliseconds from the append to the arrival.
  var p50: Double?
  var p90: Double?
  var p99: Double?
  var p999: Double?
  var max: Double?
  /// Seconds until all devices were attached.
  var attached: Double?
  /// Resident bytes of the server for each device, or for each entry of a window.
  var deviceBytes: Double?
  var entryBytes: Double?
  /// Percent of a core, of server and Redis, while nothing happens.
  var idle: Double?
  /// Order and completeness: what was not as it has to be.
  var faults: [String] = []

  static let figures: [(name: String, unit: String, path: WritableKeyPath<Measurement, Double?> & Sendable)] = [
    ("server", "µs", \.server), ("redis", "µs", \.redis), ("generator", "µs", \.generator), ("rate", "/s", \.rate),
    ("p50", "ms", \.p50), ("p90", "ms", \.p90), ("p99", "ms", \.p99), ("p99.9", "ms", \.p999), ("max", "ms", \.max),
    ("attached", "s", \.attached), ("device", "KiB", \.deviceBytes), ("entry", "bytes", \.entryBytes),
    ("idle", "%", \.idle),
  ]

  /// The middle of each figure; all faults.
  static func median(of runs: [Measurement]) -> Measurement {
    var result = runs[0]
    for figure in figures {
      let values = runs.compactMap { $0[keyPath: figure.path] }.sorted()
      result[keyPath: figure.path] = values.isEmpty ? nil : values[values.count / 2]
    }
    result.faults = runs.flatMap(\.faults)
    return result
  }
}
