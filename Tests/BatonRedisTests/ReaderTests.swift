import NIOCore
import Testing

@testable import BatonRedis

@Suite struct ReaderTests {
  @Test(arguments: [
    ("+OK\r\n", "OK"), (":-42\r\n", "-42"), ("$-1\r\n", "null"), ("*-1\r\n", "null"), ("$0\r\n\r\n", "\"\""),
    ("-ERR no\r\n", "-ERR no"), ("*0\r\n", "[]"), ("$5\r\na\r\nbc\r\n", "\"a\r\nbc\""),
    ("*3\r\n*0\r\n*2\r\n:1\r\n*1\r\n$1\r\nx\r\n-E x\r\n", "[[], [1, [\"x\"]], -E x]"),
  ])
  func reads(bytes: String, expected: String) throws {
    #expect(try replies(bytes).map(\.description) == [expected])
    // Byte by byte, and twice in one piece.
    #expect(try replies(Array(bytes.utf8), pieces: { _ in 1 }).map(\.description) == [expected])
    #expect(try replies(bytes + bytes).map(\.description) == [expected, expected])
  }

  @Test(arguments: [
    "?", "%1\r\n", "$x\r\n", "$-2\r\n", "$1\n", "$1\r\nxy\r\n", "+a\nb\r\n", "*x\r\n", "$99999999999999999999999\r\n",
    "HTTP/1.1 400 Bad Request\r\n", ":12a\r\n", "+" + String(repeating: "x", count: 70_000),
    String(repeating: "*1\r\n", count: 9), "*1048577\r\n",
  ])
  func refuses(bytes: String) {
    let error = #expect(throws: RedisError.self) { try replies(bytes) }
    #expect(error?.kind == .fault && error?.reason == .protocolViolation)
  }

  @Test func deliversWhatCameBeforeAViolation() throws {
    let reader = RESPReader()
    var seen: [String] = []
    #expect(throws: RedisError.self) {
      try reader.read(ByteBuffer(string: "+one\r\n:2\r\n?")) { seen.append($0.description) }
    }
    #expect(seen == ["one", "2"])
    #expect(throws: RedisError.self) { try reader.read(ByteBuffer(string: "+three\r\n")) { _ in } }
  }

  @Test func limitsElementsOfAWholeReply() throws {
    var limits = RESPLimits()
    limits.maxElements = 5
    #expect(try reply("*2\r\n*2\r\n:1\r\n:2\r\n*0\r\n", limits: limits).description == "[[1, 2], []]")
    #expect(throws: RedisError.self) { try reply("*2\r\n*2\r\n:1\r\n:2\r\n*1\r\n:3\r\n", limits: limits) }
  }

  @Test func elidesLongStringsAndGoesOn() throws {
    var limits = RESPLimits()
    limits.maxBulkBytes = 4
    let bytes = "*3\r\n$4\r\nabcd\r\n$5\r\nabcde\r\n$-1\r\n$5\r\nfghij\r\n+OK\r\n"
    for size in 1...bytes.utf8.count {
      let all = try replies(Array(bytes.utf8), limits: limits, pieces: { _ in size })
      #expect(all.map(\.description) == ["[\"abcd\", <5 bytes>, null]", "<5 bytes>", "OK"])
      #expect(!all[0].isOverrun)
    }
    #expect(throws: RedisError.self) { try replies("$5\r\nabcdexx", limits: limits) }
  }

  @Test func cutsAReplyThatIsTooLarge() throws {
    var limits = RESPLimits()
    limits.maxReplyBytes = 200
    func entry(_ id: String, _ bytes: Int) -> String {
      "*2\r\n$\(id.utf8.count)\r\n\(id)\r\n*2\r\n$1\r\nd\r\n$\(bytes)\r\n\(String(repeating: "x", count: bytes))\r\n"
    }
    let large = try reply("*3\r\n" + entry("1-1", 100) + entry("1-2", 150) + entry("1-3", 60), limits: limits)
    let read = try large.decodedEntries()
    #expect(large.isOverrun && read.isCut)
    #expect(read.entries.map(\.id) == [RedisStreamID(1, 1)])
    #expect(read.cut?.id == RedisStreamID(1, 2) && read.cut?.byteCount == 151)

    // The first entry always says how large it is, and the next reply is whole again.
    let both = try replies("*1\r\n" + entry("1-1", 5000) + "*1\r\n" + entry("1-2", 5), limits: limits)
    #expect(try both[0].decodedEntries().cut?.byteCount == 5001)
    #expect(try both[1].decodedEntries().entries.count == 1 && !both[1].isOverrun)

    // Beyond twice the limit nothing is kept, and it still says so.
    let many = try reply("*1000\r\n" + (0..<1000).map { entry("1-\($0)", 3) }.joined(), limits: limits).decodedEntries()
    #expect(many.isCut && many.entries.last?.id == RedisStreamID(1, UInt64(many.entries.count - 1)))
    #expect((many.entries.count * 7..<420).contains(many.entries.count * 7) && many.entries.count > 20)
  }
}

