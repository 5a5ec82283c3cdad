import ArgumentParser
import Foundation

/// Each option as an environment variable: `--connect-timeout` is `BATON_CONNECT_TIMEOUT`. Flags win.
struct OptionVariables {
  private struct Tool: Decodable {
    struct Command: Decodable {
      let commandName: String
      let subcommands: [Command]?
      let arguments: [Argument]?
    }

    struct Argument: Decodable {
      struct Name: Decodable { let name: String }
      let kind: String
      let isRepeating: Bool
      let shouldDisplay: Bool
      let preferredName: Name?
    }

    let command: Command
  }

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
      let tool = try? JSONDecoder().decode(Tool.self, from: Data(Baton._dumpHelp().utf8)),
      let command = tool.command.subcommands?.first(where: { $0.commandName == name })
    else { return [] }
    let given = Set(
      arguments.prefix { $0 != "--" }.filter { $0.hasPrefix("--") }
        .map { String($0.dropFirst(2).prefix { $0 != "=" }) })
    var added: [(variable: String, arguments: [String])] = []
    for argument in command.arguments ?? [] where argument.shouldDisplay && argument.kind != "positional" {
      guard let option = argument.preferredName?.name, !["help", "version"].contains(option) else { continue }
      let rivals = Self.alternatives.filter { $0.contains(option) }.joined()
      guard given.isDisjoint(with: Set(rivals).union([option])) else { continue }
      let variable = "BATON_" + option.replacing("-", with: "_").uppercased()
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
