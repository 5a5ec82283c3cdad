import ArgumentParser
import BatonGateway
import BatonUpstream
import Foundation
import HummingbirdCore
import Logging
import NIOCore
import NIOPosix
import UnixSignals

struct Dev: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    abstract: "Try Baton: a private Redis, gateways, and the demo page. Nothing to configure.",
    discussion: "Everything is gone again after Ctrl-C.")

  @Option(help: "Where the demo page is served; port 0 picks a free one.")
  var listen = "127.0.0.1:8080"

  @Option(help: "How many gateways, 1 to 16.")
  var gateways = 2

  @Option(help: "An OpenAI-compatible endpoint whose model answers on the page, such as http://127.0.0.1:8000.")
  var openai: String?

  @Option(help: "Which of its models; the first of its list that answers questions unless told.")
  var model: String?

  @Flag(help: "Let --listen be reached by other machines, such as your phone; nobody is asked for a token.")
  var insecureNoAuth = false

  func validate() throws {
    guard (1...16).contains(gateways) else { throw ValidationError("--gateways must be from 1 to 16.") }
    if let openai, UpstreamAddress(openai) == nil {
      throw ValidationError("--openai must be an address like http://127.0.0.1:8000.")
    }
  }

  func run() async throws {
    do throws(DevFailure) {
      try await DevServer(listen: listen, gateways: gateways, openai: openai, model: model, isOpen: insecureNoAuth)
        .run()
    } catch {
      say("dev", "\(error)")
      throw ExitCode(error.status.rawValue)
    }
  }
}

/// Everything that `baton dev` starts, and its end.
struct DevServer {
  let listen: String
  let gateways: Int
  let openai: String?
  let model: String?
  let isOpen: Bool

  func run() async throws(DevFailure) {
    guard let colon = listen.lastIndex(of: ":"), let port = UInt16(listen[listen.index(after: colon)...]) else {
      throw .configuration("--listen must be HOST:PORT, such as 127.0.0.1:8080")
    }
    let host = listen[..<colon].trimmingCharacters(in: ["[", "]"])
    let isLoopback = ListenAddress.isLoopback(host)
    if !isLoopback, !isOpen {
      throw .configuration(
        "--listen \(listen) is open to other machines, and nobody would be asked for a token: say --insecure-no-auth")
    }
    // Taken before anything runs, so that no signal leaves something behind.
    let signals = await UnixSignalsSequence(trapping: .sigint, .sigterm, .sighup)
    let redis = try await PrivateRedis.start()
    do {
      try await serve(host: host, port: Int(port), isLoopback: isLoopback, redis: redis, until: signals)
    } catch {
      await redis.stop()
      throw error as? DevFailure ?? .fault("\(error)")
    }
    await redis.stop()
  }

  private func serve(
    host: String, port: Int, isLoopback: Bool, redis: PrivateRedis, until signals: UnixSignalsSequence
  ) async throws {
    let commands = try await redis.connect()
    let addresses = isLoopback ? [] : try System.enumerateDevices().compactMap { $0.address?.ipAddress }
    // The page's own port is not known before it listens, so the server is bound first.
    let listener = try await DevListener(host: host, port: port)
    let origins = (["localhost", "127.0.0.1", "[::1]"] + addresses.map { $0.contains(":") ? "[\($0)]" : $0 })
      .map { "http://\($0):\(listener.port)" }
    let fleet = Fleet(
      count: gateways, host: host,
      options: [
        "--redis", redis.url, "--drain-delay", "0s", "--drain-time", "1s", "--log-level", "warning",
      ] + (openai.map { ["--openai", $0] } ?? [])
        + (isLoopback ? [] : ["--insecure-no-auth", "--allowed-origins", origins.joined(separator: ",")]))
    let model = Model(endpoint: openai, model: model, redis: redis.url)
    let routes = DevRoutes(
      fleet: fleet, model: model, redis: redis, commands: commands,
      origins: isLoopback ? OriginRule() : OriginRule(allowed: Set(origins)),
      host: isLoopback && host != "::1" ? "127.0.0.1" : "localhost")
    try await fleet.start()
    listener.serve(routes)
    let shown = host.contains(":") ? "[\(host)]" : host
    LineOutput.standardError.write(
      """
      listening on http://\(shown):\(listener.port)
      The demo is at http://localhost:\(listener.port)/demo and Redis at \(redis.url)
      Ctrl-C ends it all.

      """)
    for await _ in signals { break }
    LineOutput.standardError.write("ending\n")
    await model.stop()
    await fleet.stop()
    PrivateRedis.close(commands)
    listener.stop()
  }
}
