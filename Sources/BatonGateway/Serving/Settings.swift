import Configuration
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
  package init(_ table: [Setting], arguments: [String], environment: [String: String]) async throws {
    self.table = table
    let flags = try Settings.parse(arguments, table)
    let variables = EnvironmentVariablesProvider(environmentVariables: environment)
    let path = flags["config"] ?? environment["BATON_CONFIG"]
    var file: FileProvider<JSONSnapshot>?
    if let path { file = try await Settings.open(path, table) }
    var values: [String: Value] = [:]
    for setting in table {
      let found: Value?
      if let text = flags[setting.name] {
        found = Value(text: text, source: .flag)
      } else if let text = try variables.value(forKey: ["baton", setting.name], type: .string).value?.text {
        found = Value(text: text, source: .environment)
      } else if let path, let file, let text = try Settings.text(setting, file, path) {
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

  private static func open(_ path: String, _ table: [Setting]) async throws -> FileProvider<JSONSnapshot> {
    let content: Any
    do {
      content = try JSONSerialization.jsonObject(with: Data(contentsOf: URL(fileURLWithPath: path)))
    } catch {
      throw Mistake.value("--config \(path) can't be read as JSON: \(error.localizedDescription)")
    }
    guard let object = content as? [String: Any] else {
      throw Mistake.value("--config \(path) must hold a JSON object")
    }
    for key in object.keys.sorted() where !table.contains(where: { $0.name == key && key != "config" }) {
      throw Mistake.value("\(path) has the unknown key \"\(key)\"; the keys are the names of the flags without --")
    }
    do {
      return try await FileProvider<JSONSnapshot>(filePath: .init(path))
    } catch {
      throw Mistake.value("--config \(path) can't be used: \(error)")
    }
  }

  private static func text(_ setting: Setting, _ file: FileProvider<JSONSnapshot>, _ path: String) throws -> String? {
    let types: [ConfigType] =
      switch setting.kind {
      case .flag: [.bool]
      case .count, .size: [.string, .int]
      case .list: [.string, .stringArray]
      default: [.string]
      }
    for type in types {
      if let value = try? file.value(forKey: [setting.name], type: type).value { return value.text }
    }
    // A mismatch of the type throws, an absent key is nil.
    do {
      return try file.value(forKey: [setting.name], type: .string).value?.text
    } catch {
      throw Mistake.value("\(setting.name) in \(path) has the wrong JSON type; write it as a string")
    }
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

  /// `redis://user:secret@host` without what stands before the `@`.
  static func hidden(_ text: String, _ kind: Setting.Kind = .text) -> String {
    if case .list = kind {
      return text.split(separator: ",").map {
        GatewayConfiguration.origin(of: String($0)).map { "\($0)/(hidden)" } ?? "(hidden)"
      }
      .joined(separator: ",")
    }
    guard let scheme = text.range(of: "://"), let at = text.lastIndex(of: "@"), at >= scheme.upperBound else {
      return text.contains("://") ? text : "(hidden)"
    }
    return text[..<scheme.upperBound] + "(hidden)" + text[at...]
  }
}

extension ConfigValue {
  fileprivate var text: String? {
    switch content {
    case .string(let text): text
    case .int(let number): String(number)
    case .double(let number): String(number)
    case .bool(let flag): String(flag)
    case .stringArray(let texts): texts.joined(separator: ",")
    default: nil
    }
  }
}
