import CBatonHiredis
import NIOCore
import TestSupport
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
    String(repeating: "*1\r\n", count: 9),
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

  @Test func elidesLongStringsAndGoesOn() throws {
    var limits = RESPLimits()
    limits.maxBulkBytes = 4
    let bytes = "*3\r\n$4\r\nabcd\r\n$5\r\nabcde\r\n$-1\r\n$5\r\nfghij\r\n+OK\r\n"
    for size in 1...bytes.utf8.count {
      let all = try replies(Array(bytes.utf8), limits: limits, pieces: { _ in size })
      #expect(all.map(\.description) == ["[\"abcd\", <5 bytes>, null]", "<5 bytes>", "OK"])
      #expect(!all[0].isCut)
    }
    #expect(throws: RedisError.self) { try replies("$5\r\nabcdexx", limits: limits) }
  }

  @Test(arguments: Shape.allCases)
  func anEntryOverABoundIsElidedAndWhatFollowsIsRead(shape: Shape) throws {
    var limits = RESPLimits()
    (limits.maxBulkBytes, limits.maxEntryBytes, limits.maxEntryFields) = (60, 100, 3)
    let entries: [(String, [Int])] = [
      ("1-1", [10]), ("1-2", [50, 50, 1]), ("1-3", [5, 5]), ("1-4", [1, 1, 1, 1]), ("1-5", [61]), ("1-6", [49, 48]),
      ("1-7", []), ("1-8", [60, 60, 60, 60, 60]),
    ]
    let bytes = Array((shape.reply(entries.map { Shape.entry($0.0, $0.1) }) + "+OK\r\n").utf8)
    for size in [1, 2, 3, 7, 64, bytes.count] {
      let all = try replies(bytes, limits: limits, pieces: { _ in size })
      #expect(all.count == 2 && all[1].text == "OK" && !all[0].isCut)
      // Nothing else is kept of it.
      #expect(
        all[0].description.contains("[\"1-2\", <104 bytes>], [\"1-3\", [") && all[0].storage.bytes.readableBytes < 200)
      let read = try shape.entries(all[0])
      #expect(!read.isCut && read.entries.map(\.id.sequence) == [1, 2, 3, 4, 5, 6, 7, 8])
      #expect(read.entries.map(\.isElided) == [false, true, false, true, true, false, false, true])
      #expect(read.entries.map(\.fieldCount) == entries.map(\.1.count))
      #expect(read.entries.map(\.byteCount) == entries.map { $0.1.reduce(0, +) + $0.1.count })
      #expect(read.entries[5].fields.map(\.value.readableBytes) == [49, 48] && read.entries[7].fields.isEmpty)
    }
  }

  @Test(arguments: Shape.allCases, ["bytes", "elements"])
  func aReplyOverItsBoundIsCutBetweenEntries(shape: Shape, bound: String) throws {
    var limits = RESPLimits()
    (limits.maxEntryBytes, limits.maxEntryFields) = (50, 2)
    (limits.maxReplyBytes, limits.maxElements) = bound == "bytes" ? (200, 1000) : (1 << 20, 40)
    for count in 1...30 {
      let entries = (1...count).map { Shape.entry("1-\($0)", [19, 19]) }
      let bytes = Array((shape.reply(entries) + "+OK\r\n").utf8)
      for size in [1, 5, bytes.count] {
        let all = try replies(bytes, limits: limits, pieces: { _ in size })
        #expect(all.count == 2 && all[1].text == "OK" && !all[1].isCut)
        let read = try shape.entries(all[0])
        #expect(read.isCut == (read.entries.count < count) && all[0].isCut == read.isCut)
        #expect(read.entries.count >= min(count, 1) && (count < 10 || read.isCut))
        for (at, entry) in read.entries.enumerated() {
          #expect(entry.id == RedisStreamID(1, UInt64(at + 1)) && entry.fields.map(\.value.readableBytes) == [19, 19])
        }
      }
    }
  }

  /// The most that XINFO's first and last entry may take in front of it.
  @Test func everyReadBringsItsFirstEntry() throws {
    var limits = RESPLimits()
    (limits.maxEntryBytes, limits.maxEntryFields, limits.maxReplyBytes, limits.maxElements) = (100, 3, 0, 0)
    let largest = Shape.entry("1-1", [40, 28, 29])
    let reply = try reply(
      "*2\r\n" + Shape.info(first: largest, last: largest) + "*2\r\n" + largest + largest, limits: limits)
    let parts = try #require(reply.elements.map(Array.init))
    #expect(try RedisStreamInfo(parts[0]).lastEntry?.fieldCount == 3)
    let read = try parts[1].decodedEntries()
    #expect(!read.entries.isEmpty && read.entries[0].fields.count == 3)
  }

  @Test func cutsRepliesOfOtherShapes() throws {
    var limits = RESPLimits()
    (limits.maxEntryBytes, limits.maxEntryFields, limits.maxReplyBytes, limits.maxElements) = (10, 1, 100, 30)
    let hash = try reply("*1000\r\n" + String(repeating: "$1\r\nx\r\n", count: 1000), limits: limits)
    #expect(hash.isCut && hash.elements?.map(\.text) == Array(repeating: "x", count: 29))
    let long = try reply(
      "*9\r\n" + String(repeating: "$40\r\n\(String(repeating: "y", count: 40))\r\n", count: 9), limits: limits)
    #expect(long.isCut && long.elements?.count == 2)
    let single = try replies("$101\r\n\(String(repeating: "y", count: 101))\r\n:1\r\n", limits: limits)
    #expect(single.map(\.description) == ["<101 bytes>", "1"])
    let numbers = try reply("*2\r\n*50\r\n" + String(repeating: ":1\r\n", count: 50) + ":7\r\n", limits: limits)
    #expect(numbers.isCut && numbers.elements?.count == 1)
    let notice = "*3\r\n$7\r\nmessage\r\n$20\r\n__redis__:invalidate\r\n*90\r\n"
    let keys = try reply(notice + String(repeating: "$1\r\nk\r\n", count: 90), limits: limits)
    #expect(RedisInvalidation(keys) == .everything)
  }
}

