import Foundation
import NIOCore
import NIOPosix
import RedisServer
import TestSupport
import Testing

@testable import BatonRedis
@testable import BatonStore

/// The model is held to a real redis-server: the same commands over the same connections bring the same replies.
@Suite struct ModelRedisServerTests {
  /// Three connections each to the model and to a real server: one reads and is tracked, one hears its notices.
  private final class Pair {
    enum Role: Int, CaseIterable { case reader, notices, other }

    let model = ModelRedisServer()
    let server: RedisServer
    private var clients: [ModelRedisServer.Client] = []
    private var output: [[RESPReply]] = [[], [], []]
    private var connections: [RedisConnection] = []
    private let pushed = Pushed()

    final class Pushed: @unchecked Sendable {
      private let lock = NSLock()
      private var all: [String] = []
      func add(_ text: String) { lock.withLock { all.append(text) } }
      func take() -> [String] {
        lock.withLock {
          defer { all = [] }
          return all
        }
      }
    }

    init() async throws {
      server = try RedisServer()
      for role in Role.allCases {
        let reader = RESPReader()
        clients.append(
          model.connect { [unowned self] bytes in
            try? reader.read(bytes) { self.output[role.rawValue].append($0) }
          })
        let connector = try RedisConnector(RedisURL(server.unixURL))
        connections.append(try await connector.connect(on: MultiThreadedEventLoopGroup.singleton.next()).get())
      }
      let notices = connections[Role.notices.rawValue]
      let pushed = pushed
      try await notices.eventLoop.submit { notices.onPush = { pushed.add("\($0)") } }.get()
    }

    func ask(_ role: Role, _ commands: [[String]]) async throws -> (model: [String], real: [String]) {
      let encoded = commands.map { words in RedisCommand(words[0], words.dropFirst().map { .string($0) }) }
      let real = try await connections[role.rawValue].send(encoded, timeout: .seconds(30))
      var bytes = ByteBuffer()
      for command in encoded { bytes.writeImmutableBuffer(command.encoded) }
      model.receive(bytes, from: clients[role.rawValue])
      let answered = output[role.rawValue]
      output[role.rawValue] = []
      return (answered.map(Self.normal), real.map(Self.normal))
    }

    /// What has come over the notices' connection since the last look.
    func notices() async throws -> (model: [String], real: [String]) {
      // All earlier notices come before its answer.
      _ = try await connections[Role.notices.rawValue].send([.ping], timeout: .seconds(30))
      let model = output[Role.notices.rawValue].map { "\($0)" }.filter { $0.contains("message") }
      output[Role.notices.rawValue] = []
      return (model, pushed.take())
    }

