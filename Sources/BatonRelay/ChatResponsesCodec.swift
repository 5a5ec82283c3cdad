import BatonUpstream

/// The chunks of a chat completion as events of OpenAI's Responses, for servers that have no other API.
package struct ChatResponsesCodec: RelayCodec {
  package static let event = ResponsesCodec.event

  /// One of the response's items, while it grows.
  private struct Item {
    enum Kind: Equatable {
      case reasoning, message
      /// By its index among the calls.
      case call(Int)
    }

    let kind: Kind
    let id: String
    let output: Int
    var text: [UInt8] = []
    /// Of a call: `call_id` and `name`.
    var members: [LenientJSON.Member] = []
    var isOpen = true
  }

  /// Bytes of an answer: its end says all of it once more.
  static let limit = 4 << 20
  /// Items of an answer.
  static let maxItems = 256

  private let id: String
  private var responses: ResponsesCodec
  private var completion = ChatCompletion()
  private var items: [Item] = []
  private var bytes = 0
  private var hasBegun = false
  package private(set) var end: RelayEnd?

  package init(_ responses: ResponsesCodec) {
    self.responses = responses
    id = String(responses.id.dropFirst("resp_".count).prefix { $0 != "~" })
  }

  package var start: String { responses.start }

  package mutating func received(_ event: EventStreamDecoder.Item) -> [RelayItem] {
    guard end == nil, case .event(let name, let data) = event else { return [] }
    var told = begun()
    let text = completion.received(data, event: name)
    for chunk in LenientJSON.values(data).values { told += reasoning(chunk) }
    told += add(Array(text.utf8), to: .message)
    for chunk in LenientJSON.values(data).values { told += calls(chunk) }
    if bytes > Self.limit { completion.failed("the answer has more than \(Self.limit) bytes") }
    return completion.isDone ? told + finished() : told
  }

  package mutating func stopped(_ why: RelayStop) -> ([RelayItem], RelayEnd) {
    if case .cut = why, completion.isFinished {
      // A server that ends its stream after a finish reason has said all.
      let told = begun() + finished()
      if let end { return (told, end) }
    }
    let begun = begun()
    let (told, end) = responses.stopped(why)
    return (begun + told, end)
  }

  private mutating func begun() -> [RelayItem] {
    guard !hasBegun else { return [] }
    hasBegun = true
    return tell("response.created", [.init("response", .object([]))])
      + tell("response.in_progress", [.init("response", .object([]))])
  }

  private mutating func tell(_ type: String, _ members: [LenientJSON.Member]) -> [RelayItem] {
    responses.received(.object([.init("type", .text(type))] + members), "")
  }

  // MARK: what a chunk says

  private static func delta(_ chunk: LenientJSON) -> LenientJSON? {
    guard let choice = chunk["choices"]?.elements?.first, choice["index"]?.whole ?? 0 == 0 else { return nil }
    return choice["delta"]
  }

  private mutating func reasoning(_ chunk: LenientJSON) -> [RelayItem] {
    let delta = Self.delta(chunk)
    guard case .string(let text)? = delta?["reasoning_content"] ?? delta?["reasoning"] else { return [] }
    return add(text, to: .reasoning)
  }

  private mutating func calls(_ chunk: LenientJSON) -> [RelayItem] {
    var told: [RelayItem] = []
    for (place, call) in (Self.delta(chunk)?["tool_calls"]?.elements ?? []).enumerated() {
      let kind = Item.Kind.call(call["index"]?.whole ?? place)
      let name = call["function"]?["name"]
      if !items.contains(where: { $0.kind == kind }) {
        let members: [LenientJSON.Member] = [
          .init("call_id", call["id"] ?? .text("call_\(items.count)")), .init("name", name ?? .text("")),
        ]
        told += open(kind, members)
      }
      if case .string(let text)? = call["function"]?["arguments"] { told += add(text, to: kind) }
    }
    return told
  }

  private mutating func add(_ text: [UInt8], to kind: Item.Kind) -> [RelayItem] {
    guard !text.isEmpty else { return [] }
    var told: [RelayItem] = []
    if !items.contains(where: { $0.kind == kind && $0.isOpen }) { told += open(kind, []) }
    guard let index = items.lastIndex(where: { $0.kind == kind && $0.isOpen }) else { return told }
    items[index].text += text
    bytes += text.count
    let type =
      switch kind {
      case .reasoning: "response.reasoning_text.delta"
      case .message: "response.output_text.delta"
      case .call: "response.function_call_arguments.delta"
      }
    return told + tell(type, place(items[index]) + [.init("delta", .string(text))])
  }

  // MARK: items

  private func place(_ item: Item) -> [LenientJSON.Member] {
    var members: [LenientJSON.Member] = [
      .init("item_id", .text(item.id)), .init("output_index", .number("\(item.output)")),
    ]
    if item.kind == .message || item.kind == .reasoning { members.append(.init("content_index", .number("0"))) }
    return members
  }

  private static func part(_ item: Item) -> LenientJSON {
    .object([
      .init("type", .text(item.kind == .message ? "output_text" : "reasoning_text")),
      .init("text", .string(item.text)),
    ])
  }

  private static func object(_ item: Item) -> LenientJSON {
    let content: [LenientJSON] = item.text.isEmpty && item.isOpen ? [] : [part(item)]
    let status = LenientJSON.Member("status", .text(item.isOpen ? "in_progress" : "completed"))
    switch item.kind {
    case .message:
      return .object([
        .init("id", .text(item.id)), .init("type", .text("message")), .init("role", .text("assistant")), status,
        .init("content", .array(content)),
      ])
    case .reasoning:
      return .object([
        .init("id", .text(item.id)), .init("type", .text("reasoning")), .init("summary", .array([])),
        .init("content", .array(content)),
      ])
    case .call:
      return .object(
        [.init("id", .text(item.id)), .init("type", .text("function_call")), status] + item.members
          + [.init("arguments", .string(item.isOpen ? [] : item.text))])
    }
  }

  private mutating func open(_ kind: Item.Kind, _ members: [LenientJSON.Member]) -> [RelayItem] {
    guard items.count < Self.maxItems else {
      completion.failed("the answer has more than \(Self.maxItems) items")
      return []
    }
    // Text is over where something else begins.
    var told = items.indices.filter { items[$0].kind == .message || items[$0].kind == .reasoning }.flatMap { close($0) }
    let prefix =
      switch kind {
      case .message: "msg"
      case .reasoning: "rs"
      case .call: "fc"
      }
    let item = Item(kind: kind, id: "\(prefix)_\(id)_\(items.count)", output: items.count, members: members)
    items.append(item)
    told += tell(
      "response.output_item.added",
      [.init("output_index", .number("\(item.output)")), .init("item", Self.object(item))])
    if kind == .message || kind == .reasoning {
      told += tell("response.content_part.added", place(item) + [.init("part", Self.part(item))])
    }
    return told
  }

  private mutating func close(_ index: Int) -> [RelayItem] {
    guard items[index].isOpen else { return [] }
    items[index].isOpen = false
    let item = items[index]
    var told: [RelayItem]
    switch item.kind {
    case .call:
      let name = item.members.last { $0.name == "name" }?.value ?? .text("")
      told = tell(
        "response.function_call_arguments.done",
        place(item) + [.init("name", name), .init("arguments", .string(item.text))])
    case .message, .reasoning:
      let type = item.kind == .message ? "response.output_text.done" : "response.reasoning_text.done"
      told = tell(type, place(item) + [.init("text", .string(item.text))])
      told += tell("response.content_part.done", place(item) + [.init("part", Self.part(item))])
    }
    return told
      + tell(
        "response.output_item.done",
        [.init("output_index", .number("\(item.output)")), .init("item", Self.object(item))])
  }

  // MARK: the end

  private mutating func finished() -> [RelayItem] {
    let (rest, told) = completion.ended()
    var said = add(Array(rest.utf8), to: .message)
    said += items.indices.flatMap { close($0) }
    var response: [LenientJSON.Member] = [.init("output", .array(items.map(Self.object)))]
    if let usage = told.usage { response.append(.init("usage", Self.usage(usage))) }
    let type: String
    switch (told.reason, told.finishReason) {
    case (_?, _):
      type = "response.failed"
      let words = told.message ?? "the model ended by \(told.finishReason ?? "an error")"
      response.append(
        .init("error", .object([.init("code", .text("server_error")), .init("message", .text(words))])))
    case (nil, "length"?), (nil, "content_filter"?):
      type = "response.incomplete"
      let reason = told.finishReason == "length" ? "max_output_tokens" : "content_filter"
      response.append(.init("incomplete_details", .object([.init("reason", .text(reason))])))
    default: type = "response.completed"
    }
    said += tell(type, [.init("response", .object(response))])
    end = RelayEnd(how: told.reason == nil ? .end : .error, data: told.data)
    return said
  }

  private static func usage(_ usage: LenientJSON) -> LenientJSON {
    let zero = LenientJSON.number("0")
    return .object([
      .init("input_tokens", usage["prompt_tokens"] ?? .null),
      .init(
        "input_tokens_details",
        .object([.init("cached_tokens", usage["prompt_tokens_details"]?["cached_tokens"] ?? zero)])),
      .init("output_tokens", usage["completion_tokens"] ?? .null),
      .init(
        "output_tokens_details",
        .object([.init("reasoning_tokens", usage["completion_tokens_details"]?["reasoning_tokens"] ?? zero)])),
      .init("total_tokens", usage["total_tokens"] ?? .null),
    ])
  }
}
