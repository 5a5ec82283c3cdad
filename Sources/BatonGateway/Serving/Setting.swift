/// One option: a flag, the environment variable and the key of the configuration file that mean the same.
package struct Setting: Sendable {
  package enum Kind: Sendable {
    case text
    /// True or false; as a flag without a value.
    case flag
    case choice([String])
    /// Comma-separated.
    case list
    case count(ClosedRange<Int>)
    /// `500ms`, `30s`, `5m`, `24h`.
    case duration
    /// `64KiB`, `1MiB`, or plain bytes.
    case size
  }

  package let name: String
  package let kind: Kind
  package let standard: String?
  package let help: String
  /// What stands for the value in `--help`.
  package let placeholder: String
  /// Its value, or a part of it, is never shown.
  package let isSecret: Bool

  package init(
    _ name: String, _ kind: Kind = .text, standard: String? = nil, placeholder: String? = nil, isSecret: Bool = false,
    _ help: String
  ) {
    self.name = name
    self.kind = kind
    self.standard = standard
    self.help = help
    self.isSecret = isSecret
    self.placeholder = placeholder ?? kind.placeholder
  }

  package var variable: String { "BATON_" + String(name.map { $0 == "-" ? "_" : $0 }).uppercased() }
}

extension Setting.Kind {
  fileprivate var placeholder: String {
    switch self {
    case .text: "TEXT"
    case .flag: ""
    case .choice(let choices): choices.joined(separator: "|")
    case .list: "A,B"
    case .count: "N"
    case .duration: "TIME"
    case .size: "SIZE"
    }
  }

  /// Nil where the text has this shape, else what to write.
  func objection(to text: String) -> String? {
    switch self {
    case .text: text.isEmpty ? "must not be empty" : nil
    case .list: nil
    case .flag: ["true", "false"].contains(text) ? nil : "must be true or false"
    case .choice(let choices): choices.contains(text) ? nil : "must be \(choices.joined(separator: " or "))"
    case .count(let range):
      Int(text).map(range.contains) == true
        ? nil : "must be a whole number from \(range.lowerBound) to \(range.upperBound)"
    case .duration:
      Quantity.milliseconds(text) == nil ? "must be a time such as 500ms, 30s, 5m or 24h" : nil
    case .size: Quantity.bytes(text) == nil ? "must be a size such as 65536, 64KiB, 1MiB or 1GiB" : nil
    }
  }
}

/// Durations and sizes as people write them.
package enum Quantity {
  package static func milliseconds(_ text: String) -> Int64? {
    scaled(text, [("ms", 1), ("s", 1000), ("m", 60_000), ("h", 3_600_000)], bare: nil)
  }

  package static func bytes(_ text: String) -> Int64? {
    scaled(text, [("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30)], bare: 1)
  }

  private static func scaled(_ text: String, _ units: [(String, Int64)], bare: Int64?) -> Int64? {
    let digits = text.prefix { ("0"..."9").contains($0) }
    let unit = text.dropFirst(digits.count)
    guard let number = Int64(digits), let factor = unit.isEmpty ? bare : units.first(where: { $0.0 == unit })?.1 else {
      return nil
    }
    let (product, overflow) = number.multipliedReportingOverflow(by: factor)
    return overflow || product > Int64(Int32.max) * 1024 * 1024 ? nil : product
  }
}
