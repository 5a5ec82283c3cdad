import BatonProtocol
import BatonStore
import Testing

@Suite struct SessionKeysTests {
  @Test func aKeyLeadsBackToItsSession() throws {
    let session = try #require(SessionName("chat-42"))
    let keys = SessionKeys(session, prefix: "baton:")
    #expect(keys.stream == "baton:{chat-42}")
    #expect(SessionName(key: keys.stream, prefix: "baton:") == session)
    for other in [keys.producers, keys.inbox, "baton:chat-42", "other:{chat-42}", "baton:{}", "baton:{a/}", ""] {
      #expect(SessionName(key: other, prefix: "baton:") == nil, "\(other)")
    }
  }

  @Test func aTenantsToo() throws {
    let session = try #require(SessionName("chat-42")).of("acme")
    let keys = SessionKeys(session, prefix: "baton:")
    #expect(keys.inbox == "baton:{acme/chat-42}:inbox")
    #expect(SessionName(key: keys.stream, prefix: "baton:") == session)
  }
}
