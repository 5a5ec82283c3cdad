import BatonProtocol
import BatonRedis
import BatonSession
import NIOCore
import Testing

@testable import BatonStore

/// One XREAD for many sessions: what its reply says of each.
@Suite struct SharedReadTests {
  private let reads = ["a", "b", "c"].compactMap { SessionName($0) }.map {
    TailRead(session: $0, after: EntryID(0, .max), count: 3, look: false, isShared: true)
  }

  private func bulk(_ text: String) -> String { "$\(text.utf8.count)\r\n\(text)\r\n" }

  private func stream(_ name: String, _ ids: ClosedRange<Int>) -> String {
    "*2\r\n" + bulk("baton:{\(name)}") + "*\(ids.count)\r\n"
      + ids.map { "*2\r\n" + bulk("\($0)-0") + "*2\r\n" + bulk("data") + bulk("0123456789") }.joined()
  }

  /// A word for each read; throws the refusal of the command.
  private func outcomes(_ text: String, _ change: (inout RESPLimits) -> Void = { _ in }) throws -> [String] {
    var limits = RESPLimits()
    change(&limits)
    let reader = RESPReader(limits: limits)
    var reply: RESPReply?
    try reader.read(ByteBuffer(string: text)) { reply = $0 }
    var decoder = StreamDecoder(maxEntryBytes: 1000)
    var words: [String] = []
    try reads.outcomes(try #require(reply), keys: reads.map { $0.session.key(prefix: "baton:") }, &decoder) {
      read, outcome in
      switch outcome {
      case .entries(let overlap, let entries, _, let more):
        let ids = entries.map { "\($0.id.milliseconds)" }.joined(separator: " ")
        words.append("\(read.session): \(overlap == nil ? "-" : "overlap") [\(ids)]\(more ? " more" : "")")
      case .again: words.append("\(read.session): again")
      default: words.append("\(read.session): ?")
      }
    }
    return words
  }

  @Test func eachGetsWhatIsItsOwn() throws {
    #expect(
      try outcomes("*2\r\n" + stream("a", 1...2) + stream("c", 1...3))
        == ["a: overlap [2]", "b: - []", "c: overlap [2 3] more"])
    #expect(try outcomes("*1\r\n" + stream("b", 2...2)) == ["a: - []", "b: - [2]", "c: - []"])
    #expect(try outcomes("*-1\r\n") == ["a: - []", "b: - []", "c: - []"])
  }

  @Test func nothingIsKnownOfWhatLiesBehindACut() throws {
    let text = "*3\r\n" + stream("a", 1...2) + stream("b", 1...2) + stream("c", 1...2)
    let words = try outcomes(text) { ($0.maxEntryBytes, $0.maxReplyBytes) = (14, 75) }
    #expect(words == ["a: overlap [2]", "b: overlap [] more", "c: again"])
  }

  @Test func aRefusalIsThrown() {
    for text in ["-WRONGTYPE Operation against a key\r\n", "-NOPERM x\r\n", "*1\r\n" + stream("other", 1...1)] {
      #expect(throws: RedisError.self) { try outcomes(text) }
    }
  }
}
