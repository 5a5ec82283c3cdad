import BatonProtocol
import BatonRelay
import BatonStore
import NIOCore

/// Goes on with an answer whose relay died, where the model server goes on with it, too.
struct OpenAITakeOver: Sendable {
  /// What is needed to read the model's answer again, kept in the session's inbox.
  struct Note {
    /// `openai` or `openai-chat`.
    var wire: String
    var model: String
    /// Seconds since 1970.
    var createdAt: Int
    /// The id of the response that it goes on from, as clients know it.
    var previous: String?

    var fields: [Entry.Field] {
      [
        Entry.Field("_wire", wire), Entry.Field("_model", String(model.prefix(128))),
        Entry.Field("_created", "\(createdAt)"),
      ] + (previous.map { [Entry.Field("_previous", $0)] } ?? [])
    }

    init(wire: String, model: String, createdAt: Int, previous: String? = nil) {
      (self.wire, self.model, self.createdAt, self.previous) = (wire, model, createdAt, previous)
    }

    init?(_ texts: [String: String]) {
      guard let wire = texts["_wire"], let model = texts["_model"],
        let createdAt = texts["_created"].flatMap({ Int($0) })
      else { return nil }
      self.init(wire: wire, model: model, createdAt: createdAt, previous: texts["_previous"])
    }

    func codec(_ id: OpenAIResponseID) -> any RelayCodec {
      wire == "openai"
        ? ResponsesCodec(id: id.description, createdAt: createdAt, model: model, previous: previous)
        : ChatCodec(model: model)
    }
  }

  /// Pages of an inbox that are looked through.
  private static let pages = 64

  let store: any SessionOperations
  let relay: Relay

  func goOn(with response: String, in session: SessionName) async -> Bool {
    let id = OpenAIResponseID(response: response, session: session)
    guard id.isOfRelay, let note = await note(of: id) else { return false }
    let kept = relay.asksInBackground ? try? await store.upstreamID(of: response, in: session) : nil
    return await relay.goOn(
      with: Relay.Request(
        session: session.qualified, response: response, path: "", body: ByteBuffer(), codec: note.codec(id)),
      by: kept.map { .response($0) } ?? .conversation(response))
  }

  private func note(of id: OpenAIResponseID) async -> Note? {
    var place = EntryID.zero
    for _ in 0..<Self.pages {
      guard let look = try? await store.look(at: id.response, in: id.session, after: place) else { return nil }
      for message in look.messages {
        let texts = message.texts
        if texts["event"] == "relay", texts["response"] == id.response, let note = Note(texts) { return note }
      }
      guard look.messages.count == InboxLook.count, let last = look.messages.last else { return nil }
      place = EntryID(last.id.milliseconds, last.id.sequence)
    }
    return nil
  }
}
