import BatonProtocol
import BatonUpstream
import NIOCore

/// The events of OpenAI's Responses that a response's entries are: those that its wire wrote, or, where another wrote it,
/// its text as one message.
///
/// A message's `sequence_number`s follow from its entries alone, so that they are the same at each reading and on every node:
/// 0 to 3 before the first delta, then a delta's `n` + 3.
package struct ResponseEvents: Sendable {
  private enum Form {
    case unknown
    case responses(ResponsesWire)
    case message(MessageEvents)
  }

  private let id: String
  private var form = Form.unknown

  package init(id: String) { self.id = id }

  /// Bytes of an event that is not whole yet.
  package var held: Int { if case .responses(let wire) = form { wire.held } else { 0 } }

  package mutating func take(_ entry: Entry) -> [ResponseEvent] {
    if case .unknown = form {
      form = ResponsesWire.wrote(entry) ? .responses(ResponsesWire()) : .message(MessageEvents(id: id, entry))
    }
    switch form {
    case .unknown: return []
    case .responses(var wire):
      form = .unknown
      defer { form = .responses(wire) }
      return wire.event(RelayedEntry(entry)).map { [$0] } ?? []
    case .message(var message):
      form = .unknown
      defer { form = .message(message) }
      return message.take(entry)
    }
  }

  /// What follows a message's last delta, once the response has ended. Nil where the wire itself tells its end.
  /// - Parameter object: the response as `ended` gives it.
  package func closing(_ object: LenientJSON) -> [ResponseEvent]? {
    if case .message(let message) = form { message.closing(object).map { .other($0) } } else { nil }
  }

  /// - Parameters:
  ///   - object: of all events.
  ///   - ending: the event that ended the response, or nil.
  package func ended(_ object: LenientJSON, by ending: String?) -> LenientJSON {
    switch ending {
    case "error": return object.setting("status", .text("failed"))
    case "cancelled": return object.setting("status", .text("cancelled"))
    case .some:
      guard case .message = form else { return object }
      let output = (object["output"]?.elements ?? []).map { $0.setting("status", .text("completed")) }
      return object.setting("status", .text("completed")).setting("output", .array(output))
    case nil: return object
    }
  }
}

extension ResponsesWire {
  /// Whether a response that has this entry was written by this wire.
  fileprivate static func wrote(_ entry: Entry) -> Bool {
    let relayed = RelayedEntry(entry)
    if entry.event == "start" { return LenientJSON.values(relayed.data).values.first?["wire"]?.text == "openai" }
    var wire = ResponsesWire()
    return entry.event == ResponsesCodec.event || wire.event(relayed) != nil
  }
}

private struct MessageEvents: Sendable {
  private let id: String
  private let model: String
  private let createdAt: Int
  /// Of the last delta.
  private var n: UInt64 = 0
  private var hasBegun = false
  private var pieces = TextPieces()

  init(id: String, _ first: Entry) {
    let started = first.event == "start" ? LenientJSON.values(RelayedEntry(first).data).values.first : nil
    (self.id, model) = (id, started?["model"]?.text ?? "")
    createdAt = Int(clamping: first.id.milliseconds / 1000)
  }

  mutating func take(_ entry: Entry) -> [ResponseEvent] {
    var events: [ResponseEvent] = []
    if !hasBegun {
      hasBegun = true
      events = opening.map { .other($0) }
    }
    guard entry.event == "token" || entry.n != nil else { return events }
    let number = entry.n ?? n + 1
    // An append that was sent twice.
    guard number > n else { return events }
    n = number
    let relayed = RelayedEntry(entry)
    guard entry.event == "token", entry.part?.hasPrefix("text:") ?? true else { return events }
    let text = pieces.received(relayed.data)
    if !text.isEmpty {
      events.append(
        .delta(
          ResponseDelta(
            type: "response.output_text.delta", sequenceNumber: n + 3, itemID: itemID, output: 0,
            index: ("content_index", 0), text: Array(text.utf8), hasLogprobs: true)))
    }
    return events
  }

  private var itemID: String { "msg_\(id)" }

  private var opening: [LenientJSON] {
    let response = ResponsesCodec.begun(id: id, createdAt: createdAt, model: model)
    return [
      .object([("type", "response.created")], 0, ("response", response)),
      .object([("type", "response.in_progress")], 1, ("response", response)),
      .object(
        [("type", "response.output_item.added")], 2, ("output_index", .number("0")), ("item", item("in_progress", []))),
      event("content_part.added", 3, ("part", part(""))),
    ]
  }

  func closing(_ object: LenientJSON) -> [LenientJSON] {
    let status = object["status"]?.text ?? "completed"
    let text = object["output"]?.elements?.first?["content"]?.elements?.first?["text"]?.text ?? ""
    let isWhole = status == "completed"
    let end = isWhole ? "completed" : status == "failed" ? "failed" : "incomplete"
    let item = item(isWhole ? "completed" : "incomplete", [part(text)])
    var response = object.setting("output", .array([item]))
    if status == "failed" {
      response = response.setting(
        "error",
        .object([.init("code", .text("server_error")), .init("message", .text("the answer broke off"))]))
    }
    return [
      event("output_text.done", n + 4, ("text", .text(text)), ("logprobs", .array([]))),
      event("content_part.done", n + 5, ("part", part(text))),
      .object([("type", "response.output_item.done")], n + 6, ("output_index", .number("0")), ("item", item)),
      .object([("type", "response.\(end)")], n + 7, ("response", response)),
    ]
  }

  private func event(_ type: String, _ number: UInt64, _ members: (String, LenientJSON)...) -> LenientJSON {
    .object(
      [("type", "response.\(type)"), ("item_id", itemID)], number,
      [("output_index", .number("0")), ("content_index", .number("0"))] + members)
  }

  private func item(_ status: String, _ content: [LenientJSON]) -> LenientJSON {
    .object([
      .init("id", .text(itemID)), .init("type", .text("message")), .init("status", .text(status)),
      .init("role", .text("assistant")), .init("content", .array(content)),
    ])
  }

  private func part(_ text: String) -> LenientJSON {
    .object([
      .init("type", .text("output_text")), .init("text", .text(text)), .init("annotations", .array([])),
      .init("logprobs", .array([])),
    ])
  }
}

extension LenientJSON {
  fileprivate static func object(
    _ texts: [(String, String)], _ number: UInt64, _ members: (String, LenientJSON)...
  ) -> LenientJSON { object(texts, number, members) }

  fileprivate static func object(
    _ texts: [(String, String)], _ number: UInt64, _ members: [(String, LenientJSON)]
  ) -> LenientJSON {
    .object(
      texts.map { .init($0.0, .text($0.1)) } + [.init("sequence_number", .number("\(number)"))]
        + members.map { .init($0.0, $0.1) })
  }
}
