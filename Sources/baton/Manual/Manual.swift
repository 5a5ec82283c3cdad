import ArgumentParser
import BatonGateway

struct Manual: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    abstract: "Print a manual page, as man reads it.",
    discussion:
      "To read it: baton manual serve | man -l -. To install it: baton manual serve > /usr/local/share/man/man1/baton-serve.1"
  )

  @Argument(help: "The command; all of them in one page unless told.")
  var command: String?

  func run() throws {
    let root = try CommandTree(of: DescribedBaton.self)
    guard let name = command else { return try StandardOutput.write(ManualPage(of: root).text) }
    guard let command = root.subcommands?.first(where: { $0.commandName == name }), name != "help" else {
      throw ValidationError("There is no command \(name.debugDescription).")
    }
    try StandardOutput.write(ManualPage(of: command, within: root).text)
  }
}

/// A command's page in the macros of man(7).
struct ManualPage {
  private(set) var text = ""

  init(of command: CommandTree, within root: CommandTree? = nil) {
    let names = [root, command].compactMap(\.?.commandName)
    line(
      ".TH", [names.joined(separator: "-").uppercased(), "1", "", "Baton \(batonVersion)", "Baton"])
    line(".SH", ["NAME"])
    let abstract = command.abstract ?? ""
    plain(
      "\(names.joined(separator: "-")) \\- "
        + Self.escaped(abstract.hasSuffix(".") ? String(abstract.dropLast()) : abstract))
    line(".SH", ["SYNOPSIS"])
    synopsis(command, names.joined(separator: " "))
    if let discussion = command.discussion {
      line(".SH", ["DESCRIPTION"])
      paragraphs(discussion)
    }
    options(command)
    let commands = (command.subcommands ?? []).filter { $0.commandName != "help" }
    if !commands.isEmpty {
      line(".SH", ["COMMANDS"])
      for one in commands {
        line(".SS", ["\(command.commandName) \(one.commandName)"])
        paragraphs([one.abstract, one.discussion].compactMap(\.self).joined(separator: "\n\n"))
        options(one, isWithinPage: true)
      }
    }
    line(".SH", ["EXIT STATUS"])
    for (status, meaning) in [(0, "All is well.")] + ExitStatus.allCases.map({ ($0.rawValue, $0.meaning) }) {
      line(".TP", [])
      plain("\\fB\(status)\\fR")
      plain(Self.escaped(meaning))
    }
  }

  private mutating func synopsis(_ command: CommandTree, _ name: String) {
    let positional = command.shown.filter { $0.kind == "positional" }.map { argument in
      let value = "\\fI\(Self.escaped(argument.valueName ?? ""))\\fR" + (argument.isRepeating ? " ..." : "")
      return argument.isOptional ? "[\(value)]" : value
    }
    let rest = command.subcommands?.isEmpty == false ? ["\\fIcommand\\fR", "[\\fIoptions\\fR]"] : ["[\\fIoptions\\fR]"]
    plain((["\\fB\(Self.escaped(name))\\fR"] + rest + positional).joined(separator: " "))
  }

  private mutating func options(_ command: CommandTree, isWithinPage: Bool = false) {
    guard !command.shown.isEmpty else { return }
    if !isWithinPage { line(".SH", ["OPTIONS"]) }
    for argument in command.shown {
      line(".TP", [])
      let value = argument.kind == "flag" ? "" : "\\fI\(Self.escaped(argument.valueName ?? ""))\\fR"
      let name = argument.preferredName.map { ($0.kind == "long" ? "--" : "-") + $0.name }
      plain(
        [name.map { "\\fB\(Self.escaped($0))\\fR" }, value].compactMap(\.self).filter { !$0.isEmpty }.joined(
          separator: " "))
      plain(Self.escaped(argument.abstract ?? ""))
      let standard = argument.defaultValue.map { $0.isEmpty || argument.kind == "flag" ? "" : "Default: \($0)." } ?? ""
      let variable = argument.variable.map { "Environment: \($0)." } ?? ""
      let last = [standard, variable].filter { !$0.isEmpty }.joined(separator: " ")
      if !last.isEmpty { plain(Self.escaped(last)) }
    }
  }

  private mutating func paragraphs(_ words: String) {
    for (index, paragraph) in words.components(separatedBy: "\n\n").filter({ !$0.isEmpty }).enumerated() {
      if index > 0 { line(".PP", []) }
      for part in paragraph.split(separator: "\n") { plain(Self.escaped(String(part))) }
    }
  }

  private mutating func line(_ macro: String, _ words: [String]) {
    text +=
      ([macro] + words.map { "\"\(Self.escaped($0).replacing("\"", with: "\\(dq"))\"" }).joined(separator: " ") + "\n"
  }

  /// - Parameter escaped: text in which nothing but escapes of ours means anything.
  private mutating func plain(_ escaped: String) {
    // A point or an apostrophe at a line's beginning is a request.
    text += (escaped.hasPrefix(".") || escaped.hasPrefix("'") ? "\\&" : "") + escaped + "\n"
  }

  private static func escaped(_ text: String) -> String {
    text.replacing("\\", with: "\\e").replacing("-", with: "\\-")
  }
}
