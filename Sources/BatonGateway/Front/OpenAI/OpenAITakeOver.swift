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
    /// It may be told of before it is its turn.
    var isQueued = false

    var fields: [Entry.Field] {
      [
        Entry.Field("_wire", wire), Entry.Field("_model", String(model.prefix(128))),
        Entry.Field("_created", "\(createdAt)"),
      ] + (previous.map { [Entry.Field("_previous", $0)] } ?? [])
        + (isQueued ? [Entry.Field("_queued", "1")] : [])
    }

    init(wire: String, model: String, createdAt: Int, previous: String? = nil) {
      (self.wire, self.model, self.createdAt, self.previous) = (wire, model, createdAt, previous)
    }

    init?(_ texts: [String: String]) {
      guard let wire = texts["_wire"], let model = texts["_model"],
        let createdAt = texts["_created"].flatMap({ Int($0) })
      else { return nil }
      self.init(wire: wire, model: model, createdAt: createdAt, previous: texts["_previous"])
      isQueued = texts["_queued"] != nil
    }

    func codec(_ id: OpenAIResponseID) -> any RelayCodec {
      wire == "openai" ? responses(id) : ChatCodec(model: model)
    }

    func responses(_ id: OpenAIResponseID) -> ResponsesCodec {
      ResponsesCodec(
        id: id.description, createdAt: createdAt, model: String(model.prefix(128)), previous: previous,
        isQueued: isQueued)
    }
  }

  let store: any SessionOperations
  let relay: Relay

  func goOn(with response: String, in session: SessionName) async -> Bool {
    let id = OpenAIResponseID(response: response, session: session)
    guard id.isOfRelay, let note = try? await store.note(of: id)?.note else { return false }
    let kept = relay.asksInBackground ? try? await store.upstreamID(of: response, in: session) : nil
    return await relay.goOn(
      with: Relay.Request(
        session: session.qualified, response: response, path: "", body: ByteBuffer(), codec: note.codec(id)),
      by: kept.map { .response($0) } ?? .conversation(response))
  }
}

extension SessionOperations {
  /// What is kept of a response that was asked for, and whether it was refused since; nil where nothing is.
  func note(of id: OpenAIResponseID) async throws -> (note: OpenAITakeOver.Note, isRefused: Bool)? {
    var place = EntryID.zero
    var found: (note: OpenAITakeOver.Note, isRefused: Bool)?
    for _ in 0..<Self.notePages {
      let look = try await look(at: id.response, in: id.session, after: place)
      for message in look.messages {
        let texts = message.texts
        guard texts["response"] == id.response else { continue }
        if texts["event"] == "relay", let note = OpenAITakeOver.Note(texts) { found = (note, false) }
        if texts["event"] == "relay-refused" { found?.isRefused = true }
      }
      guard look.messages.count == InboxLook.count, let last = look.messages.last else { break }
      place = EntryID(last.id.milliseconds, last.id.sequence)
    }
    return found
  }

  /// Pages of an inbox that are looked through.
  private static var notePages: Int { 64 }
}
