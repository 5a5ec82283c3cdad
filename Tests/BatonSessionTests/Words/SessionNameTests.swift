import Testing

@testable import BatonProtocol
@testable import BatonSession
@testable import BatonStore

@Suite struct SessionNameTests {
  @Test(arguments: [
    "a", "chat-42", "A.Z_0~9:@-", "...", ".a", "..a", String(repeating: "x", count: 128),
  ])
  func takes(_ text: String) {
    #expect(SessionName(text)?.description == text)
  }

  @Test(arguments: [
    "", ".", "..", "a b", "a/b", "a{b", "a}b", "a%41", "a*", "a+b", "é", "a\n", "a\u{0}",
    String(repeating: "x", count: 129),
  ])
  func refuses(_ text: String) {
    #expect(SessionName(text) == nil)
  }

  @Test func isOneOfItsTenants() {
    let name: SessionName = "chat-42"
    let (a, b) = (name.of("a"), name.of("b"))
    #expect(a != b && a != name && a.of("b") == b)
    #expect((a.description, a.tenant, a.qualified) == ("chat-42", "a", "a/chat-42"))
    #expect((name.description, name.tenant, name.qualified) == ("chat-42", nil, "chat-42"))
    #expect(SessionName(qualified: "a/chat-42") == a && SessionName(qualified: "chat-42") == name)
    for none in ["", "/", "a/", "/b", "a/b/c", "a/..", "../b", "a//b", "a b/c"] {
      #expect(SessionName(qualified: none) == nil, "\(none)")
    }
  }

  @Test func namesItsStream() {
    #expect(SessionName("chat-42").key(prefix: "baton:") == "baton:{chat-42}")
  }

  @Test(arguments: [
    ("token", true), ("a.b:c_d-9", true), (String(repeating: "e", count: 64), true),
    ("", false), ("a~", false), ("a@", false), ("a b", false), (String(repeating: "e", count: 65), false),
  ])
  func judgesEvents(_ text: String, _ isOne: Bool) {
    #expect(Shape.event(Array(text.utf8)) == isOne)
  }

  @Test(
    arguments: [
      ("1", 1), ("10", 10), ("9007199254740991", 9_007_199_254_740_991), ("0", nil), ("01", nil), ("-1", nil),
      ("", nil),
      ("1.0", nil), ("9007199254740992", nil), ("18446744073709551617", nil), ("1 ", nil),
    ] as [(String, UInt64?)])
  func judgesNumbers(_ text: String, _ number: UInt64?) {
    #expect(Shape.number(Array(text.utf8)) == number)
  }

  @Test(
    arguments: [
      (0, nil), (-1, nil), (1, 20), (20, 20), (21, 50), (50, 50), (51, 100), (101, 250), (251, 1000), (1000, 1000),
      (1001, nil),
    ] as [(Int, Int?)])
  func roundsRollupWindowsUp(_ asked: Int, _ window: Int?) {
    #expect(AttachRequest.Rollup(milliseconds: asked) == window.map { .window($0) })
  }

  /// PROTOCOL 2, character by character.
  @Test func eachCharacterIsInItsSets() {
    let common = Set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._:-".utf8)
    let kinds = Set("abcdefghijklmnopqrstuvwxyz0123456789-".utf8)
    for byte in UInt8.min...UInt8.max {
      let isCommon = common.contains(byte)
      #expect(Shape.event([byte]) == isCommon, "\(byte)")
      #expect(
        Shape.name([byte], upTo: 1) == (isCommon || byte == UInt8(ascii: "~") || byte == UInt8(ascii: "@")), "\(byte)")
      #expect(Shape.part([byte] + Array(":x".utf8)) == kinds.contains(byte), "\(byte)")
      #expect((Shape.number([byte]) != nil) == (UInt8(ascii: "1")...UInt8(ascii: "9")).contains(byte), "\(byte)")
    }
  }
}
