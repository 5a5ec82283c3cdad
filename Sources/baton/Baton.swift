import ArgumentParser

@main
struct Baton: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "baton", abstract: "Streams AI answers that survive lost connections.",
    subcommands: [Serve.self, Dev.self, Attach.self, Publish.self, Token.self])
}