/// The replies that hold a stream's entries, each with its own nesting.
enum Shape: CaseIterable {
  case xrange, xread, exec, execOfXread

  static func bulk(_ text: String) -> String { "$\(text.utf8.count)\r\n\(text)\r\n" }

  /// Names of one byte, values of the given sizes.
  static func entry(_ id: String, _ values: [Int]) -> String {
    "*2\r\n\(bulk(id))*\(values.count * 2)\r\n"
      + values.map { bulk("d") + bulk(String(repeating: "x", count: $0)) }.joined()
  }

  static func info(first: String, last: String) -> String {
    "*8\r\n\(bulk("length")):2\r\n\(bulk("last-generated-id"))\(bulk("1-1"))"
      + "\(bulk("first-entry"))\(first)\(bulk("last-entry"))\(last)"
  }

  func reply(_ entries: [String]) -> String {
    let list = "*\(entries.count)\r\n\(entries.joined())"
    let streams = "*1\r\n*2\r\n\(Shape.bulk("7-7"))\(list)"
    return switch self {
    case .xrange: list
    case .xread: streams
    case .exec: "*2\r\n:1\r\n\(list)"
    case .execOfXread: "*2\r\n:1\r\n\(streams)"
    }
  }

  func entries(_ reply: RESPReply) throws -> RawEntries {
    let isInExec = self == .exec || self == .execOfXread
    let results = isInExec ? Array(try #require(reply.elements)) : [reply]
    let reply = try #require(results.last)
    if self == .xrange || self == .exec { return try reply.decodedEntries() }
    return try #require(try reply.decodedStreams(["7-7"]).first).read
  }
}

extension Dice {
  fileprivate mutating func below(_ limit: Int) -> Int { .random(in: 0..<limit, using: &self) }
}

@Suite struct ReaderFuzzing {
  /// A random reply's bytes, and what it should read as.
  private func make(_ dice: inout Dice, depth: Int = 0) -> (bytes: String, description: String) {
    let word = String((0..<dice.below(12)).map { _ in "ab-1$*:+\u{e9}".randomElement(using: &dice) ?? "a" })
    switch dice.below(depth < 5 ? 10 : 6) {
    case 0: return ("+\(word)\r\n", word)
    case 1: return ("-ERR \(word)\r\n", "-ERR \(word)")
    case 2:
      let number = Int64(bitPattern: dice.next())
      return (":\(number)\r\n", "\(number)")
    case 3: return (dice.below(2) == 0 ? "$-1\r\n" : "*-1\r\n", "null")
    case 4, 5:
      let text = word + (dice.below(3) == 0 ? "\r\n" : "") + word
      return ("$\(text.utf8.count)\r\n\(text)\r\n", "\"\(text)\"")
    case 6 where depth < 4:
      // An entry, in which now and then something else than a string stands.
      let values = (0..<dice.below(8)).map { _ in
        dice.below(9) == 0 ? make(&dice, depth: depth + 2) : ("$1\r\nx\r\n", "\"x\"")
      }
      let id = "\(dice.below(9))-\(dice.below(9))"
      return (
        "*2\r\n$3\r\n\(id)\r\n*\(values.count)\r\n" + values.map(\.0).joined(),
        "[\"\(id)\", [\(values.map(\.1).joined(separator: ", "))]]"
      )
    default:
      let parts = (0..<dice.below(depth < 2 ? 12 : 5)).map { _ in make(&dice, depth: depth + 1) }
      return (
        "*\(parts.count)\r\n" + parts.map(\.bytes).joined(), "[\(parts.map(\.description).joined(separator: ", "))]"
      )
    }
  }

