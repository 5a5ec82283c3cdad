import BatonClient
import Testing

/// The README's code, as it stands there.
@Suite(.timeLimit(.minutes(3))) struct ClientReadmeTests {
  @Test func watching() async throws {
    let gateway = try await FakeGateway()
    defer { gateway.stop() }
    var shown: [String] = []
    func show(_ texts: [String]) { shown = texts }

    Task {
      let device = try await gateway.peer(0)
      device.attached()
      device.token(1, "Hello, ")
      device.token(2, "world.")
      device.close(1000, "done")
    }
    let attachment = try SessionAttachment(to: "chat-42", at: [gateway.url])
    var transcript = SessionTranscript()
    for try await event in attachment {
      transcript.apply(event)
      show(transcript.responses.map(\.text))
    }
    #expect(shown == ["Hello, world."])
  }
}
