import Testing

@testable import BatonRelay

struct EventPiecesTests {
  private func entry(_ text: String, more: Bool = false) -> RelayedEntry {
    RelayedEntry(event: "openai", part: nil, n: 1, hasMore: more, data: Array(text.utf8))
  }

  @Test func goesOnUntilTheLast() {
    var pieces = EventPieces()
    #expect(pieces.value(entry(#"{"a":"#, more: true)) == nil)
    #expect(pieces.value(entry("1}"))?["a"]?.whole == 1)
    #expect(pieces.value(entry("{}")) == .object([]))
  }

  /// Whoever may append can go on without an end.
  @Test func leavesOutWhatIsTooLarge() {
    var pieces = EventPieces()
    let mebibyte = String(repeating: " ", count: 1 << 20)
    for _ in 0..<40 { #expect(pieces.whole(entry(mebibyte, more: true)) == nil) }
    #expect(pieces.whole(entry("{}")) == nil)
    #expect(pieces.value(entry("{}")) == .object([]))
  }
}
