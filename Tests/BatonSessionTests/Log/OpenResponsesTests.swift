import Testing

@testable import BatonProtocol
@testable import BatonSession

@Suite struct OpenResponsesTests {
  private func isEmpty(_ events: [(String, String?)]) -> Bool {
    var open = OpenResponses()
    for (event, response) in events {
      open.note(entry(1, [field("event", event)] + (response.map { [field("response", $0)] } ?? [])))
    }
    return open.isEmpty
  }

  @Test(
    arguments: [
      ([], true),
      ([("start", "r")], false),
      ([("token", "r")], false),
      ([("start", "r"), ("end", "r")], true),
      ([("start", "r"), ("error", "r")], true),
      ([("start", "r"), ("cancelled", "r")], true),
      ([("start", "r"), ("end", "q")], false),
      ([("start", "r"), ("end", nil)], false),
      ([("start", "r"), ("start", "q"), ("end", "r")], false),
      ([("token", nil), ("note", nil), ("end", nil)], true),
      ([("start", "r"), ("end", "r"), ("token", "r")], true),
      ([("end", "r"), ("token", "r")], true),
    ] as [([(String, String?)], Bool)])
  func opensAtTheFirstEntryAndClosesAtTheEnd(_ events: [(String, String?)], _ empty: Bool) {
    #expect(isEmpty(events) == empty)
  }
}
