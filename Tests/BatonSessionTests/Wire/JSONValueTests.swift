import BatonProtocol
import NIOCore
import Testing

@Suite struct JSONValueTests {
  private func read(_ text: String) -> JSONValue? { JSONValue(ByteBuffer(string: text)) }

  @Test("values")
  func values() {
    #expect(
      read(#" {"a":"x\n\u00e9","b":[1,-2.5e3,true,false,null,{}],"c":1e999} "#)
        == .object([
          "a": .string("x\né"),
          "b": .array([.number("1"), .number("-2.5e3"), .bool(true), .bool(false), .null, .object([:])]),
          "c": .number("1e999"),
        ]))
    #expect(read("\u{FEFF}\"x\"") == .string("x"))
    #expect(read(#"{"a":1,"a":2}"#) == .object(["a": .number("2")]))
  }

  @Test("half a character is U+FFFD")
  func halves() {
    #expect(read(#""\ud83d""#) == .string("\u{FFFD}"))
    #expect(read(#""a\ude42b""#) == .string("a\u{FFFD}b"))
    #expect(read(#""\ud83d\ude42""#) == .string("🙂"))
    #expect(read(#""\ud83d\ud83d\ude42""#) == .string("\u{FFFD}🙂"))
    #expect(read(#""\ud83dx""#) == .string("\u{FFFD}x"))
    #expect(read(#""\ud83d\n""#) == .string("\u{FFFD}\n"))
  }

  @Test("nesting has no end, and what lies deep is checked")
  func nesting() {
    let many = 50_000
    #expect(read(String(repeating: "[", count: many) + String(repeating: "]", count: many)) != nil)
    #expect(read(String(repeating: "[", count: many) + String(repeating: "]", count: many - 1)) == nil)
    let inside = String(repeating: "[", count: 40)
    let outside = String(repeating: "]", count: 40)
    #expect(read(inside + #"{"a":[1,{}],"b":"x"},[],2"# + outside) != nil)
    for wrong in [#"{"a"}"#, #"{"a":1,}"#, "[1,]", "[1 2]", "}", #"{1:2}"#] {
      #expect(read(inside + wrong + outside) == nil, "\(wrong)")
      #expect(read(wrong) == nil, "\(wrong)")
    }
  }

  @Test(
    "what is no JSON",
    arguments: [
      "", " ", "{", "\"", "\"\\", "\"\\x\"", "\"\\u12\"", "\"\u{01}\"", "01", "1.", ".5", "+1", "1e", "-", "tru", "nul",
      "{} {}", "'a'", "NaN",
    ])
  func wrong(text: String) { #expect(read(text) == nil) }

  @Test("what is no UTF-8")
  func bytes() {
    #expect(JSONValue(ByteBuffer(bytes: [0x22, 0xFF, 0x22])) == nil)
    #expect(JSONValue(ByteBuffer(bytes: [0x22, 0x5C, 0x6E, 0xED, 0xA0, 0x80, 0x22])) == nil)
  }
}