    /// Each server knows the notices' connection by an id of its own.
    func track() async throws -> [String] {
      let id = try server.cli("CLIENT", "LIST").split(separator: "\n").first { $0.contains(" sub=1 ") }
      let real = id?.firstMatch(of: #/id=(\d+)/#)?.output.1 ?? ""
      let (own, reader) = (clients[Role.notices.rawValue].id, Role.reader.rawValue)
      model.receive(RedisCommand.trackingOn(redirect: own).encoded, from: clients[reader])
      let answered = output[reader].map { "\($0)" }
      output[reader] = []
      let command = RedisCommand.trackingOn(redirect: Int64(real) ?? 0)
      return answered + (try await connections[reader].send([command], timeout: .seconds(30)).map { "\($0)" })
    }

    /// Without what no program reads: the shape of the radix tree, and where in a script it failed.
    private static func normal(_ reply: RESPReply) -> String {
      var text = "\(reply)"
      text.replace(#/"radix-tree-keys", \d+, "radix-tree-nodes", \d+, /#, with: "")
      text.replace(#/ script: [0-9a-f]{40}, on @user_script:\d+\./#, with: "")
      return text
    }
  }

  private func compare(
    _ pair: Pair, _ role: Pair.Role, _ commands: [[String]], _ sourceLocation: SourceLocation = #_sourceLocation
  ) async throws {
    let (model, real) = try await pair.ask(role, commands)
    #expect(model == real, "\(commands.map { $0.map { $0.prefix(40) } })", sourceLocation: sourceLocation)
  }

  private static let look = String(
    buffer: Look.script.commands(key: "k", "XREAD", ["COUNT", 1, "STREAMS", "k", "0-0"])[0].encoded
  ).split(separator: "\r\n").map(String.init)[4]

  @Test func answersAsRedisDoes() async throws {
    let pair = try await Pair()
    var dice = Dice(seed: UInt64.random(in: 1...1_000_000_000))
    let seed = dice
    var time = 1
    func key() -> String { "b:{\(dice.roll(0...2))}" }
    func one() -> [String] {
      let key = key()
      switch dice.roll(0...15) {
      case 0...4:
        time += dice.roll(0...3)
        var words = ["XADD", key]
        if dice.chance(20) { words.append("NOMKSTREAM") }
        if dice.chance(20) { words += ["MAXLEN", "=", "\(dice.roll(1...5))"] }
        return words + ["\(time)-\(dice.roll(0...2))", "data", "x\(time)", "n", "1"]
      case 5: return ["XTRIM", key, "MAXLEN", "\(dice.roll(0...6))"]
      case 6: return ["XDEL", key, "\(dice.roll(1...time))-\(dice.roll(0...2))"]
      case 7: return [["DEL", key], ["SET", key, "other"], ["HSET", key, "f", "1", "g", "2"]][dice.roll(0...2)]
      case 8: return ["XREAD", "COUNT", "\(dice.roll(1...4))", "STREAMS", key, self.key(&dice), "0-0", "\(time)-0"]
      case 9: return ["XRANGE", key, "\(dice.roll(0...time))-1", "+", "COUNT", "3"]
      case 10: return ["XREVRANGE", key, "+", "\(dice.roll(0...time))-1", "COUNT", "3"]
      case 11: return ["XINFO", "STREAM", key]
      case 12: return ["EVAL", Self.look, "1", key, "XREAD", "COUNT", "2", "STREAMS", key, "0-0"]
      case 13:
        return [["HGET", key, "f"], ["HMGET", key, "f", "z"], ["HSCAN", key, "0", "COUNT", "5"]][dice.roll(0...2)]
      case 14:
        return [["TYPE", key], ["FROB", "a"], ["EVALSHA", String(repeating: "0", count: 40), "0"]][dice.roll(0...2)]
      default: return ["PING"]
      }
    }
    for _ in 0..<600 {
      let command = one()
      if dice.chance(25) {
        let (model, real) = try await pair.ask(.reader, [["MULTI"], command, one(), ["EXEC"]])
        guard model == real else {
          Issue.record("\(seed): MULTI \(command): \(model) is not \(real)")
          return
        }
      } else {
        let (model, real) = try await pair.ask(.reader, [command])
        guard model == real else {
          Issue.record("\(seed): \(command): \(model) is not \(real)")
          return
        }
      }
    }
  }

  private func key(_ dice: inout Dice) -> String { "b:{\(dice.roll(0...2))}" }

  @Test func tellsWhatHasChangedOnce() async throws {
    let pair = try await Pair()
    try await compare(pair, .notices, [["SUBSCRIBE", "__redis__:invalidate"], ["PING"], ["TYPE", "k"]])
    try await compare(pair, .reader, [["CLIENT", "TRACKING", "ON", "REDIRECT", "999"]])
    #expect(try await pair.track() == ["OK", "OK"])
    func told(_ sourceLocation: SourceLocation = #_sourceLocation) async throws -> [String] {
      let (model, real) = try await pair.notices()
      #expect(model == real, sourceLocation: sourceLocation)
      return real
    }
    let add = ["XADD", "k", "*", "a", "b"]
    _ = try await pair.ask(.other, [add])
    #expect(try await told().isEmpty)
    try await compare(pair, .reader, [["XREAD", "COUNT", "1", "STREAMS", "none", "also", "0-0", "0-0"]])
    _ = try await pair.ask(.other, [["XADD", "none", "*", "a", "b"], ["XADD", "none", "*", "a", "b"]])
    #expect(try await told().count == 1)
    // Inside MULTI, and inside a script.
    _ = try await pair.ask(.reader, [["MULTI"], ["XINFO", "STREAM", "k"], ["EXEC"]])
    _ = try await pair.ask(.other, [["DEL", "k"], add])
    #expect(try await told().count == 1)
    _ = try await pair.ask(
      .reader, [["EVAL", Self.look, "1", "k", "XREAD", "COUNT", "2", "STREAMS", "k", "0-0"]])
    _ = try await pair.ask(.other, [add])
    #expect(try await told().count == 1)
    // By the reader itself, by a write that changes nothing, and all at once.
    _ = try await pair.ask(.reader, [["XREAD", "COUNT", "1", "STREAMS", "k", "0-0"], add])
    #expect(try await told().count == 1)
    _ = try await pair.ask(.reader, [["XREAD", "COUNT", "1", "STREAMS", "k", "0-0"]])
    _ = try await pair.ask(.other, [["XADD", "no", "NOMKSTREAM", "*", "a", "b"], ["XTRIM", "k", "MAXLEN", "100"]])
    #expect(try await told().isEmpty)
    _ = try await pair.ask(.other, [["FLUSHALL"]])
    #expect(try await told().count == 1)
  }

  @Test(arguments: ["oom", "readOnly", "masterDown", "noReplicas", "misconf", "busy"])
  func refusesAsRedisDoes(what: String) async throws {
    let pair = try await Pair()
    try await compare(pair, .other, [["XADD", "k", "1-0", "a", "b"]])
    pair.model.mood = ModelRedisServer.Mood(rawValue: what)
    let server = pair.server
    var looping: Process?
    switch what {
    case "oom": try server.cli("CONFIG", "SET", "maxmemory", "1")
    case "readOnly":
      try server.cli("REPLICAOF", "127.0.0.1", "1")
    case "masterDown":
      try server.cli("CONFIG", "SET", "replica-serve-stale-data", "no")
      try server.cli("REPLICAOF", "127.0.0.1", "1")
    case "noReplicas": try server.cli("CONFIG", "SET", "min-replicas-to-write", "1")
    case "misconf":
      // No file can take a directory's place.
      try FileManager.default.createDirectory(
        at: server.directory.appending(path: "dump.rdb"), withIntermediateDirectories: false)
      try server.cli("CONFIG", "SET", "save", "3600 1")
      try server.cli("BGSAVE")
      try await eventually("the save fails") {
        try server.cli("INFO", "persistence").contains("rdb_last_bgsave_status:err")
      }
    case "busy":
      try server.cli("CONFIG", "SET", "busy-reply-threshold", "1")
      let process = Process()
      process.executableURL = URL(filePath: "/usr/bin/env")
      process.arguments = ["redis-cli", "-s", server.socketPath, "EVAL", "while true do end", "0"]
      process.standardOutput = FileHandle.nullDevice
      try process.run()
      looping = process
      try await eventually("the server is busy") { try server.cli("PING").hasPrefix("BUSY") }
    default: break
    }
    defer { if looping != nil { _ = try? server.cli("SCRIPT", "KILL") } }
    let read = ["XREAD", "COUNT", "2", "STREAMS", "k", "0-0"]
    try await compare(
      pair, .other, [["PING"], read, ["XRANGE", "k", "-", "+", "COUNT", "2"], ["XINFO", "STREAM", "k"]])
    try await compare(pair, .other, [["MULTI"], ["XINFO", "STREAM", "k"], read, ["EXEC"]])
    try await compare(
      pair, .other, [["EVAL", Self.look, "1", "k", "XREAD", "COUNT", "2", "STREAMS", "k", "0-0"]])
    try await compare(
      pair, .other, [["CLIENT", "SETNAME", "x"], ["SELECT", "0"], ["TYPE", "k"], ["HSCAN", "h", "0"]])
    try await compare(
      pair, .other,
      [["XADD", "b:{}", "NOMKSTREAM", "*", "-", "-"], ["XADD", "k", "2-0", "a", "b"], ["DEL", "nothing"]])
    try await compare(pair, .other, [step(["put", "?60000", "100", "stream", "", "d", "s", "k", "1", "a", "b"])])
    try await compare(
      pair, .other, [step(["append", "?60000", "100", "-", "0", "", "-", "1"])])
    try await compare(pair, .notices, [["SUBSCRIBE", "__redis__:invalidate"], ["PING"]])
  }

  private func step(_ arguments: [String]) -> [String] {
    ["EVAL", AppendScript.source, "4", "k", "k:producers", "k:inbox", "k:keys"] + arguments
  }

  @Test func takesTheStepAsTheScriptDoes() async throws {
    let pair = try await Pair()
    let put = ["put", "?60000", "100"]
    try await compare(pair, .other, [step(["append", "?60000", "100", "-", "0", "", "-", "1"])])
    for place in ["stream", "inbox", "both"] {
      let (model, real) = try await pair.ask(.other, [step(put + [place, "", "d", "", "key", "1", "a", "b"])])
      // The ids are the servers' times.
      #expect(model.map { $0.replacing(#/\d+-\d+/#, with: "ID") } == real.map { $0.replacing(#/\d+-\d+/#, with: "ID") })
    }
    try await compare(pair, .other, [["HGET", "k:producers", "/retention"]])
    try await compare(pair, .other, [["HSET", "k:producers", "r", "1 3 open w.1 5-0 1"]])
    let expire = ["expire", "?60000", "100", "r", "1"]
    try await compare(pair, .other, [step(expire + ["w.2"])])
    let (model, real) = try await pair.ask(.other, [step(expire + ["w.1"])])
    #expect(model.map { $0.replacing(#/\d+-\d+/#, with: "ID") } == real.map { $0.replacing(#/\d+-\d+/#, with: "ID") })
    try await compare(pair, .other, [step(expire + ["w.1"])])
    try await compare(pair, .other, [["DEL", "k"], step(expire + ["w.1"]), ["HGET", "k:producers", "r"]])
    try await compare(pair, .other, [["SET", "k", "x"], step(expire + ["w.1"])])
  }
}
