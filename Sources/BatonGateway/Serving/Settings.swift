import Foundation

/// The values of a table of settings, and where each came from: flags win, then environment, then the file.
package struct Settings: Sendable {
  package enum Source: Sendable, Equatable {
    case flag, environment
    case file(String)
    case standard
  }

  package struct Value: Sendable {
    package var text: String
    package var source: Source
  }

  /// Wrong usage (exit status 64) or a wrong value (78), with what to mend.
  package enum Mistake: Error, Equatable, CustomStringConvertible {
    case usage(String)
    case value(String)

    package var description: String {
      switch self {
      case .usage(let text), .value(let text): text
      }
    }

    package var exitStatus: Int32 {
      switch self {
      case .usage: 64
      case .value: 78
      }
    }
  }

  package let table: [Setting]
  private let values: [String: Value]

  /// - Throws: `Mistake`.
  package init(_ table: [Setting], arguments: [String], environment: [String: String]) throws {
    self.table = table
    let flags = try Settings.parse(arguments, table)
    let path = flags["config"] ?? environment["BATON_CONFIG"]
    let file = try path.map { try Settings.read($0, table) } ?? [:]
    var values: [String: Value] = [:]
    for setting in table {
      let found: Value?
      if let text = flags[setting.name] {
        found = Value(text: text, source: .flag)
      } else if let text = environment[setting.variable] {
        found = Value(text: text, source: .environment)
      } else if let path, let text = file[setting.name] {
        found = Value(text: text, source: .file(path))
      } else {
        found = setting.standard.map { Value(text: $0, source: .standard) }
      }
      guard let found else { continue }
      if let objection = setting.kind.objection(to: found.text) {
        let shown = setting.isSecret ? "" : ", not \"\(found.text)\""
        throw Mistake.value("\(Settings.name(setting, found.source)) \(objection)\(shown)")
      }
      values[setting.name] = found
    }
    self.values = values
  }

  // MARK: Typed values

  package func text(_ name: String) -> String? { values[name]?.text }
  package func flag(_ name: String) -> Bool { values[name]?.text == "true" }
  package func count(_ name: String) -> Int? { values[name].flatMap { Int($0.text) } }
  package func milliseconds(_ name: String) -> Int64? { values[name].flatMap { Quantity.milliseconds($0.text) } }
  package func bytes(_ name: String) -> Int? { values[name].flatMap { Quantity.bytes($0.text) }.map(Int.init) }
  package func list(_ name: String) -> [String]? {
    values[name].map { $0.text.split(separator: ",").map { $0.trimmingCharacters(in: .whitespaces) } }
  }

  /// A value that fits its kind and is wrong all the same.
  package func mistake(_ name: String, _ objection: String) -> Mistake {
    let source = values[name]?.source ?? .flag
    return .value("\(table.first { $0.name == name }.map { Settings.name($0, source) } ?? name) \(objection)")
  }

  private static func name(_ setting: Setting, _ source: Source) -> String {
    switch source {
    case .flag, .standard: "--\(setting.name)"
    case .environment: setting.variable
    case .file(let path): "\(setting.name) in \(path)"
    }
  }

  // MARK: Sources

  private static func parse(_ arguments: [String], _ table: [Setting]) throws -> [String: String] {
    var flags: [String: String] = [:]
    var rest = arguments[...]
    while let argument = rest.popFirst() {
      guard argument.hasPrefix("--") else { throw Mistake.usage("unexpected argument \"\(argument)\"") }
      let parts = argument.dropFirst(2).split(separator: "=", maxSplits: 1, omittingEmptySubsequences: false)
      let name = String(parts.first ?? "")
      guard let setting = table.first(where: { $0.name == name }) else {
        let near = table.min { distance($0.name, name) < distance($1.name, name) }.map(\.name)
        let hint = near.flatMap { distance($0, name) <= 3 ? "; did you mean --\($0)?" : nil } ?? ""
        throw Mistake.usage("unknown option --\(name)\(hint)")
      }
      let before = flags[name]
      var isList = false
      if case .list = setting.kind { isList = true }
      if before != nil, !isList { throw Mistake.usage("--\(name) is given twice") }
      if parts.count == 2 {
        flags[name] = String(parts[1])
      } else if case .flag = setting.kind {
        flags[name] = "true"
      } else if let value = rest.popFirst() {
        flags[name] = value
      } else {
        throw Mistake.usage("--\(name) needs a value: --\(name) \(setting.placeholder)")
      }
      if let before, let more = flags[name] { flags[name] = "\(before),\(more)" }
    }
    return flags
  }

  /// What a JSON file says of one setting.
  private enum FileValue: Decodable {
    case flag(Bool)
    case number(Int)
    case text(String)
    case texts([String])
    case other

    init(from decoder: any Decoder) throws {
      let value = try decoder.singleValueContainer()
      if let flag = try? value.decode(Bool.self) {
        self = .flag(flag)
      } else if let number = try? value.decode(Int.self) {
        self = .number(number)
      } else if let text = try? value.decode(String.self) {
        self = .text(text)
      } else {
        self = (try? value.decode([String].self)).map { .texts($0) } ?? .other
      }
    }

    func text(of kind: Setting.Kind) -> String? {
      switch (self, kind) {
      case (.flag(let flag), .flag): String(flag)
      case (.number(let number), .count), (.number(let number), .size): String(number)
      case (.text(let text), _): text
      case (.texts(let texts), .list): texts.joined(separator: ",")
      default: nil
      }
    }
  }

  private static func read(_ path: String, _ table: [Setting]) throws -> [String: String] {
    let values: [String: FileValue]
    do {
      values = try JSONDecoder().decode([String: FileValue].self, from: Data(contentsOf: URL(fileURLWithPath: path)))
    } catch DecodingError.typeMismatch {
      throw Mistake.value("--config \(path) must hold a JSON object")
    } catch {
      throw Mistake.value("--config \(path) can't be read as JSON: \(error.localizedDescription)")
    }
    var texts: [String: String] = [:]
    for (key, value) in values.sorted(by: { $0.key < $1.key }) {
      guard let setting = table.first(where: { $0.name == key && key != "config" }) else {
        throw Mistake.value("\(path) has the unknown key \"\(key)\"; the keys are the names of the flags without --")
      }
      guard let text = value.text(of: setting.kind) else {
        throw Mistake.value("\(key) in \(path) has the wrong JSON type; write it as a string")
      }
      texts[key] = text
    }
    return texts
  }

  private static func distance(_ a: String, _ b: String) -> Int {
    let b = Array(b)
    var row = Array(0...b.count)
    for (i, x) in a.enumerated() {
      var previous = row[0]
      row[0] = i + 1
      for (j, y) in b.enumerated() {
        (previous, row[j + 1]) = (row[j + 1], min(row[j] + 1, row[j + 1] + 1, previous + (x == y ? 0 : 1)))
      }
    }
    return row[b.count]
  }

  // MARK: What it tells

  /// The list of options for `--help`.
  package static func help(_ table: [Setting]) -> String {
    table.map { setting in
      let value = setting.placeholder.isEmpty ? "" : " \(setting.placeholder)"
      let standard = setting.standard.map { " (\($0))" } ?? ""
      return "  --\(setting.name)\(value)\n      \(setting.help)\(standard)\n      \(setting.variable)"
    }.joined(separator: "\n")
  }

  /// Every option with its value and where that came from; credentials hidden.
  package var printed: String {
    table.map { setting in
      guard let value = values[setting.name] else { return "\(setting.name): not set" }
      let source =
        switch value.source {
        case .flag: "flag --\(setting.name)"
        case .environment: "environment \(setting.variable)"
        case .file(let path): "file \(path)"
        case .standard: "default"
        }
      return
        "\(setting.name): \(setting.isSecret ? Settings.hidden(value.text, setting.kind) : value.text)  # \(source)"
    }.joined(separator: "\n")
  }

  /// `redis://user:secret@host` without what stands before the `@`, and without a query.
  static func hidden(_ text: String, _ kind: Setting.Kind = .text) -> String {
    if case .list = kind {
      return text.split(separator: ",").map {
        GatewayConfiguration.origin(of: String($0)).map { "\($0)/(hidden)" } ?? "(hidden)"
      }
      .joined(separator: ",")
    }
    guard let scheme = text.range(of: "://") else { return "(hidden)" }
    var shown = text
    // A model server's key may be there.
    if let query = shown[scheme.upperBound...].firstIndex(of: "?") {
      shown.replaceSubrange(shown.index(after: query)..., with: "(hidden)")
    }
    guard let at = shown[scheme.upperBound...].lastIndex(of: "@") else { return shown }
    return shown[..<scheme.upperBound] + "(hidden)" + shown[at...]
  }

  /// Options with credentials in them that were given as flags, where every user of the machine sees them.
  package var secretsInFlags: [String] {
    table.filter { setting in
      guard setting.isSecret, let value = values[setting.name], value.source == .flag else { return false }
      return value.text.split(separator: ",").contains { part in
        guard let scheme = part.range(of: "://") else { return false }
        let address = part[scheme.upperBound...]
        return address.contains("?") || address.split(separator: "@").count > 1 && address.contains(":")
      }
    }.map(\.name)
  }
}
