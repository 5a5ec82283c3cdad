import Foundation
import NIOCore
import Testing

@testable import BatonProtocol
@testable import BatonSession

@Suite struct EntryFramesTests {
  private func frames(_ entries: [Entry], joined: Bool = true) -> [String] {
    var frames: [String] = []
    EntryFrames.encode(Entries(entries), joined: joined) { json, last in
      frames.append(json.text.replacingOccurrence(of: ".\(last.offset.description.suffix(8))"))
    }
    return frames
  }

  /// `ids:deltas` of each frame.
  private func runs(_ entries: [Entry]) -> [String] {
    var runs: [String] = []
    EntryFrames.runs(Entries(entries), joined: true) { run, last, deltas in
      runs.append("\(show(run)):\(deltas)")
      #expect(run.last?.id == last.id)
    }
    return runs
  }

  @Test func writesAFrameAsThePublishedOnes() {
    let hel = entry(1_732_000_000_123, [field("data", "Hel"), field("response", "r1"), field("n", "7")])
    var bytes: [String] = []
    EntryFrames.encode(Entries([hel]), joined: false) { json, _ in bytes.append(json.text) }
    // The check was computed with Python's zlib.
    #expect(
      bytes == [#"{"id":"1732000000123-0.5617d92a","event":"token","response":"r1","n":7,"data":"Hel"}"#])
  }

  @Test(
    arguments: [
      ([], #"{"id":"1-0","event":"token"}"#),
      ([field("data", "")], #"{"id":"1-0","event":"token","data":""}"#),
      ([field("event", "end"), field("response", "r")], #"{"id":"1-0","event":"end","response":"r"}"#),
      (
        [field("data", "x"), field("n", "9"), field("joined", "4")],
        #"{"id":"1-0","event":"token","n":9,"joined":4,"data":"x"}"#
      ),
      ([field("data", "x"), field("joined", "1")], #"{"id":"1-0","event":"token","data":"x"}"#),
      (
        [field("data", "a\"b\\c\n\r\t\u{8}\u{c}\u{0}\u{1f}\u{7f}/é🌍\u{2028}")],
        "{\"id\":\"1-0\",\"event\":\"token\",\"data\":\"a\\\"b\\\\c\\n\\r\\t\\u0008\\u000c\\u0000\\u001f\u{7f}/é🌍\u{2028}\"}"
      ),
      ([field(Array("data".utf8), [0xff])], #"{"id":"1-0","event":"token","data64":"/w=="}"#),
      ([field(Array("data".utf8), [0xff, 0xfe])], #"{"id":"1-0","event":"token","data64":"//4="}"#),
      ([field(Array("data".utf8), [0xff, 0xfe, 0xfb])], #"{"id":"1-0","event":"token","data64":"//77"}"#),
      ([field("k", "v"), field("", "e")], #"{"id":"1-0","event":"token","fields":{"k":"v","":"e"}}"#),
      (
        [field("k", "1"), field("j", "2"), field("k", "3")],
        #"{"id":"1-0","event":"token","fields":{"k":["1","3"],"j":"2"}}"#
      ),
      ([field("data", "x"), field("data", "y")], #"{"id":"1-0","event":"token","data":"x","fields":{"data":"y"}}"#),
      ([field("n", "x"), field("k\"", "v")], #"{"id":"1-0","event":"token","fields":{"n":"x","k\"":"v"}}"#),
      (
        [field([0x6b], [0xff]), field([0x6b], [0x41])],
        #"{"id":"1-0","event":"token","fields":{"k":[{"base64":"/w=="},"A"]}}"#
      ),
      ([field([0xff], [0x41])], #"{"id":"1-0","event":"token","fields":{"base64:/w==":"A"}}"#),
    ] as [([Entry.Field], String)])
  func writes(_ fields: [Entry.Field], _ frame: String) {
    #expect(frames([entry(1, fields)], joined: false) == [frame])
    #expect(frames([entry(1, fields)], joined: true) == [frame])
  }

  /// Another parser reads any text back, wherever its special characters stand among the eight that are looked at together.
  @Test func writesAnyText() throws {
    let pieces = ["a", "bcdefgh", "\"", "\\", "\n", "\u{0}", "\u{1f}", " ", "\u{7f}", "é", "🌍", "\u{2028}", "/"]
    var seed: UInt64 = 7
    func roll(_ sides: Int) -> Int {
      seed = seed &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
      return Int(seed >> 33) % sides
    }
    for _ in 1...2000 {
      let text = (0..<roll(24)).map { _ in pieces[roll(pieces.count)] }.joined()
      let entries = Entries([entry(UInt64(roll(1000) + 1), text), entry(2000, text)])
      for isJoined in [false, true] {
        var read = ""
        EntryFrames.frames(entries, joined: isJoined) { frame in
          #expect(frame.json.readableBytes == frame.byteCount)
          let object = try? JSONSerialization.jsonObject(with: Data(frame.json.readableBytesView)) as? [String: Any]
          read += object?["data"] as? String ?? "no JSON"
        }
        #expect(read == text + text)
      }
    }
  }

  /// A count that the record has no room for lies in the arena, in front of the fields.
  @Test func keepsLargeCounts() {
    let wide = entry(
      1,
      [
        field("response", "r"), field("n", "9007199254740991"), field("joined", "4294967296"), field("part", "text:1"),
        field("data", "x"), field("k", "v"), field("l", "w"),
      ])
    let next = delta(2, "r", 3)
    #expect(
      frames([next, wide, next])[1]
        == #"{"id":"1-0","event":"token","response":"r","part":"text:1","n":9007199254740991,"joined":4294967296,"#
        + #""data":"x","fields":{"k":"v","l":"w"}}"#)
    #expect(wide.joined == 4_294_967_296)
    #expect(MemoryLayout<EntryRecord>.stride == 48)
    #expect(entry(1, [field("joined", "4294967295"), field("data", "x")]).joined == 4_294_967_295)
  }

  @Test func putsFramesSideBySide() {
    let some = [
      delta(1, "r", 1, "a\""), delta(2, "r", 2, String(repeating: "b", count: 300)),
      entry(3, [field("data", "c"), field("k", "v")]), entry(4, [field("k", "v"), field([0xff], [0xff])]),
      delta(5, "r", 9),
    ]
    let head = EntryFrames.Head(
      length: { $0 < 100 ? 1 : 2 },
      write: { length, memory in for at in memory.indices { memory[at] = UInt8(length & 0x7F) } })
    for isJoined in [false, true] {
      var expected = ByteBuffer()
      EntryFrames.encode(Entries(some), joined: isJoined) { json, _ in
        let length = json.readableBytes
        expected.writeRepeatingByte(UInt8(length & 0x7F), count: length < 100 ? 1 : 2)
        expected.writeImmutableBuffer(json)
      }
      #expect(EntryFrames.bytes(Entries(some), joined: isJoined, head) == expected)
    }
    #expect(EntryFrames.bytes(Entries(), joined: false, head).readableBytes == 0)
  }

  @Test func writesSkipped() {
    var reader = EntryReader(maxEntryBytes: 3)
    let known = reader.entry(EntryID(1, 0), [field("data", "Hel"), field("k", "v")])
    let named = reader.entry(EntryID(1, 1), [field("response", "r1"), field("data", "Hel")])
    let elided = reader.elided(EntryID(2, 0), bytes: 12_582_912)
    #expect(
      frames([known, named, elided]) == [
        #"{"type":"skipped","offset":"1-0","reason":"too_big","bytes":9}"#,
        #"{"type":"skipped","offset":"1-1","reason":"too_big","bytes":17,"response":"r1"}"#,
        #"{"type":"skipped","offset":"2-0","reason":"too_big","bytes":12582912}"#,
      ])
  }

  @Test func joinsAdjacentDeltas() {
    let three = [delta(1, "r", 7, "a\""), delta(2, "r", 9, joined: 2, "é\n"), delta(3, "r", 10, "c")]
    #expect(
      frames(three) == [#"{"id":"3-0","event":"token","response":"r","n":10,"joined":4,"data":"a\"é\nc"}"#])
    #expect(frames(three, joined: false).count == 3)
    let parts = [1, 2].map {
      entry($0, [field("data", "x"), field("part", "text:1"), field("response", "r"), field("n", "\($0)")])
    }
    #expect(
      frames(parts) == [#"{"id":"2-0","event":"token","response":"r","part":"text:1","n":2,"joined":2,"data":"xx"}"#])
    #expect(
      frames([entry(1, [field("data", "x"), field("event", "e"), field("more", "1"), field("n", "3")])])
        == [#"{"id":"1-0","event":"e","n":3,"more":true,"data":"x"}"#])
    #expect(runs([entry(1, "a"), entry(2, "b")]) == ["1 2:2"])
    #expect(frames([entry(1, "a"), entry(2, "")]) == [#"{"id":"2-0","event":"token","joined":2,"data":"a"}"#])
  }

  @Test(arguments: [
    ("a gap", [delta(1, "r", 1), delta(2, "r", 3)]),
    ("a number again", [delta(1, "r", 2), delta(2, "r", 2)]),
    ("an overlap", [delta(1, "r", 2), delta(2, "r", 4, joined: 3)]),
    ("another response", [delta(1, "r", 1), delta(2, "q", 2)]),
    ("no number", [delta(1, "r", 1), entry(2, [field("data", "x"), field("response", "r")])]),
    ("no response", [entry(1, [field("data", "x"), field("n", "1")]), delta(2, "r", 2)]),
    (
      "another part",
      [
        entry(1, [field("data", "x"), field("part", "text:1")]),
        entry(2, [field("data", "x"), field("part", "text:2")]),
      ]
    ),
    ("no part", [entry(1, [field("data", "x"), field("part", "text:1")]), entry(2, "x")]),
    ("more", [entry(1, [field("data", "x"), field("more", "1")]), entry(2, "x")]),
    ("more behind", [entry(1, "x"), entry(2, [field("data", "x"), field("more", "1")])]),
    ("another event", [entry(1, "x"), entry(2, [field("data", "x"), field("event", "note")])]),
    (
      "events",
      [
        entry(1, [field("data", "x"), field("event", "note")]), entry(2, [field("data", "x"), field("event", "note")]),
      ]
    ),
    ("no data", [entry(1, "x"), entry(2, [])]),
    ("no data first", [entry(1, []), entry(2, "x")]),
    ("fields", [entry(1, "x"), entry(2, [field("data", "x"), field("k", "v")])]),
    ("fields first", [entry(1, [field("data", "x"), field("k", "v")]), entry(2, "x")]),
    ("bytes", [entry(1, "x"), entry(2, [field(Array("data".utf8), [0xff])])]),
    ("bytes first", [entry(1, [field(Array("data".utf8), [0xff])]), entry(2, "x")]),
    ("bytes twice", [entry(1, [field(Array("data".utf8), [0xff])]), entry(2, [field(Array("data".utf8), [0xff])])]),
  ])
  func doesNotJoin(_ what: String, _ entries: [Entry]) {
    #expect(runs(entries).count == 2, "across \(what)")
  }

  @Test func joinsNothingToADeltaThatWasAppendedTwice() {
    func delta(_ id: UInt64, _ n: Int, _ response: String = "r") -> Entry {
      entry(id, [field("data", "x"), field("response", response), field("n", "\(n)")])
    }
    #expect(runs([delta(1, 1), delta(2, 2), delta(3, 2), delta(4, 3), delta(5, 4)]).count == 3)
    #expect(runs([delta(1, 5, "q"), delta(2, 2), delta(3, 3)]).count == 2)
  }

  @Test func joinsNeverAcrossWhatIsTooBig() {
    var reader = EntryReader(maxEntryBytes: 5)
    let big = reader.entry(EntryID(2, 0), [field("data", "d"), field("response", "r"), field("n", "2")])
    #expect(big.isTooBig && big.response == "r")
    #expect(runs([delta(1, "r", 1), big, delta(3, "r", 3)]) == ["1:1", "2:1", "3:1"])
  }

  @Test func joinsUpTo64KiB() {
    let half = String(repeating: "x", count: 32 * 1024)
    #expect(runs([entry(1, half), entry(2, half), entry(3, "y")]) == ["1 2:2", "3:1"])
    #expect(runs([entry(1, half + "x"), entry(2, half), entry(3, "y")]) == ["1:1", "2 3:2"])
    #expect(runs([entry(1, half + half + half), entry(2, "y"), entry(3, "z")]) == ["1:1", "2 3:2"])
  }

  @Test func startsAFreshFrameAfterEachRun() {
    #expect(
      runs([delta(1, "r", 1), delta(2, "r", 2), entry(3, []), delta(4, "r", 3), delta(5, "r", 4)]) == [
        "1 2:2", "3:1", "4 5:2",
      ])
  }
}

extension String {
  fileprivate func replacingOccurrence(of part: String) -> String {
    guard let range = firstRange(of: part) else { return self }
    return replacingCharacters(range)
  }

  private func replacingCharacters(_ range: Range<Index>) -> String {
    String(self[..<range.lowerBound]) + String(self[range.upperBound...])
  }
}
