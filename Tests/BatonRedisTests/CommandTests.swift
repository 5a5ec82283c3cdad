import NIOCore
import Testing

@testable import BatonRedis

@Suite struct CommandTests {
  private func words(_ command: RedisCommand) -> String {
    guard let reply = try? reply(String(buffer: command.encoded)), let elements = reply.elements else { return "?" }
    return elements.compactMap(\.text).joined(separator: " ")
  }

  @Test func encodesAsArraysOfBulkStrings() {
    let command = RedisCommand("SET", "käse", .bytes(ByteBuffer(bytes: [0, 13, 10, 255])), -7)
    let expected =
      Array("*4\r\n$3\r\nSET\r\n$5\r\nkäse\r\n$4\r\n".utf8) + [0, 13, 10, 255] + Array("\r\n$2\r\n-7\r\n".utf8)
    #expect(Array(command.encoded.readableBytesView) == expected)
    #expect(RedisCommand("AUTH", "secret").description == "AUTH")
  }

  @Test func writesWhatRedisExpects() {
    let id = RedisStreamID(5, .max)
    let commands: [(RedisCommand, String)] = [
      (.xadd("s", fields: [("a", "b")]), "XADD s * a b"),
      (.xadd("s", id: id, trim: .about(9), fields: [("a", 1)]), "XADD s MAXLEN ~ 9 5-18446744073709551615 a 1"),
      (.xadd("s", trim: .exactly(9), fields: [("a", 1)]), "XADD s MAXLEN = 9 * a 1"),
      (.xread(count: 3, [("s", .zero), ("t", id)]), "XREAD COUNT 3 STREAMS s t 0-0 5-18446744073709551615"),
      (.xrange("s", from: id, count: 2), "XRANGE s 5-\(UInt64.max) \(UInt64.max)-\(UInt64.max) COUNT 2"),
      (.xrevrange("s", count: 2), "XREVRANGE s \(UInt64.max)-\(UInt64.max) 0-0 COUNT 2"),
      (.xinfoStream("s"), "XINFO STREAM s"), (.delete(["a", "b"]), "DEL a b"), (.unlink(["a"]), "UNLINK a"),
      (.exists("a"), "EXISTS a"), (.type("a"), "TYPE a"), (.expire("a", seconds: 4), "EXPIRE a 4"),
      (.pexpire("a", milliseconds: 4), "PEXPIRE a 4"), (.trackingOn(redirect: 7), "CLIENT TRACKING ON REDIRECT 7"),
      (.info("server"), "INFO server"), (.subscribeInvalidate, "SUBSCRIBE __redis__:invalidate"),
    ]
    for (command, expected) in commands { #expect(words(command) == expected) }
  }

  @Test(arguments: [
    ("0-0", RedisStreamID.zero), ("1732000000123-0", RedisStreamID(1_732_000_000_123, 0)),
    ("18446744073709551615-18446744073709551615", .max), ("18446744073709551616-0", nil), ("1", nil), ("1-", nil),
    ("-1", nil), ("1-2-3", nil), ("1-a", nil), ("", nil), ("+1-1", nil), ("1-1 ", nil),
  ])
  func readsIDs(text: String, id: RedisStreamID?) {
    #expect(RedisStreamID(text.utf8) == id)
    if let id { #expect(id.description == text) }
  }

  @Test func findsStreamsByTheirPlaceInTheQuestion() throws {
    let bytes =
      "*2\r\n*2\r\n$1\r\nb\r\n*1\r\n*2\r\n$3\r\n1-2\r\n*2\r\n$1\r\nx\r\n$0\r\n\r\n*2\r\n$1\r\nd\r\n*0\r\n"
    let streams = try reply(bytes).decodedStreams(["a", "b", "c", "d"])
    #expect(streams.map(\.index) == [1, 3])
    #expect(streams[0].read.entries.map(\.id) == [RedisStreamID(1, 2)])
    #expect(streams[0].read.entries[0].fields[0].value == ByteBuffer())
    #expect(throws: RedisError.unexpectedReply("XREAD")) { try reply(bytes).decodedStreams(["a", "b"]) }
    #expect(try reply("*-1\r\n").decodedStreams(["a"]).isEmpty)
    #expect(throws: RedisError.server("WRONGTYPE x")) { try reply("-WRONGTYPE x\r\n").decodedStreams(["a"]) }
  }

  /// Recorded from Redis 6.2: no entries-added, no max-deleted-entry-id.
  @Test func readsStreamInfoOfRedis6() throws {
    let bytes = """
      *14|$6|length|:1|$15|radix-tree-keys|:1|$16|radix-tree-nodes|:2|$17|last-generated-id|$3|5-1|$6|groups|:0|\
      $11|first-entry|*2|$3|5-1|*2|$1|a|$1|b|$10|last-entry|*2|$3|5-1|*2|$1|a|$1|b|
      """.replacing("|", with: "\r\n")
    let info = try RedisStreamInfo(reply(bytes))
    #expect(info.length == 1 && info.lastGeneratedID == RedisStreamID(5, 1) && info.firstEntry?.byteCount == 2)
    #expect(info.entriesAdded == nil && info.maxDeletedEntryID == nil)
    #expect(throws: RedisError.unexpectedReply("XINFO STREAM")) {
      try RedisStreamInfo(reply("*2\r\n+length\r\n:1\r\n"))
    }
  }

  @Test func readsNotices() throws {
    func notice(_ payload: String) throws -> RedisInvalidation? {
      RedisInvalidation(try reply("*3\r\n$7\r\nmessage\r\n$20\r\n__redis__:invalidate\r\n" + payload))
    }
    #expect(try notice("*2\r\n$1\r\na\r\n$1\r\nb\r\n") == .keys(["a", "b"]))
    #expect(try notice("*-1\r\n") == .everything)
    #expect(try notice("$-1\r\n") == .everything)
    #expect(try notice(":1\r\n") == nil)
    #expect(try RedisInvalidation(reply("*3\r\n$7\r\nmessage\r\n$1\r\nx\r\n$1\r\ny\r\n")) == nil)
  }

  @Test func readsRoles() throws {
    #expect(try RedisRole(reply("*3\r\n$6\r\nmaster\r\n:42\r\n*0\r\n")) == .master(offset: 42))
    let replica = "*5\r\n$5\r\nslave\r\n$1\r\nh\r\n:7\r\n$4\r\nsync\r\n:-1\r\n"
    #expect(try RedisRole(reply(replica)) == .replica(host: "h", port: 7, link: "sync", offset: -1))
    #expect(throws: RedisError.unexpectedReply("ROLE")) { try RedisRole(reply("+x\r\n")) }
  }

  @Test func takesTransactionsApart() throws {
    let good = try replies("+OK\r\n+QUEUED\r\n+QUEUED\r\n*2\r\n:1\r\n-WRONGTYPE x\r\n")
    #expect(try decodeExec(good).map(\.description) == ["1", "-WRONGTYPE x"])
    let refused = try replies("+OK\r\n-OOM full\r\n-EXECABORT because\r\n")
    #expect(throws: RedisError.server("OOM full")) { try decodeExec(refused) }
    #expect(throws: RedisError.unexpectedReply("EXEC")) { try decodeExec(replies("+OK\r\n*-1\r\n")) }
  }

  @Test func namesScriptsAsRedisDoes() {
    #expect(RedisScript("").hash == "da39a3ee5e6b4b0d3255bfef95601890afd80709")
    #expect(RedisScript("abc").hash == "a9993e364706816aba3e25717850c26c9cd0d89d")
    #expect(RedisScript(String(repeating: "a", count: 119)).hash == "ee971065aaa017e0632a8ca6c77bb3bf8b1dfc56")
  }
}
