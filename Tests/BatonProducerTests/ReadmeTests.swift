import BatonProducer
import RedisServer
import Testing

/// The README's code, as it stands there.
@Suite struct ProducerReadmeTests {
  private struct Model {
    func stream(_ prompt: String) -> AsyncStream<String> {
      AsyncStream { continuation in
        for token in ["Hello, ", "world."] { continuation.yield(token) }
        continuation.finish()
      }
    }
  }

  @Test func producing() async throws {
    let server = try RedisServer()
    let (model, prompt) = (Model(), "Say hello.")
    let producer = try Producer(redis: server.unixURL)
    try await producer.respond(in: "chat-42") { answer in
      for try await token in model.stream(prompt) { try await answer.append(token) }
    }
    let written = try server.cli("XRANGE", "baton:{chat-42}", "-", "+")
    #expect(written.contains("Hello, ") && written.contains("world.") && written.contains("end"))
    await producer.shutdown()
  }
}
