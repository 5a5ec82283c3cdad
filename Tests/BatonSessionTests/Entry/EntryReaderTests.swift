import NIOCore
import Testing

@testable import BatonProtocol
@testable import BatonSession

@Suite struct EntryReaderTests {
  /// An entry as one line: what was understood, then the other fields in their order, then the count of wrong shapes.
  private func read(_ fields: [Entry.Field], maxBytes: Int = 1000) -> String {
    var reader = EntryReader(maxEntryBytes: maxBytes)
    let entry = reader.entry(EntryID(1, 0), fields)
    var words = [entry.event]
    if let response = entry.response { words.append("response=\(response)") }
    if let part = entry.part { words.append("part=\(part)") }
    if let n = entry.n { words.append("n=\(n)") }
    if entry.hasMore { words.append("more") }
    if entry.joined != 1 { words.append("joined=\(entry.joined)") }
    switch entry.payload {
    case .none: break
    case .text(let bytes): words.append("text=\(bytes.text)")
    case .binary(let bytes): words.append("binary=\(bytes.readableBytes)")
    case .tooBig: words.append("too big \(entry.bytes)")
    }
    words += entry.fields.map { "\($0.name.text):\($0.value.text)" }
    if reader.misshapen > 0 { words.append("misshapen=\(reader.misshapen)") }
    return words.joined(separator: " ")
  }

  private func read(_ fields: KeyValuePairs<String, String>, maxBytes: Int = 1000) -> String {
    read(fields.map { field($0.key, $0.value) }, maxBytes: maxBytes)
  }

  @Test func understandsItsFields() {
    #expect(read([:]) == "token")
    #expect(read(["data": ""]) == "token text=")
    #expect(
      read(["joined": "3", "n": "7", "response": "r", "event": "token", "data": "x"])
        == "token response=r n=7 joined=3 text=x")
    #expect(read(["data": "x", "Data": "y", "k": "v"]) == "token text=x Data:y k:v")
    #expect(
      read(["part": "text:0.1", "more": "1", "event": "e", "response": "r", "data": "x", "k": "v", "part": "a:b"])
        == "e response=r part=text:0.1 more text=x k:v part:a:b")
  }

  @Test(arguments: [
    ("n", "0"), ("n", "01"), ("n", "-1"), ("n", ""), ("n", "9007199254740992"), ("n", "x"),
    ("event", ""), ("event", "a b"), ("event", "é"), ("response", ""), ("response", "a/b"),
    ("part", "text"), ("part", ":a"), ("part", "text:"), ("part", "Text:a"), ("part", "a b:c"), ("more", "0"),
    ("more", "true"),
    ("joined", "0"), ("joined", "x"), ("joined", "9007199254740992"),
  ])
  func leavesWhatHasAWrongShapeAmongTheOthers(_ name: String, _ value: String) {
    #expect(read(["a": "1", name: value, "b": "2"]) == "token a:1 \(name):\(value) b:2 misshapen=1")
  }

  @Test func takesTheFirstOfARepeatedName() {
    #expect(read(["data": "x", "data": "y", "n": "1", "n": "2"]) == "token n=1 text=x data:y n:2")
    #expect(read(["k": "1", "j": "2", "k": "3"]) == "token k:1 j:2 k:3")
    // The first counts, also where it has a wrong shape: the second does not step in.
    #expect(read(["n": "x", "n": "2"]) == "token n:x n:2 misshapen=1")
    #expect(read(["event": "end", "event": "token"]) == "end event:token")
  }

  @Test func joinsNoMoreThanAreNumbered() {
    #expect(read(["n": "7", "joined": "7"]) == "token n=7 joined=7")
    #expect(read(["n": "7", "joined": "8"]) == "token n=7 joined:8 misshapen=1")
    #expect(read(["joined": "8", "a": "1", "n": "7", "b": "2"]) == "token n=7 joined:8 a:1 b:2 misshapen=1")
    #expect(read(["joined": "8"]) == "token joined=8")
    #expect(read(["joined": "8", "n": "x"]) == "token joined=8 n:x misshapen=1")
  }

  @Test func keepsOurOwnNamesBack() {
    #expect(read(["_x": "1", "_": "2", "a": "3", "x_": "4"]) == "token a:3 x_:4")
  }

  @Test func tellsBytesFromText() {
    #expect(read([field(Array("data".utf8), [0xff])]) == "token binary=1")
    #expect(read([field(Array("data".utf8), [0xe2, 0x82])]) == "token binary=2")
    #expect(read([field(Array("data".utf8), [0xed, 0xa0, 0x80])]) == "token binary=3")
    #expect(read(["data": "🌍\u{0}"]) == "token text=🌍\u{0}")
  }

  @Test func keepsNothingOfWhatIsTooBig() {
    #expect(read(["data": "12345", "k": "v"], maxBytes: 11) == "token text=12345 k:v")
    #expect(read(["data": "12345", "k": "v"], maxBytes: 10) == "token too big 11")
    #expect(read(["n": "x", "k": "v"], maxBytes: 3) == "token too big 4 misshapen=1")
    var reader = EntryReader(maxEntryBytes: 5)
    let whole = reader.entry(EntryID(1, 0), [field("response", "r"), field("n", "2"), field("event", "end")])
    #expect(whole.response == "r" && whole.n == 2 && whole.endsResponse && whole.check != nil)
    let elided = reader.elided(EntryID(2, 0), bytes: 9_000_000)
    #expect(
      elided.check == nil && elided.bytes == 9_000_000 && elided.payload == .tooBig && Entries([elided]).keptBytes < 200
    )
  }

  @Test(
    arguments: [
      ([], 0x0000_0000),
      ([field("data", "Hel")], 0x8b41_4197),
      ([field("data", "")], 0x6bb8_6f59),
      ([field("", "")], 0x6522_df69),
      ([field("data", "a"), field("event", "token")], 0x3189_ff86),
      ([field("event", "token"), field("data", "a")], 0xb82d_9bd4),
      ([field("data", "a")], 0xe370_de3d),
      ([field("da", "taa")], 0x1151_8278),
      ([field("data", "55")], 0x00ab_3168),
      ([field(Array("data".utf8), [0xff, 0x00, 0xc3])], 0x15b3_8899),
      ([field("data", "héllo 🌍"), field("response", "r1"), field("n", "7")], 0xd9d3_7ce7),
      ([field("k", String(repeating: "x", count: 70_000))], 0xd2ac_5150),
    ] as [([Entry.Field], UInt32)])
  func checksAsZlibDoes(_ fields: [Entry.Field], _ check: UInt32) {
    // Computed with Python's zlib from the words of PROTOCOL 1.
    #expect(Check.of(fields) == check)
  }
}
