import ArgumentParser
import Foundation

/// Each option as an environment variable: `--connect-timeout` is `BATON_CONNECT_TIMEOUT`. Flags win.
struct OptionVariables {
  let environment: [String: String]

  /// The options of which only one counts: one that is given keeps the variables of the others out.
  private static let alternatives = [["redis", "url"], ["offset", "last", "response"], ["prompt", "prompt-file"]]

  func parse(_ arguments: [String]) throws -> any ParsableCommand {
    let added = variables(of: arguments)
    do {
      return try Baton.parseAsRoot(arguments.prefix(1) + added.flatMap(\.arguments) + arguments.dropFirst())
    } catch {
      // Without the variables it would be right: say where the mistake is.
      if !added.isEmpty, Baton.exitCode(for: error) == .validationFailure, (try? Baton.parseAsRoot(arguments)) != nil {
        let names = added.map { "\($0.variable) (\($0.arguments[0]))" }.joined(separator: ", ")
        throw ValidationError("\(Baton.message(for: error))\nIn use from the environment: \(names).")
      }
      throw error
    }
  }

  private func variables(of arguments: [String]) -> [(variable: String, arguments: [String])] {
    // `serve` reads its own table of settings.
    guard let name = arguments.first, name != Serve._commandName,
      let command = (try? CommandTree(of: Baton.self))?.subcommands?.first(where: { $0.commandName == name })
    else { return [] }
    let given = Set(
      arguments.prefix { $0 != "--" }.filter { $0.hasPrefix("--") }
        .map { String($0.dropFirst(2).prefix { $0 != "=" }) })
    var added: [(variable: String, arguments: [String])] = []
    for argument in command.shown {
      guard let option = argument.preferredName?.name, let variable = argument.variable else { continue }
      let rivals = Self.alternatives.filter { $0.contains(option) }.joined()
      guard given.isDisjoint(with: Set(rivals).union([option])) else { continue }
      guard let value = environment[variable], !value.isEmpty else { continue }
      switch argument.kind {
      case "flag": if value == "true" { added.append((variable, ["--\(option)"])) }
      case _ where argument.isRepeating:
        added.append((variable, value.split(separator: ",").map { "--\(option)=\($0)" }))
      default: added.append((variable, ["--\(option)=\(value)"]))
      }
    }
    return added
  }
}
