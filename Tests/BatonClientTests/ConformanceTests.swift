import Foundation
import Testing

@testable import BatonClient

/// The cases that `baton.js` runs too. Where they are, and their format: Tests/Conformance/client/README.md.
@Suite struct ConformanceTests {
  private static func load(_ name: String) throws -> [[String: Any]] {
    let folder = URL(filePath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
    let data = try Data(contentsOf: folder.appending(path: "Conformance/client/\(name).json"))
    return try #require(try JSONSerialization.jsonObject(with: data) as? [[String: Any]])
  }

  @Test func everyCase() throws {
    let cases = try Self.load("core")
    #expect(cases.count >= 91)
    for one in cases { try run(one) }
  }

  @Test func theConstantsAreThoseOfEveryClient() throws {
    let limits = try #require(try Self.load("limits").first?["limits"] as? [String: Int])
    typealias Ours = ClientMachine.Limits
    #expect(
      limits == [
        "backoffBase": Int(Ours.backoffBase), "backoffCap": Int(Ours.backoffCap), "healthy": Ours.healthy,
        "connect": Ours.connect, "ping": Ours.ping, "pong": Ours.pong, "retryAfter": Int(Ours.retryAfter),
        "unanswered": Ours.unanswered, "unreachable": Ours.unreachable, "shortToken": Ours.shortToken,
        "tokenPause": Ours.tokenPause,
      ])
  }

  private func run(_ one: [String: Any]) throws {
    let name = try #require(one["name"] as? String)
    var machine = ClientMachine(try Self.options(one["options"] as? [String: Any] ?? [:]))
    var at = 0
    for (number, step) in try #require(one["steps"] as? [[String: Any]]).enumerated() {
      at = step["at"] as? Int ?? at
      let random = (step["random"] as? NSNumber)?.doubleValue ?? 0.5
      let actions = machine.handle(try Self.event(step), at: at, random: random)
      let expected = step["then"] as? [[String: Any]] ?? []
      #expect(actions.count == expected.count, "\(name), step \(number): \(actions)")
      for (action, expected) in zip(actions, expected) {
        let told = try Self.told(action)
        #expect(Self.fits(told, expected), "\(name), step \(number): \(told) is not \(expected)")
      }
      if let offset = step["offset"] as? String {
        #expect(machine.offset == offset, "\(name), step \(number)")
      }
    }
  }

  private static func options(_ options: [String: Any]) throws -> ClientMachine.Options {
    var result = ClientMachine.Options()
    for (name, value) in options {
      switch name {
      case "urls": result.urls = try #require(value as? Int)
      case "offset": result.offset = value as? String
      case "last": result.last = value as? Int
      case "response": result.response = value as? String
      case "rollup": result.rollup = "\(value)"
      case "until": result.until = value as? String
      case "device": result.device = value as? String
      case "renewsToken": result.renewsToken = try #require(value as? Bool)
      case "maxUnanswered": result.maxUnanswered = try #require(value as? Int)
      default: Issue.record("unknown option \(name)")
      }
    }
    return result
  }

  private static func event(_ step: [String: Any]) throws -> ClientMachine.Event {
    switch try #require(step["event"] as? String) {
    case "start": return .start
    case "opened": return .opened
    case "frame":
      let data = try JSONSerialization.data(
        withJSONObject: step["frame"] ?? NSNull(), options: [.fragmentsAllowed])
      return .frame(try Frame(json: String(decoding: data, as: UTF8.self)))
    case "garbled": return .garbled
    case "closed": return .closed(code: try #require(step["code"] as? Int))
    case "failed": return .failed
    case "refused":
      let retryAfterMs = (step["retryAfterMs"] as? NSNumber)?.doubleValue ?? 0
      return .refused(
        status: try #require(step["status"] as? Int), retryAfterMs: retryAfterMs,
        problem: step["problem"] as? Bool ?? false)
    case "timer": return .timer
    case "token": return .token(try #require(step["token"] as? String))
    case "submit":
      let frame = try #require(step["frame"] as? [String: String])
      let key = try #require(frame["key"])
      return .submit(
        frame["type"] == "input"
          ? Submission(key: key, kind: .input(data: frame["data"] ?? ""))
          : Submission(key: key, kind: .cancel(response: frame["response"] ?? "")))
    case "withdraw": return .withdraw(key: try #require(step["key"] as? String))
    case "skim": return .skim
    case "suspend": return .suspend
    case "resume": return .resume
    case "move": return .move
    case "close": return .close
    case let other:
      Issue.record("unknown event \(other)")
      return .heard
    }
  }

  private static func told(_ action: ClientMachine.Action) throws -> [String: Any] {
    switch action {
    case .connect(let url, let query):
      let query = Dictionary(query.map { ($0.name, $0.value) }) { first, _ in first }
      return ["do": "connect", "url": url, "query": query]
    case .disconnect(let code): return ["do": "disconnect", "code": code]
    case .send(let frame): return ["do": "send", "frame": try JSONSerialization.jsonObject(with: frame.json)]
    case .timer(let milliseconds): return ["do": "timer", "ms": milliseconds]
    case .deliver(let frame) where frame.json.isEmpty:
      guard case .error(let code, _, _) = frame.kind else { return [:] }
      return ["do": "deliver", "frame": ["type": "error", "code": code]]
    case .deliver(let frame):
      return ["do": "deliver", "frame": try JSONSerialization.jsonObject(with: Data(frame.json.utf8))]
    case .settle(let key, .success(let id)): return ["do": "settle", "key": key, "inboxId": id]
    case .settle(let key, .failure(let error)):
      let message: [String: Any] = error.message.map { ["message": $0] } ?? [:]
      return ["do": "settle", "key": key, "error": error.code.rawValue].merging(message) { first, _ in first }
    case .needToken(0): return ["do": "needToken"]
    case .needToken(let milliseconds): return ["do": "needToken", "afterMs": milliseconds]
    case .state(let state): return ["do": "state", "state": state.rawValue]
    case .end(.finished): return ["do": "end", "reason": "finished"]
    case .end(.closed): return ["do": "end", "reason": "closed"]
    case .end(.rejectedByCode(let code)): return ["do": "end", "reason": "rejected", "code": code]
    case .end(.rejectedByStatus(let status)): return ["do": "end", "reason": "rejected", "status": status]
    }
  }

  /// Frames may have more members than the case names; everything else is compared whole.
  private static func fits(_ told: [String: Any], _ expected: [String: Any]) -> Bool {
    guard let frame = expected["frame"] as? [String: Any] else { return same(told, expected) }
    guard let ours = told["frame"] as? [String: Any] else { return false }
    var rest = told
    rest["frame"] = ours.filter { frame.keys.contains($0.key) }
    return same(rest, expected)
  }

  private static func same(_ a: [String: Any], _ b: [String: Any]) -> Bool {
    NSDictionary(dictionary: a).isEqual(NSDictionary(dictionary: b))
  }
}
