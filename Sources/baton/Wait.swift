import ArgumentParser

/// A duration as the protocol writes it: 500ms, 30s, 5m, 1h.
struct Wait: ExpressibleByArgument {
  let seconds: Double

  init(seconds: Double) { self.seconds = seconds }

  init?(argument: String) {
    let units = [("ms", 0.001), ("s", 1.0), ("m", 60.0), ("h", 3600.0)]
    guard let (unit, factor) = units.first(where: { argument.hasSuffix($0.0) }),
      let value = UInt32(argument.dropLast(unit.count))
    else { return nil }
    seconds = Double(value) * factor
  }

  /// Nil: without a limit.
  var limit: Duration? { seconds > 0 ? .seconds(seconds) : nil }

  var defaultValueDescription: String { "\(Int(seconds))s" }
}
