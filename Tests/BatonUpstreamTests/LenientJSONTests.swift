import Testing

@testable import BatonUpstream

struct LenientJSONTests {
  @Test(arguments: [
    (#"{"a":[1,2.5e3,true,false,null,"x"]}"#, #"{"a":[1,2.5e3,true,false,null,"x"]}"#),
    (#"{"a":NaN,"b":-Infinity,"c":None,"d":True}"#, #"{"a":null,"b":null,"c":null,"d":true}"#),
    (#"{'a':'it"s',}"#, #"{"a":"it\"s"}"#), ("[1,]", "[1]"), ("[01,+1,1e999,.5]", "[1.0,1.0,1e999,0.5]"),
    (#""\u00e4\ud83d\ude00\/\q\'""#, #""ä😀/q'""#), ("\"a\nb\"", #""a\nb""#), (#""\x41\u12""#, #""A\\u12""#),
    ("\u{FEFF} {}", "{}"),
  ])
  func isRead(_ text: String, _ written: String) {
    let (values, isAll) = LenientJSON.values(text.utf8)
    #expect(isAll && values.count == 1)
    #expect(values.first?.json == written)
  }

  @Test(arguments: ["{", "[1", #"{"a"}"#, #"{"a":}"#, #""abc"#, "abc", "{a:1}", "[1 2]", #"{"a":1}}"#])
  func isRefused(_ text: String) { #expect(!LenientJSON.values(text.utf8).isAll) }

  @Test func anyDepthIsReadOver() {
    let deep = String(repeating: "[", count: 100_000) + "\"]\"" + String(repeating: "]", count: 100_000)
    let (values, isAll) = LenientJSON.values("{\"a\":\(deep),\"b\":1}".utf8)
    #expect(isAll && values.first?["b"] == .number("1"))
  }

  @Test func textsFollowEachOther() {
    #expect(LenientJSON.values("{} 1\n[]".utf8).values == [.object([]), .number("1"), .array([])])
  }

  @Test func piecesOfCharactersMeet() {
    let text = "aä€😀z"
    for cut in 0...text.utf8.count {
      var pieces = TextPieces()
      let bytes = Array(text.utf8)
      #expect(pieces.received(Array(bytes[..<cut])) + pieces.received(Array(bytes[cut...])) + pieces.ended() == text)
    }
    let halves: [UInt8] = [0xED, 0xA0, 0xBD, 0xED, 0xB8, 0x80]
    for cut in 0...halves.count {
      var pieces = TextPieces()
      #expect(pieces.received(Array(halves[..<cut])) + pieces.received(Array(halves[cut...])) + pieces.ended() == "😀")
    }
  }
}
