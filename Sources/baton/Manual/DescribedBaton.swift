import ArgumentParser
import BatonGateway

/// The commands as completions and manual pages tell of them: with `serve`'s options, which it reads from a table of its own.
struct DescribedBaton: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: Baton._commandName, abstract: Baton.configuration.abstract, version: Baton.configuration.version,
    subcommands: Baton.commands.map { $0 == Serve.self ? DescribedServe.self : $0 })
}

/// Never run.
private struct DescribedServe: ParsableCommand, CustomReflectable {
  static let configuration = CommandConfiguration(
    commandName: Serve._commandName, abstract: Serve.configuration.abstract, discussion: Serve.discussion)

  init() {}
  init(from decoder: any Decoder) throws { _ = try decoder.container(keyedBy: Name.self) }

  var customMirror: Mirror {
    Mirror(self, children: GatewaySettings.table.map { ("_\($0.name)", Self.argument($0)) })
  }

  private static func argument(_ setting: Setting) -> Any {
    let help = ArgumentHelp("\(setting.help).", valueName: setting.placeholder.lowercased())
    switch setting.kind {
    case .flag: return Flag<Bool>(wrappedValue: false, name: .customLong(setting.name), help: help)
    case .choice(let words):
      return Option<String>(
        wrappedValue: setting.standard ?? "", name: .customLong(setting.name), help: help, completion: .list(words))
    default:
      let completion: CompletionKind? = setting.placeholder == "PATH" ? .file() : nil
      guard let standard = setting.standard else {
        return Option<String?>(name: .customLong(setting.name), help: help, completion: completion)
      }
      return Option<String>(wrappedValue: standard, name: .customLong(setting.name), help: help, completion: completion)
    }
  }

  private struct Name: CodingKey {
    let stringValue: String
    let intValue: Int? = nil
    init?(stringValue: String) { self.stringValue = stringValue }
    init?(intValue: Int) { nil }
  }
}