  /// Arrays have as many elements as they say, and end where they say.
  private func isSound(_ reply: RESPReply) -> Bool {
    guard let elements = reply.elements else { return true }
    let all = Array(elements)
    let end = all.last.map { $0.elements == nil ? $0.index + 1 : Int($0.node.offset) } ?? reply.index + 1
    return all.count == elements.count && end == Int(reply.node.offset) && all.allSatisfy(isSound)
  }

  @Test(arguments: 0..<8 as Range<UInt64>) func readsInAnyPieces(seed: UInt64) throws {
    var dice = Dice(seed: seed)
    for _ in 0..<500 {
      let made = (0...dice.below(4)).map { _ in make(&dice) }
      let read = try replies(Array(made.map(\.bytes).joined().utf8), pieces: { _ in 1 + dice.below(20) })
      #expect(read.map(\.description) == made.map(\.description), "seed \(seed)")
    }
  }

  @Test(arguments: 0..<8 as Range<UInt64>) func survivesAnything(seed: UInt64) {
    var dice = Dice(seed: seed &+ 1000)
    var limits = RESPLimits()
    (limits.maxBulkBytes, limits.maxReplyBytes, limits.maxElements) = (20, 100, 50)
    (limits.maxEntryBytes, limits.maxEntryFields) = (25, 4)
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
          #expect(isSound(reply), "seed \(seed)")
          #expect(reply.storage.bytes.readableBytes <= 100 + 4 * 50 && reply.storage.nodes.count <= 50)
        }
        if read == nil { break }
      }
    }
  }

  /// Streams of random entries under random limits, against what the limits' words say.
  @Test(arguments: 0..<8 as Range<UInt64>) func keepsElidesAndCuts(seed: UInt64) throws {
    var dice = Dice(seed: seed &+ 2000)
    for _ in 0..<300 {
      var limits = RESPLimits()
      limits.maxEntryBytes = 10 + dice.below(60)
      limits.maxEntryFields = 1 + dice.below(5)
      limits.maxBulkBytes = 5 + dice.below(60)
      limits.maxReplyBytes = limits.maxEntryBytes * 4 + dice.below(300)
      limits.maxElements = (limits.maxEntryFields * 2 + 4) * 4 + dice.below(200)
      let shape = Shape.allCases[dice.below(Shape.allCases.count)]
      let values = (0..<dice.below(20)).map { _ in (0..<dice.below(7)).map { _ in dice.below(30) } }
      let bytes = shape.reply(values.enumerated().map { Shape.entry("1-\($0.offset + 1)", $0.element) }) + ":1\r\n"
      let all = try replies(Array(bytes.utf8), limits: limits, pieces: { _ in 1 + dice.below(50) })
      #expect(all.count == 2 && all[1].integer == 1, "seed \(seed)")
      let read = try shape.entries(all[0])

      let expected = values.enumerated().map { at, entry in
        let size = entry.reduce(0, +) + entry.count
        let isElided =
          size > limits.maxEntryBytes || entry.count > limits.maxEntryFields
          || entry.contains { $0 > limits.maxBulkBytes }
        return "\(at + 1) \(size) \(entry.count) \(isElided)"
      }
      let got = read.entries.map { "\($0.id.sequence) \($0.byteCount) \($0.fieldCount) \($0.isElided)" }
      #expect(got.elementsEqual(expected.prefix(got.count)), "seed \(seed)")
      #expect(read.isCut == (got.count < values.count) && all[0].isCut == read.isCut, "seed \(seed)")
      #expect(values.isEmpty || !got.isEmpty, "seed \(seed)")
      let kept = all[0].storage.nodes.reduce(0) { $0 + ($1.kind == BatonRESPString ? Int($1.length) : 0) }
      #expect(kept <= limits.maxReplyBytes, "seed \(seed)")
      #expect(all[0].storage.nodes.count <= limits.maxElements, "seed \(seed)")
      // Nothing is cut without need.
      if read.isCut {
        let next = values[got.count]
        let left = limits.maxReplyBytes - kept
        let nodes = limits.maxElements - all[0].storage.nodes.count
        #expect(left < next.reduce(0, +) + next.count + 4 || nodes < next.count * 2 + 3, "seed \(seed)")
      }
    }
  }
}
