import BatonGateway
import Foundation
import NIOCore
import Testing

@Suite struct SettingsTests {
  private func settings(
    _ arguments: [String] = [], _ environment: [String: String] = [:]
  ) async throws -> GatewayConfiguration {
    try await GatewayConfiguration(
      Settings(GatewaySettings.table, arguments: arguments, environment: environment))
  }

  private func mistake(_ arguments: [String], _ environment: [String: String] = [:]) async -> Settings.Mistake? {
    do {
      _ = try await settings(arguments, environment)
      return nil
    } catch {
      return error as? Settings.Mistake
    }
  }

  private func file(_ json: String) throws -> String {
    let path = FileManager.default.temporaryDirectory.appending(path: "baton-\(UUID().uuidString).json").path
    try json.write(toFile: path, atomically: true, encoding: .utf8)
    return path
  }

  @Test("flags win, then environment, then the file")
  func order() async throws {
    let path = try file(
      #"{"drain-delay":"1s","drain-time":"2s","max-devices":7,"window-bytes":65536,"insecure-no-auth":true}"#)
    defer { try? FileManager.default.removeItem(atPath: path) }
    let environment = ["BATON_DRAIN_TIME": "3s", "BATON_MAX_STALL": "4s"]
    let settings = try Settings(
      GatewaySettings.table, arguments: ["--config", path, "--max-stall=5s"], environment: environment)
    let configuration = try await GatewayConfiguration(settings)
    #expect(configuration.drainDelay == .seconds(1))
    #expect(configuration.drainTime == .seconds(3))
    #expect(configuration.devices.maxStall == .seconds(5))
    #expect(configuration.deviceLimits.all == 7)
    #expect(configuration.windowBytes == 65_536)
    #expect(settings.printed.contains("drain-delay: 1s  # file \(path)"))
    #expect(settings.printed.contains("drain-time: 3s  # environment BATON_DRAIN_TIME"))
    #expect(settings.printed.contains("max-stall: 5s  # flag --max-stall"))
    #expect(settings.printed.contains("sweep: 30s  # default"))
  }

  @Test("credentials are not printed")
  func hidden() async throws {
    let settings = try Settings(
      GatewaySettings.table, arguments: ["--redis", "redis://ann:secret@h:1/0"], environment: [:])
    #expect(settings.printed.contains("redis: redis://(hidden)@h:1/0"))
    #expect(!settings.printed.contains("secret@"))
    let hooks = try Settings(
      GatewaySettings.table, arguments: ["--webhook", "https://a.example/secret", "--webhook=http://b:1/secret"],
      environment: [:])
    #expect(hooks.printed.contains("webhook: https://a.example/(hidden),http://b:1/(hidden)"))
  }

  @Test("backends have paths of their own")
  func relays() async throws {
    let paths = try await settings(
      ["--relay", "/agent=http://ann:secret@h:1/x?a=b", "--relay=/a/b=https://h", "--relay", "/c=http://h,/d=http://h"]
    ).relayPaths
    #expect(Set(paths.keys) == ["/agent", "/a/b", "/c", "/d"])
    #expect(paths["/agent"]?.address.whole == "http://h:1/x?a=b" && paths["/agent"]?.isOneResource == true)
    for wrong in [
      "agent=http://h", "/agent", "/=http://h", "/agent/=http://h", "/a/../b=http://h", "/a b=http://h",
      "/a?b=http://h",
      "/agent=h", "/agent=ftp://h",
      "/v1/agent=http://h", "/healthz=http://h", "/demo/=http://h", "/baton.js=http://h",
      "/metrics=http://h", "/a=http://h,/a=http://h",
    ] {
      let mistake = await mistake(["--relay", wrong])
      #expect(mistake?.exitStatus == 78 && mistake?.description.hasPrefix("--relay ") == true, "\(wrong)")
    }
  }

  @Test("wrong usage is 64, a wrong value 78, and both say what to mend")
  func mistakes() async throws {
    #expect(await mistake(["--listn", "x"]) == .usage("unknown option --listn; did you mean --listen?"))
    #expect(await mistake(["--listen"])?.exitStatus == 64)
    #expect(await mistake(["--node", "a", "--node", "b"])?.exitStatus == 64)
    #expect(await mistake(["positional"])?.exitStatus == 64)
    for arguments in [
      ["--drain-delay", "5"], ["--max-entry-bytes", "1MB"], ["--max-devices", "0"], ["--wakeup", "push"],
      ["--redis", "http://x"], ["--listen", "nowhere"], ["--listen", "unix:relative"],
      ["--listen", "unix:/" + String(repeating: "x", count: 107)], ["--listen", "0.0.0.0:1"], ["--listen", ":1"],
      ["--listen", "[::]:1"], ["--allowed-origins", "example.com"], ["--auth-secret-file", "/does/not/exist"],
      ["--tls-cert", "/x"], ["--tls-key", "/x"], ["--auth-jwks", "/x"], ["--config", "/does/not/exist"],
      ["--key-prefix", "a{b"], ["--public-url", "chat.example"],
    ] {
      #expect(await mistake(arguments)?.exitStatus == 78, "\(arguments)")
    }
    #expect(await mistake([], ["BATON_SWEEP": "soon"])?.description.hasPrefix("BATON_SWEEP must be a time") == true)
    let unknown = try file(#"{"drain_delay":"1s"}"#)
    defer { try? FileManager.default.removeItem(atPath: unknown) }
    #expect(await mistake(["--config", unknown])?.description.contains("drain_delay") == true)
  }

  @Test(
    "what is wrong in a file is told with its place",
    arguments: [
      (#"{"drain-delay":1}"#, "drain-delay in "), (#"{"max-devices":1.5}"#, "max-devices in "),
      (#"{"max-devices":true}"#, "max-devices in "), (#"{"insecure-no-auth":1}"#, "insecure-no-auth in "),
      (#"{"allowed-origins":[1]}"#, "allowed-origins in "), (#"{"listen":null}"#, "listen in "),
      (#"["listen"]"#, "must hold a JSON object"), ("{", "can't be read as JSON"),
    ])
  func wrongFile(json: String, words: String) async throws {
    let path = try file(json)
    defer { try? FileManager.default.removeItem(atPath: path) }
    let mistake = await mistake(["--config", path])
    #expect(mistake?.exitStatus == 78 && mistake?.description.contains(words) == true, "\(mistake as Any)")
  }

  @Test("a list is an array, or a text with commas")
  func listInAFile() async throws {
    for json in [#"["https://a.example","https://b.example"]"#, #""https://a.example,https://b.example""#] {
      let path = try file("{\"allowed-origins\":\(json)}")
      defer { try? FileManager.default.removeItem(atPath: path) }
      let settings = try Settings(GatewaySettings.table, arguments: ["--config", path], environment: [:])
      #expect(settings.list("allowed-origins") == ["https://a.example", "https://b.example"])
    }
  }

  @Test("loopback needs no key, others do")
  func loopback() async throws {
    for address in ["127.0.0.1:1", "127.9.9.9:1", "localhost:1", "[::1]:1", "unix:/run/x.sock", "unix:///run/x.sock"] {
      #expect(await mistake(["--listen", address]) == nil, "\(address)")
    }
    #expect(await mistake(["--listen", "0.0.0.0:1", "--insecure-no-auth"]) == nil)
    let path = try file("0123456789abcdef0123456789abcdef\n")
    let short = try file("0123456789abcdef0123456789abcde\n\n")
    defer { for path in [path, short] { try? FileManager.default.removeItem(atPath: path) } }
    #expect(await mistake(["--listen", "0.0.0.0:1", "--auth-secret-file", path]) == nil)
    #expect(await mistake(["--auth-secret-file", short])?.description.contains("at least 32 bytes") == true)
  }

  @Test("quantities")
  func quantities() {
    #expect(Quantity.milliseconds("500ms") == 500)
    #expect(Quantity.milliseconds("5m") == 300_000)
    #expect(Quantity.milliseconds("24h") == 86_400_000)
    #expect(Quantity.bytes("64KiB") == 65_536)
    #expect(Quantity.bytes("7") == 7)
    for wrong in ["", "s", "-1s", "1.5s", "1 s", "99999999999999999999s", "9999999999999h"] {
      #expect(Quantity.milliseconds(wrong) == nil, "\(wrong)")
    }
  }

  @Test("every option that there is is told by --help")
  func help() {
    let help = Settings.help(GatewaySettings.table)
    for setting in GatewaySettings.table {
      #expect(help.contains("--\(setting.name)") && help.contains(setting.variable), "\(setting.name)")
    }
  }
}
