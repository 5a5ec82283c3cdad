import BatonStore
import Testing

@Suite struct EntryPutTests {
  @Test func scopesOfDifferentKeysAreNeverAlike() {
    let scopes = [("a b", "c"), ("a", "b c"), ("", "a b c"), ("1 a", "b c"), ("a b c", "")].map {
      EntryPut.scope("post", subject: $0.0, key: $0.1)
    }
    #expect(Set(scopes).count == scopes.count)
  }

  @Test func aGatewaysRetentionIsMarked() {
    #expect(
      AppendCall.delete.arguments(Retention(milliseconds: 5, entries: 7)) == [
        .string("delete"), .string("5"), .string("7"),
      ])
    #expect(
      AppendCall.delete.arguments(Retention(milliseconds: 5, entries: 7, isGuests: true))
        == [.string("delete"), .string("?5"), .string("7")])
  }
}
