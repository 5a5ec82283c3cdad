import BatonProtocol
import BatonUpstream

/// OpenAI's Responses, from their events to entries. What servers leave out is filled in: the official clients want it.
///
/// The `sequence_number` of an event is the number of its (last) entry, less one.
package struct ResponsesCodec: RelayCodec {
  package static let event = "openai"
  let id: String
  private let createdAt: Int
  private let model: String
  /// The one that it goes on from, as clients know it.
  private let previous: String?
  /// It may have been told of before the upstream was asked.
  private let isQueued: Bool
  private var isInProgress = false
  /// The number of the last entry.
  private var n: UInt64 = 0
  /// Of items, in the order in which they were added.
  private var outputIndexes: [String: Int] = [:]
  private var newestItem = ""
  package private(set) var upstreamID: String?
  package private(set) var end: RelayEnd?

  /// - Parameters:
  ///   - id: the response's, as clients know it.
  ///   - createdAt: seconds since 1970.
  ///   - model: as it was asked for.
  ///   - previous: the id of the response that it goes on from, likewise.
  ///   - isQueued: it begins by `queuing`, whatever the upstream says first.
  package init(id: String, createdAt: Int, model: String, previous: String? = nil, isQueued: Bool = false) {
    (self.id, self.createdAt, self.model, self.previous) = (id, createdAt, model, previous)
    self.isQueued = isQueued
  }

  /// Chunks, where the upstream knows chat completions only.
  package func reading(_ event: EventStreamDecoder.Item) -> any RelayCodec {
    guard n == 0, case .event(_, let data) = event, LenientJSON.values(data).values.first?["choices"] != nil else {
      return self
    }
    return ChatResponsesCodec(self)
  }

  package var start: String {
    LenientJSON.object([
      .init("wire", .text("openai")), .init("model", .text(model)), .init("contentType", .text("text/event-stream")),
    ]).json
  }

  package mutating func received(_ event: EventStreamDecoder.Item) -> [RelayItem] {
    guard end == nil, case .event(let name, let data) = event else { return [] }
    return LenientJSON.values(data).values.flatMap { received($0, name) }
  }

  mutating func received(_ value: LenientJSON, _ name: String) -> [RelayItem] {
    guard end == nil, case .object = value else { return [] }
    let type = value["type"]?.text ?? name
    guard isQueued else { return told(value, type) }
    let queuing = queued()
    switch type {
    case "response.queued": return queuing
    case "response.created", "response.in_progress":
      guard !isInProgress else { return queuing }
      isInProgress = true
      let response = (value["response"] ?? .object([])).setting("status", .text("in_progress"))
      return queuing + told(value.setting("response", response), "response.in_progress")
    default: return queuing + told(value, type)
    }
  }

  private mutating func told(_ value: LenientJSON, _ type: String) -> [RelayItem] {
    if let delta = delta(value, type) { return delta }
    var event = value.setting("type", .text(type))
    if let item = event["item"], type == "response.output_item.added" {
      let given = item["id"]?.text
      newestItem = given ?? "item_\(outputIndexes.count)"
      if given == nil { event = event.setting("item", item.setting("id", .text(newestItem))) }
      if outputIndexes.count < 4096, newestItem.utf8.count <= 128 {
        outputIndexes[newestItem] = event["output_index"]?.whole ?? outputIndexes.count
      }
    }
    if type.hasPrefix("response.output_") || type.hasPrefix("response.content_part.")
      || type.hasPrefix("response.reasoning_") || type.hasPrefix("response.function_call_")
      || type.hasPrefix("response.refusal.")
    {
      let item = event["item_id"]?.text ?? event["item"]?["id"]?.text ?? newestItem
      event = event.filling("output_index", .number("\(outputIndexes[item] ?? 0)"))
      if event["item"] == nil { event = event.filling("item_id", .text(item)) }
    }
    if type.hasPrefix("response.content_part.") || type.hasPrefix("response.output_text.")
      || type.hasPrefix("response.reasoning_text.") || type.hasPrefix("response.refusal.")
    {
      event = event.filling("content_index", .number("0"))
    }
    if type.hasPrefix("response.reasoning_summary_") { event = event.filling("summary_index", .number("0")) }
    if type.hasPrefix("response.output_text.") { event = event.filling("logprobs", .array([])) }
    if let part = event["part"] { event = event.setting("part", Self.complete(content: part)) }
    if let item = event["item"] {
      event = event.setting("item", Self.complete(item: item, isDone: type.hasSuffix(".done")))
    }
    let usage = event["response"]?["usage"]
    if upstreamID == nil, let id = event["response"]?["id"]?.text, Shape.name(id.utf8, upTo: 128) { upstreamID = id }
    if let response = event["response"] { event = event.setting("response", complete(response, type)) }
    let items = numbered(event)
    switch type {
    case "response.completed": end = RelayEnd(how: .end, data: Self.data("stop", usage))
    case "response.incomplete":
      let reason = value["response"]?["incomplete_details"]?["reason"]?.text
      end = RelayEnd(how: .end, data: Self.data(reason == "content_filter" ? "content_filter" : "length", usage))
    case "response.failed", "error":
      let error = value["response"]?["error"] ?? value
      var said = UpstreamEnd(reason: .error, message: error["message"]?.text)
      said.usage = usage
      end = RelayEnd(how: .error, data: said.data)
    default: break
    }
    return items
  }

  /// A delta whose members an entry can hold.
  private mutating func delta(_ value: LenientJSON, _ type: String) -> [RelayItem]? {
    guard let kind = ResponsesWire.kinds.first(where: { $0.event == type }), let text = value["delta"]?.text,
      value["logprobs"]?.isSomething != true
    else { return nil }
    let item = value["item_id"]?.text ?? newestItem
    let output = value["output_index"]?.whole ?? outputIndexes[item] ?? 0
    let index = kind.index.map { value[$0]?.whole ?? 0 }
    let part = "\(kind.kind):\(output).\(index.map { "\($0)." } ?? "")\(item)"
    guard Shape.part(part.utf8) else { return nil }
    let items = RelayItem.deltas(text, part: part)
    n += UInt64(items.count)
    return items
  }

  private mutating func numbered(_ event: LenientJSON) -> [RelayItem] {
    // How many entries it takes depends on its number, which depends on them: by a digit, seldom.
    var items: [RelayItem] = []
    repeat {
      let last = n + UInt64(max(1, items.count))
      items = RelayItem.events(event.setting("sequence_number", .number("\(last - 1)")).json)
      if last == n + UInt64(items.count) { break }
    } while true
    n += UInt64(items.count)
    return items
  }

  /// What is answered before the model has said anything.
  package var waiting: LenientJSON {
    complete(.object([.init("status", .text("queued")), .init("background", .bool(true))]), "")
  }

  /// The events of a response that waits for its turn; the same once it had it.
  package var queuing: [LenientJSON] {
    ["response.created", "response.queued"].enumerated().map { number, type in
      .object([
        .init("type", .text(type)), .init("sequence_number", .number("\(number)")), .init("response", waiting),
      ])
    }
  }

  private mutating func queued() -> [RelayItem] { isQueued && n == 0 ? queuing.flatMap { numbered($0) } : [] }

  /// What is known of a response at its beginning.
  package static func begun(id: String, createdAt: Int, model: String) -> LenientJSON {
    ResponsesCodec(id: id, createdAt: createdAt, model: model).complete(.object([]), "")
  }

  /// A response with all members that clients demand.
  private func complete(_ response: LenientJSON, _ type: String) -> LenientJSON {
    var whole = response.setting("id", .text(id)).setting("object", .text("response"))
    let status =
      ["response.completed": "completed", "response.failed": "failed", "response.incomplete": "incomplete"][type]
      ?? "in_progress"
    for (name, value) in [
      ("created_at", LenientJSON.number("\(createdAt)")), ("status", .text(status)), ("model", .text(model)),
      ("output", .array([])), ("parallel_tool_calls", .bool(true)), ("tool_choice", .text("auto")),
      ("tools", .array([])), ("metadata", .object([])),
    ] { whole = whole.filling(name, value) }
    if let previous { whole = whole.setting("previous_response_id", .text(previous)) }
    for name in ["error", "incomplete_details", "instructions", "temperature", "top_p"] where whole[name] == nil {
      whole = whole.setting(name, .null)
    }
    if let output = whole["output"]?.elements {
      whole = whole.setting("output", .array(output.map { Self.complete(item: $0, isDone: true) }))
    }
    if let usage = whole["usage"], case .object = usage {
      let (input, output) = (usage["input_tokens"]?.whole ?? 0, usage["output_tokens"]?.whole ?? 0)
      whole = whole.setting(
        "usage",
        usage.filling("input_tokens", .number("\(input)"))
          .setting(
            "input_tokens_details",
            (usage["input_tokens_details"] ?? .object([])).filling("cached_tokens", .number("0"))
              .filling("cache_write_tokens", .number("0"))
          )
          .filling("output_tokens", .number("\(output)"))
          .filling("output_tokens_details", .object([.init("reasoning_tokens", .number("0"))]))
          .filling("total_tokens", .number("\(input &+ output)")))
    }
    return whole
  }

  private static func complete(content: LenientJSON) -> LenientJSON {
    guard content["type"]?.text == "output_text" else { return content }
    return content.filling("annotations", .array([])).filling("logprobs", .array([]))
  }

  private static func complete(item: LenientJSON, isDone: Bool) -> LenientJSON {
    guard item["type"]?.text == "message" else { return item }
    return item.filling("role", .text("assistant")).filling("status", .text(isDone ? "completed" : "in_progress"))
      .setting("content", .array((item["content"]?.elements ?? []).map { complete(content: $0) }))
  }

  package mutating func stopped(_ why: RelayStop) -> ([RelayItem], RelayEnd) {
    let isCancel = why.how == .cancelled
    let queuing = queued()
    let type = isCancel ? "response.incomplete" : "response.failed"
    var response = complete(.object([]), type)
    if isCancel {
      response = response.setting("status", .text("cancelled"))
    } else {
      response = response.setting(
        "error", .object([.init("code", .text("server_error")), .init("message", .text(why.words))]))
    }
    let items = queuing + numbered(.object([.init("type", .text(type)), .init("response", response)]))
    let data = LenientJSON.object(
      [.init("reason", .text(why.reason))] + (isCancel ? [] : [.init("message", .text(why.words))]))
    return (items, RelayEnd(how: why.how, data: data.json))
  }

  private static func data(_ reason: String, _ usage: LenientJSON?) -> String {
    var end = UpstreamEnd()
    (end.finishReason, end.usage) = (reason, usage)
    return end.data
  }
}
