import Foundation
import NIOCore
import Testing

@testable import BatonUpstream

/// `Tests/Conformance/upstream/answers.json`: what servers send, and what must come of it.
struct AnswersTests {
  struct File: Decodable {
    let cases: [Case]
  }

  struct Case: Decodable, CustomTestStringConvertible, Sendable {
    let name: String
    let status: Int
    let contentType: String?
    let body: Body
    let want: Want
    var testDescription: String { name }

    enum CodingKeys: String, CodingKey {
      case name, status, body, want
      case contentType = "content_type"
    }
  }

  /// The text, or how it is made.
  struct Body: Decodable, Sendable {
    let text: String

    private struct Recipe: Decodable {
      let deltaOf: Int?
      let before: String?
      let imageOf: Int?
      let after: String?

      enum CodingKeys: String, CodingKey {
        case before, after
        case deltaOf = "delta_of"
        case imageOf = "image_of"
      }
    }

    init(from decoder: any Decoder) throws {
      let container = try decoder.singleValueContainer()
      if let text = try? container.decode(String.self) {
        self.text = text
        return
      }
      let recipe = try container.decode(Recipe.self)
      func chunk(_ content: String) -> String { "data: {\"choices\": [{\"delta\": {\"content\": \(content)}}]}\n\n" }
      var text = ""
      if let size = recipe.deltaOf { text += chunk("\"\(String(repeating: "x", count: size))\"") }
      if let before = recipe.before { text += chunk("\"\(before)\"") }
      if let size = recipe.imageOf {
        let image = String(repeating: "A", count: size)
        text += chunk("[{\"type\": \"image_url\", \"image_url\": {\"url\": \"data:image/png;base64,\(image)\"}}]")
      }
      if let after = recipe.after { text += chunk("\"\(after)\"") }
      self.text = text + "data: {\"choices\": [{\"delta\": {}, \"finish_reason\": \"stop\"}]}\n\ndata: [DONE]\n\n"
    }
  }

  struct Want: Decodable, Sendable {
    let text: String?
    let length: Int?
    let end: String
    let reason: String?
    let message: String?
    let messageNames: String?
    let finishReason: String?
    let notShown: [String]?

    enum CodingKeys: String, CodingKey {
      case text, end, reason, message
      case messageNames = "message_names"
      case finishReason = "finish_reason"
      case notShown = "not_shown"
    }

    init(from decoder: any Decoder) throws {
      struct Length: Decodable { let length: Int }
      let container = try decoder.container(keyedBy: CodingKeys.self)
      text = try? container.decode(String.self, forKey: .text)
      length = (try? container.decode(Length.self, forKey: .text))?.length
      end = try container.decode(String.self, forKey: .end)
      reason = try container.decodeIfPresent(String.self, forKey: .reason)
      message = try container.decodeIfPresent(String.self, forKey: .message)
      messageNames = try container.decodeIfPresent(String.self, forKey: .messageNames)
      finishReason = try container.decodeIfPresent(String.self, forKey: .finishReason)
      notShown = try container.decodeIfPresent([String].self, forKey: .notShown)
    }
  }

