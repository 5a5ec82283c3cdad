import BatonUpstream

/// OpenAI's Chat Completions, from their chunks to entries. A chunk that holds nothing but text becomes a delta, and every
/// other one is kept as it is; `ChatWire` makes the chunks again.
package struct ChatCodec: RelayCodec {
  package static let event = "openai"
  private let model: String
  private var hasBegun = false
  private var completion = ChatCompletion()
  package private(set) var end: RelayEnd?

  package init(model: String) { self.model = model }

  package var start: String {
    LenientJSON.object([.init("wire", .text("openai-chat")), .init("model", .text(model))]).json
  }

  package mutating func received(_ event: EventStreamDecoder.Item) -> [RelayItem] {
    guard end == nil, case .event(let name, let data) = event else { return [] }
    _ = completion.received(data, event: name)
    let items = LenientJSON.values(data).values.flatMap { self.items($0) }
    if completion.isDone { finish() }
    return items
  }

  private mutating func items(_ chunk: LenientJSON) -> [RelayItem] {
    guard case .object(let members) = chunk else { return [] }
    defer { hasBegun = true }
    guard let text = ChatWire.text(members), !text.isEmpty else { return RelayItem.events(chunk.json) }
    // What those that are made again have in common has to be there once.
    let first = hasBegun ? [] : RelayItem.events(chunk.setting("choices", Self.noText).json)
    return first + RelayItem.deltas(text, part: nil)
  }

  private static let noText = LenientJSON.array([
    .object([
      .init("index", .number("0")), .init("delta", .object([.init("content", .string([]))])),
      .init("finish_reason", .null),
    ])
  ])

  private mutating func finish() {
    let told = completion.ended().end
    end = RelayEnd(how: told.reason == nil ? .end : .error, data: told.data)
  }

  package mutating func stopped(_ why: RelayStop) -> ([RelayItem], RelayEnd) {
    if case .cut = why {
      // A server that ends its stream after a finish reason has said all.
      finish()
      if let end, end.how == .end { return ([], end) }
    }
    let data = LenientJSON.object([.init("reason", .text(why.reason))])
    return ([], RelayEnd(how: why.how, data: data.json))
  }
}
