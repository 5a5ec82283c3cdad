import ArgumentParser
import Foundation

/// What the argument parser tells of a command and of those within it (`--experimental-dump-help`).
struct CommandTree: Decodable {
  struct Argument: Decodable {
    struct Name: Decodable {
      let kind: String
      let name: String
    }

    /// `positional`, `option` or `flag`.
    let kind: String
    let isRepeating: Bool
    let isOptional: Bool
    let shouldDisplay: Bool
    let preferredName: Name?
    let valueName: String?
    let abstract: String?
    let defaultValue: String?

    /// The environment variable that stands for it; nil for what is no option.
    var variable: String? {
      guard kind != "positional", let name = preferredName?.name, !["help", "version"].contains(name) else {
        return nil
      }
      return "BATON_" + name.replacing("-", with: "_").uppercased()
    }
  }

  private struct Tool: Decodable { let command: CommandTree }

  let commandName: String
  let abstract: String?
  let discussion: String?
  let subcommands: [CommandTree]?
  let arguments: [Argument]?

  init(of root: any ParsableCommand.Type) throws {
    self = try JSONDecoder().decode(Tool.self, from: Data(root._dumpHelp().utf8)).command
  }

  /// Those that people are shown.
  var shown: [Argument] { (arguments ?? []).filter(\.shouldDisplay) }
}
