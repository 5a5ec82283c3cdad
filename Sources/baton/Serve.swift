import ArgumentParser
import BatonGateway
import Foundation

struct Serve: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    abstract: "Run a gateway: devices attach to it and are sent what is in Redis.",
    discussion: "\(discussion)\n\n\(Settings.help(GatewaySettings.table))")

  static let discussion = """
    Each option is also an environment variable and a key of the JSON file given with --config (the flag's name without \
    --). Flags win, then environment. Times are written 500ms, 30s, 5m; sizes 64KiB, 1MiB.
    """

  @Argument(parsing: .allUnrecognized, help: .hidden)
  var options: [String] = []

  func run() async throws {
    let status = await ServeCommand.run(options, environment: ProcessInfo.processInfo.environment) {
      try GatewayBackend($0, $1)
    }
    throw ExitCode(status)
  }
}