  static let cases: [Case] = {
    let path = URL(fileURLWithPath: #filePath).deletingLastPathComponent()
      .appendingPathComponent("../Conformance/upstream/answers.json")
    guard let data = try? Data(contentsOf: path) else { return [] }
    do {
      return try JSONDecoder().decode(File.self, from: data).cases
    } catch {
      Issue.record("\(error)")
      return []
    }
  }()

  @Test func areThere() { #expect(Self.cases.count >= 60) }

  @Test(arguments: cases) func whole(_ one: Case) { check(one, [one.body.text.utf8.count]) }

  @Test(arguments: cases.filter { $0.body.text.utf8.count < 10_000 }) func byteByByte(_ one: Case) { check(one, [1]) }

  @Test(arguments: cases) func inRandomPieces(_ one: Case) {
    for _ in 0..<3 { check(one, (0..<64).map { _ in .random(in: 1...max(1, min(one.body.text.utf8.count, 40))) }) }
    check(one, [70_000])
  }

  /// In pieces of so many bytes, in turn.
  private func check(_ one: Case, _ sizes: [Int]) {
    var answer = UpstreamAnswer(status: one.status, contentType: one.contentType)
    var rest = ByteBuffer(string: one.body.text)
    var texts: [String] = []
    var turn = 0
    while rest.readableBytes > 0, let piece = rest.readSlice(length: min(sizes[turn % sizes.count], rest.readableBytes))
    {
      turn += 1
      texts += answer.received(piece)
    }
    let (last, end) = answer.ended()
    texts += last
    #expect(!texts.contains(""))
    if let text = one.want.text { #expect(texts.joined() == text) }
    if let length = one.want.length { #expect(texts.joined().utf8.count == length) }
    if one.want.end == "end" { #expect(end.reason == nil, "\(end)") }
    if one.want.end == "error" { #expect(end.reason != nil, "\(end)") }
    if let reason = one.want.reason { #expect(end.reason?.rawValue == reason) }
    if let message = one.want.message { #expect(end.message == message) }
    if let part = one.want.messageNames { #expect(end.message?.contains(part) == true, "\(end)") }
    if let reason = one.want.finishReason { #expect(end.finishReason == reason) }
    if let kinds = one.want.notShown { #expect(end.notShown == kinds) }
    #expect((try? JSONSerialization.jsonObject(with: Data(end.data.utf8))) is [String: Any])
  }

  /// Nothing that a server sends ends the process, and the end is always JSON.
  @Test func anyBytesComeToAnEnd() {
    let bodies = Self.cases.filter { $0.body.text.utf8.count < 5000 }
    for one in bodies {
      for _ in 0..<60 {
        var bytes = Array(one.body.text.utf8)
        for _ in 0..<Int.random(in: 1...6) where !bytes.isEmpty {
          let at = Int.random(in: bytes.indices)
          switch Int.random(in: 0...3) {
          case 0: bytes[at] = .random(in: 0...255)
          case 1: bytes.remove(at: at)
          case 2: bytes.insert("\\\"'{}[]:,\nud8".utf8.randomElement() ?? 0, at: at)
          default: bytes.removeSubrange(at..<min(bytes.count, at + .random(in: 1...40)))
          }
        }
        var answer = UpstreamAnswer(status: one.status, contentType: one.contentType, limit: .random(in: 20...5000))
        var rest = ByteBuffer(bytes: bytes)
        while let piece = rest.readSlice(length: min(rest.readableBytes, .random(in: 1...300))), piece.readableBytes > 0
        {
          for text in answer.received(piece) { #expect(!text.isEmpty) }
        }
        let end = answer.ended().end
        #expect((try? JSONSerialization.jsonObject(with: Data(end.data.utf8))) is [String: Any], "\(end.data)")
      }
    }
  }

  @Test func anEventOverTheLimitIsLeftOutAndTold() {
    var answer = UpstreamAnswer(status: 200, contentType: "text/event-stream", limit: 100)
    func chunk(_ text: String) -> String { "data: {\"choices\": [{\"delta\": {\"content\": \"\(text)\"}}]}\n\n" }
    let body = chunk("a") + chunk(String(repeating: "x", count: 200)) + chunk("b") + "data: [DONE]\n\n"
    var texts: [String] = []
    for byte in body.utf8 { texts += answer.received(ByteBuffer(bytes: [byte])) }
    let (last, end) = answer.ended()
    #expect(texts + last == ["a", "b"])
    #expect(end.reason == .error && end.message?.contains("left out") == true)
  }

  @Test func whatIsLargeWithoutAnEndIsBounded() {
    for type in [nil, "text/event-stream", "application/json", "application/x-ndjson", "text/html"] {
      for start in ["", "{", "data: "] {
        var answer = UpstreamAnswer(status: 200, contentType: type, limit: 1000)
        _ = answer.received(ByteBuffer(string: start))
        for _ in 0..<200 { _ = answer.received(ByteBuffer(string: String(repeating: " x", count: 500))) }
        let end = answer.ended().end
        #expect(end.reason != nil, "\(type ?? "none") \(start)")
        #expect((end.message ?? "").count < 1000)
      }
    }
  }
}
