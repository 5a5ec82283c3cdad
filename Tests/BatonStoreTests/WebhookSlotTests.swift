import BatonProtocol
import BatonRedis
import BatonSession
import BatonStore
import Testing

@Suite struct WebhookSlotTests {
  @Test func eachSlotHasAHashInIt() {
    var names: Set<String> = []
    for index in 0..<WebhookSlot.count {
      let slot = WebhookSlot(index)
      names.insert(slot.letters)
      #expect(RedisSlot.of(slot.key(prefix: "baton:")) == index)
      #expect(WebhookSlot(letters: slot.letters) == slot && slot.session != nil)
    }
    #expect(names.count == WebhookSlot.count)
    for letters in ["", "@@@", "@@@P", "@@@@@", "@@@\u{e9}"] { #expect(WebhookSlot(letters: letters) == nil) }
  }

  @Test func aTenantsSessionIsAnother() throws {
    let record = try #require(WebhookRecord(field: "acme/chat-42 5-1", value: "end r1 7"))
    #expect(record.session.tenant == "acme" && record.session.description == "chat-42")
    #expect(record.field == "acme/chat-42 5-1" && record.slot == WebhookSlot(RedisSlot.of("baton:{acme/chat-42}")))
    #expect(WebhookWatch(field: "acme/chat-42 =r1")?.field == "acme/chat-42 =r1")
  }

  @Test func aRecordComesBackFromItsField() throws {
    var record = try #require(WebhookRecord(field: "chat-42 5-1", value: "error r1 7"))
    #expect(record.session == SessionName("chat-42") && record.id == EntryID("5-1") && record.n == 7)
    #expect(record.response == "r1" && record.told.isEmpty)
    record.told = ["b", "a"]
    #expect(record.field == "chat-42 5-1" && record.value == "error r1 7 a,b")
    #expect(WebhookRecord(field: record.field, value: record.value) == record)
    #expect(WebhookRecord(field: "chat-42 5-1", value: "input - 0")?.response == nil)
    for (field, value) in [
      ("/", "1"), ("/full", "3"), ("chat-42 =r1", "open r1 0"), ("a//b 5-1", "end r 1"), ("s 5-1", "end r"),
    ] {
      #expect(WebhookRecord(field: field, value: value) == nil, "\(field)")
    }
    #expect(WebhookWatch(field: "chat-42 =r1")?.field == "chat-42 =r1")
    #expect(WebhookWatch(field: "chat-42 5-1") == nil && WebhookWatch(field: "/") == nil)
  }
}
