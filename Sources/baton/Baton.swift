import ArgumentParser
import BatonGateway
import Foundation

@main
struct Baton: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "baton", abstract: "Streams AI answers that survive lost connections.", version: batonVersion,
    subcommands: commands)

  static var commands: [any ParsableCommand.Type] {
    var commands: [any ParsableCommand.Type] = [
      Serve.self, Dev.self, Attach.self, Publish.self, CheckCommand.self, Token.self, Manual.self,
    ]
    #if os(Linux)
      commands.append(Bench.self)
    #endif
    return commands
  }

  static func main() async {
    ProcessStart.prepare()
    let status = await status(of: Array(CommandLine.arguments.dropFirst()))
    LineOutput.standardError.flush(within: .seconds(2))
    Foundation.exit(status)
  }

  private static func status(of arguments: [String]) async -> Int32 {
    // Completions are told of every option.
    let isDescribed = arguments.first?.hasPrefix("--generate-completion-script") == true
    let root: any ParsableCommand.Type = isDescribed ? DescribedBaton.self : Baton.self
    do {
      do {
        if isDescribed { _ = try root.parseAsRoot(arguments) }
        let environment = OptionVariables(environment: ProcessInfo.processInfo.environment)
        var command = try environment.parse(arguments)
        if var command = command as? any AsyncParsableCommand { try await command.run() } else { try command.run() }
        return 0
      } catch {
        let (status, message) = (root.exitCode(for: error).rawValue, root.fullMessage(for: error))
        guard !message.isEmpty else { return status }
        if status == 0 {
          try StandardOutput.write(message + "\n")
        } else {
          LineOutput.standardError.write(message + "\n")
        }
        return status
      }
    } catch {
      return unwritten(error, by: "baton")
    }
  }

  /// The status of a command whose output was not taken.
  static func unwritten(_ failure: Descriptor.Failure, by command: String) -> Int32 {
    if failure.nobodyReads { return 0 }
    LineOutput.standardError.write("\(command): \(failure)\n")
    return ExitStatus.output.rawValue
  }
}
