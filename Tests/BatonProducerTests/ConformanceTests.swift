import BatonRedis
import Foundation
import NIOCore
import NIOPosix
import RedisServer
import Testing

@testable import BatonProducer
@testable import BatonProtocol
@testable import BatonSession
@testable import BatonStore

/// The cases of `Tests/Conformance/producer`, by the values of BatonSession.
struct ConformanceCase: CustomStringConvertible, Sendable {
  enum Step {
    case call(AppendCall, reply: [String])
    case redis([String])
  }

  let description: String
  private let json: Data

  static let all: [ConformanceCase] = {
    let folder = URL(filePath: #filePath).appending(path: "../../Conformance/producer").standardized
    let files = (try? FileManager.default.contentsOfDirectory(at: folder, includingPropertiesForKeys: nil)) ?? []
    return files.filter { $0.pathExtension == "json" }.sorted { $0.path < $1.path }.compactMap { file in
      (try? Data(contentsOf: file)).map { ConformanceCase(file.deletingPathExtension().lastPathComponent, $0) }
    }
  }()

  private init(_ name: String, _ json: Data) {
    (description, self.json) = (name, json)
  }

  /// What needs more of Redis than the model has.
  var needsServer: Bool { description == "put" || description == "wrong-type" }

  private func parsed() throws -> [String: Any] {
    try #require(try JSONSerialization.jsonObject(with: json) as? [String: Any])
  }

  func contents(_ key: String) throws -> [[String]]? { try parsed()[key] as? [[String]] }

  /// Takes the steps one by one: generations are known only once they were answered.
  func steps(_ perform: (Step, inout [String: String]) async throws -> Void) async throws {
    var bound: [String: String] = [:]
    for case let step as [String: Any] in try #require(try parsed()["steps"] as? [Any]) {
      if let command = step["redis"] as? [String] {
        try await perform(.redis(command), &bound)
      } else {
        try await perform(
          .call(try call(step, bound), reply: try #require(step["reply"] as? [String])), &bound)
      }
    }
  }

  private func call(_ step: [String: Any], _ bound: [String: String]) throws -> AppendCall {
    func text(_ key: String) -> String {
      let value = step[key].map { "\($0)" } ?? ""
      return bound[value] ?? value
    }
    func fields(_ parts: [String]) -> [Entry.Field] {
      stride(from: 0, to: parts.count - 1, by: 2).map { Entry.Field(parts[$0], parts[$0 + 1]) }
    }
    switch step["call"] as? String {
    case "open", "append":
      let items = try (step["items"] as? [[Any]] ?? []).map { item -> ResponseItem in
        let rest = item.dropFirst().map { "\($0)" }
        switch item.first as? String {
        case "start": return .start(fields(rest))
        case "deltas": return .deltas(rest.map { ByteBuffer(string: $0) })
        case "part": return .deltas(rest.dropFirst().map { ByteBuffer(string: $0) }, part: rest.first)
        case "event": return .event(fields(rest))
        case "gap": return .gap(try #require(rest.first.flatMap { UInt64($0) }))
        case let kind:
          return .end(try #require(kind.flatMap { ResponseState(rawValue: $0) }), fields(rest))
        }
      }
      let write = ResponseWrite(
        response: text("response"), epoch: try #require(UInt64(text("epoch"))), generation: UInt64(text("generation")),
        token: text("token"), first: try #require(UInt64(text("first"))), items: items)
      return step["call"] as? String == "open" ? .open(write) : .append(write)
    case "expire":
      return .expire(
        response: text("response"), epoch: try #require(UInt64(text("epoch"))), token: text("token"))
    case "put":
      let place = try #require(EntryPut.Place(rawValue: text("where")))
      return .put(
        EntryPut(
          place, fields(step["fields"] as? [String] ?? []), scope: text("scope"), device: text("device"),
          subject: text("subject"), key: text("key")))
    default: return .delete
    }
  }
}

/// Whether `reply` begins with what was expected: `*` is anything, `$name` the same thing everywhere.
private func fits(_ reply: [String], _ expected: [String], _ bound: inout [String: String]) -> Bool {
  guard reply.count >= expected.count else { return false }
  return zip(expected, reply).allSatisfy { want, got in
    if want.hasPrefix("$") {
      bound[want] = bound[want] ?? got
      return bound[want] == got
    }
    return want == "*" || want == got
  }
}

@Suite struct ConformanceTests {
  @Test func casesAreThere() { #expect(ConformanceCase.all.count >= 13) }

  @Test(arguments: ConformanceCase.all) func onTheServer(_ example: ConformanceCase) async throws {
    let server = try RedisServer()
    let connection = try await connect(server)
    let keys = SessionKeys(try #require(SessionName("s")), prefix: "baton:")
    let names = ["stream": keys.stream, "producers": keys.producers, "inbox": keys.inbox, "keys": keys.keys]
    try await example.steps { step, bound in
      switch step {
      case .redis(let words):
        let command = words.map { RedisCommand.Argument.string(names[$0] ?? $0) }
        _ = try await connection.send(RedisCommand(words[0], Array(command.dropFirst())), timeout: .seconds(10))
      case .call(let call, let expected):
        let reply = try await connection.reply(to: call, keys)
        #expect(fits(reply, expected, &bound), "\(call): \(reply), expected \(expected)")
      }
    }
    for (key, contents) in [(keys.stream, try example.contents("stream")), (keys.inbox, try example.contents("inbox"))]
    {
      guard let contents else { continue }
      let entries = try await connection.send(
        .xrange(key, from: .zero, through: .max, count: 1000), timeout: .seconds(10)
      )
      .decodedEntries().entries
      #expect(entries.map(\.texts) == contents)
    }
    try await connection.eventLoop.submit { connection.close() }.get()
  }

  @Test(arguments: ConformanceCase.all.filter { !$0.needsServer }) func onTheModel(_ example: ConformanceCase)
    async throws
  {
    #expect(try await complaints(example, ModelScript()) == [])
  }

  /// Each fault of a script is noticed by a case.
  @Test(arguments: ModelScript.Fault.allCases) func faultIsNoticed(_ fault: ModelScript.Fault) async throws {
    var noticed: [String] = []
    for example in ConformanceCase.all where !example.needsServer {
      if try await complaints(example, ModelScript(fault: fault)) != [] { noticed.append(example.description) }
    }
    #expect(noticed != [])
  }

  private func complaints(_ example: ConformanceCase, _ model: ModelScript) async throws -> [String] {
    var model = model
    var complaints: [String] = []
    try await example.steps { step, bound in
      switch step {
      case .redis(let words):
        if words.contains("stream") { (model.session.exists, model.session.entries) = (false, []) }
        if words == ["HSET", "producers", "r1", "1 1 open a.0 1-1 0"] {
          model.session.records["r1"] = .init(epoch: 1, n: 1, state: .open, token: "a.0", id: "1-1")
        } else if words.contains("producers") {
          (model.session.records, model.session.generation) = ([:], 0)
        }
      case .call(let call, let expected):
        let reply = model.run(call)
        if !fits(reply, expected, &bound) { complaints.append("\(call): \(reply), expected \(expected)") }
      }
    }
    if let stream = try example.contents("stream"), model.session.entries != stream {
      complaints.append("\(model.session.entries)")
    }
    return complaints
  }
}

func connect(_ server: RedisServer) async throws -> RedisConnection {
  try await RedisConnector(RedisURL(server.unixURL)).connect(on: MultiThreadedEventLoopGroup.singleton.any()).get()
}

extension RedisConnection {
  /// Calls the script as a producer or gateway does.
  func reply(to call: AppendCall, _ keys: SessionKeys, _ retention: Retention = Retention()) async throws -> [String] {
    let arguments = call.arguments(retention).map { argument -> RedisCommand.Argument in
      switch argument {
      case .string(let text): .string(text)
      case .bytes(let bytes): .bytes(bytes)
      }
    }
    let reply = try await run(RedisScript(AppendScript.source), keys: keys.all, arguments, timeout: .seconds(10))
    return try #require(reply.elements).compactMap(\.text)
  }
}