/// Small and seeded: SplitMix64.
struct Dice: RandomNumberGenerator {
  var state: UInt64

  mutating func next() -> UInt64 {
    state &+= 0x9e37_79b9_7f4a_7c15
    var z = (state ^ (state >> 30)) &* 0xbf58_476d_1ce4_e5b9
    z = (z ^ (z >> 27)) &* 0x94d0_49bb_1331_11eb
    return z ^ (z >> 31)
  }

  mutating func below(_ limit: Int) -> Int { Int.random(in: 0..<limit, using: &self) }
}

@Suite struct ReaderFuzzing {
  /// A random reply's bytes, and what it should read as.
  private func make(_ dice: inout Dice, depth: Int = 0) -> (bytes: String, description: String) {
    let word = String((0..<dice.below(12)).map { _ in "ab-1$*:+\u{e9}".randomElement(using: &dice) ?? "a" })
    switch dice.below(depth < 5 ? 9 : 6) {
    case 0: return ("+\(word)\r\n", word)
    case 1: return ("-ERR \(word)\r\n", "-ERR \(word)")
    case 2:
      let number = Int64(bitPattern: dice.next())
      return (":\(number)\r\n", "\(number)")
    case 3: return (dice.below(2) == 0 ? "$-1\r\n" : "*-1\r\n", "null")
    case 4, 5:
      let text = word + (dice.below(3) == 0 ? "\r\n" : "") + word
      return ("$\(text.utf8.count)\r\n\(text)\r\n", "\"\(text)\"")
    default:
      let parts = (0..<dice.below(5)).map { _ in make(&dice, depth: depth + 1) }
      return (
        "*\(parts.count)\r\n" + parts.map(\.bytes).joined(), "[\(parts.map(\.description).joined(separator: ", "))]"
      )
    }
  }

  @Test(arguments: 0..<8 as Range<UInt64>) func readsInAnyPieces(seed: UInt64) throws {
    var dice = Dice(state: seed)
    for _ in 0..<500 {
      let made = (0...dice.below(4)).map { _ in make(&dice) }
      let read = try replies(Array(made.map(\.bytes).joined().utf8), pieces: { _ in 1 + dice.below(20) })
      #expect(read.map(\.description) == made.map(\.description), "seed \(seed)")
    }
  }

  @Test(arguments: 0..<8 as Range<UInt64>) func survivesAnything(seed: UInt64) {
    var dice = Dice(state: seed &+ 1000)
    var limits = RESPLimits()
    (limits.maxBulkBytes, limits.maxReplyBytes, limits.maxElements) = (20, 100, 50)
    for _ in 0..<2000 {
      var bytes = Array(make(&dice).bytes.utf8)
      for _ in 0...dice.below(4) where !bytes.isEmpty {
        let at = dice.below(bytes.count)
        switch dice.below(4) {
        case 0: bytes[at] = UInt8(truncatingIfNeeded: dice.next())
        case 1: bytes.remove(at: at)
        case 2: bytes.insert("0123456789-$*:+\r\n".utf8.randomElement(using: &dice) ?? 0, at: at)
        default: bytes.replaceSubrange(at..., with: bytes[..<at])
        }
      }
      let reader = RESPReader(limits: limits)
      var rest = bytes[...]
      while !rest.isEmpty {
        let piece = rest.prefix(1 + dice.below(9))
        rest = rest.dropFirst(piece.count)
        let read: Void? = try? reader.read(ByteBuffer(bytes: piece)) { reply in
          _ = (reply.description, try? reply.decodedEntries(), try? reply.decodedStreams(["a"]))
          _ = (try? RedisStreamInfo(reply), try? RedisRole(reply), RedisInvalidation(reply), try? reply.decodedInfo())
          #expect(reply.storage.bytes.readableBytes <= 200 && reply.storage.nodes.count <= 50)
        }
        if read == nil { break }
      }
    }
  }
}
