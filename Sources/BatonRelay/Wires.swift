import BatonProtocol
import BatonUpstream
import NIOCore

/// Makes the events of OpenAI's Responses of entries again.
package struct ResponsesWire: Sendable {
  struct Kind {
    let kind: String
    let event: String
    /// The member that numbers parts within their item.
    let index: String?
  }

  static let kinds = [
    Kind(kind: "text", event: "response.output_text.delta", index: "content_index"),
    Kind(kind: "reasoning", event: "response.reasoning_text.delta", index: "content_index"),
    Kind(kind: "summary", event: "response.reasoning_summary_text.delta", index: "summary_index"),
    Kind(kind: "refusal", event: "response.refusal.delta", index: "content_index"),
    Kind(kind: "tool", event: "response.function_call_arguments.delta", index: nil),
  ]

  private var pieces = EventPieces()

  package init() {}

  /// Bytes of an event that is not whole yet.
  package var held: Int { pieces.held }

  /// An event, or nil where the entry is none, or not its last.
  package mutating func event(_ entry: RelayedEntry) -> ResponseEvent? {
    guard let n = entry.n else { return nil }
    if entry.event == ResponsesCodec.event { return pieces.value(entry).map { .other($0) } }
    guard entry.event == "token", let part = entry.part, let colon = part.firstIndex(of: ":"),
      let kind = Self.kinds.first(where: { $0.kind == part[..<colon] })
    else { return nil }
    var rest = part[part.index(after: colon)...].split(separator: ".", maxSplits: kind.index == nil ? 1 : 2)
    guard rest.count == (kind.index == nil ? 2 : 3) else { return nil }
    let item = rest.removeLast()
    let places = rest.compactMap { Int($0) }
    guard places.count == rest.count else { return nil }
    return .delta(
      ResponseDelta(
        type: kind.event, sequenceNumber: n - 1, itemID: String(item), output: places[0],
        index: kind.index.map { ($0, places[1]) }, text: entry.data, hasLogprobs: kind.kind == "text"))
  }
}

/// Puts together the JSON that goes on in the next entry.
struct EventPieces: Sendable {
  /// In bytes. What an upstream may send has room in it; more is left out.
  private static let limit = 2 * UpstreamAnswer.eventLimit

  private var begun: [UInt8] = []
  private var isTooLarge = false

  /// Bytes of what is not whole yet.
  var held: Int { begun.count }

  /// Nil before the last of its entries.
  mutating func whole(_ entry: RelayedEntry) -> [UInt8]? {
    isTooLarge = isTooLarge || begun.count + entry.data.count > Self.limit
    if isTooLarge { begun = [] } else { begun += entry.data }
    if entry.hasMore { return nil }
    defer { (begun, isTooLarge) = ([], false) }
    return isTooLarge ? nil : begun
  }

  mutating func value(_ entry: RelayedEntry) -> LenientJSON? {
    whole(entry).flatMap { LenientJSON.values($0).values.first }
  }
}

/// One entry of a relayed response.
package struct RelayedEntry: Sendable {
  package var event: String
  package var part: String?
  package var n: UInt64?
  package var hasMore: Bool
  package var data: [UInt8]
}

extension RelayedEntry {
  package init(_ entry: Entry) {
    (event, part, n, hasMore) = (entry.event, entry.part, entry.n, entry.hasMore)
    switch entry.payload {
    case .text(let bytes), .binary(let bytes): data = Array(bytes.readableBytesView)
    case .none, .tooBig: data = []
    }
  }
}

/// A response put together from its events: what a client is given that does not stream.
package struct ResponseFold: Sendable {
  /// The newest `response` that came.
  private var response: LenientJSON?
  private var output: [LenientJSON] = []
  /// By the index of their item.
  private var deltas: [Int: [Place: [UInt8]]] = [:]
  /// Of one item.
  private static let maxParts = 1000
  /// The upstream has ended it, or the relay in its place.
  package private(set) var isOver = false

  package init() {}

  /// Whether an event ends its response.
  package static func isEnd(_ event: LenientJSON) -> Bool {
    ["response.completed", "response.incomplete", "response.failed"].contains(event["type"]?.text)
  }

  package mutating func take(_ event: LenientJSON) {
    let type = event["type"]?.text ?? ""
    if let response = event["response"] { self.response = response }
    isOver = isOver || Self.isEnd(event)
    guard let index = event["output_index"]?.whole, (0..<4096).contains(index) else { return }
    switch type {
    case "response.output_item.added", "response.output_item.done":
      guard let item = event["item"] else { return }
      deltas[index] = nil
      if index < output.count { output[index] = item } else { output.append(item) }
    case "response.content_part.added":
      guard index < output.count, let part = event["part"] else { return }
      let parts = output[index]["content"]?.elements ?? []
      guard parts.count < Self.maxParts else { return }
      output[index] = output[index].setting("content", .array(parts + [part]))
    case "response.output_text.delta": append(event, index, "text", event["content_index"]?.whole ?? 0)
    case "response.refusal.delta": append(event, index, "refusal", event["content_index"]?.whole ?? 0)
    case "response.function_call_arguments.delta": append(event, index, "arguments", nil)
    default: break
    }
  }

  /// Text that came for a member: of the item itself, or of one of its contents.
  private struct Place: Hashable {
    let member: String
    let content: Int?
  }

  private mutating func append(_ event: LenientJSON, _ index: Int, _ member: String, _ content: Int?) {
    guard index < output.count, content.map({ (0..<4096).contains($0) }) ?? true,
      case .string(let more)? = event["delta"]
    else { return }
    deltas[index, default: [:]][Place(member: member, content: content), default: []] += more
  }

  /// The object so far; nil before the first event that has one.
  package var object: LenientJSON? {
    guard let response else { return nil }
    if response["output"]?.isSomething == true { return response }
    var output = output
    for (index, places) in deltas where index < output.count {
      var parts = output[index]["content"]?.elements ?? []
      for (place, text) in places {
        if let content = place.content {
          if content < parts.count { parts[content] = parts[content].setting(place.member, .string(text)) }
        } else {
          output[index] = output[index].setting(place.member, .string(text))
        }
      }
      if !parts.isEmpty { output[index] = output[index].setting("content", .array(parts)) }
    }
    return response.setting("output", .array(output))
  }
}

/// Makes the chunks of a chat completion of entries again.
package struct ChatWire: Sendable {
  private var pieces = EventPieces()
  /// The last chunk that came whole: what the others have of it.
  private var like: [LenientJSON.Member] = []
  /// In bytes of each.
  private static let likeLimit = 1024

  package init() {}

  /// Bytes of a chunk that is not whole yet.
  package var held: Int { pieces.held }

  package mutating func chunk(_ entry: RelayedEntry) -> LenientJSON? {
    if entry.event == ChatCodec.event {
      guard let chunk = pieces.value(entry), case .object(let members) = chunk else { return nil }
      if like.isEmpty {
        like = members.filter {
          ["id", "created", "model", "system_fingerprint"].contains($0.name)
            && $0.value.json.utf8.count <= Self.likeLimit
        }
      }
      return chunk
    }
    guard entry.event == "token", entry.n != nil else { return nil }
    let choice = LenientJSON.object([
      .init("index", .number("0")), .init("delta", .object([.init("content", .string(entry.data))])),
      .init("finish_reason", .null),
    ])
    return .object(like + [.init("object", .text("chat.completion.chunk")), .init("choices", .array([choice]))])
  }

  /// The text of a chunk that has nothing else to say.
  static func text(_ members: [LenientJSON.Member]) -> String? {
    let known = ["id", "object", "created", "model", "system_fingerprint", "choices", "usage", "service_tier"]
    guard members.allSatisfy({ known.contains($0.name) || !$0.value.isSomething }) else { return nil }
    let chunk = LenientJSON.object(members)
    guard chunk["usage"]?.isSomething != true, let choices = chunk["choices"]?.elements, choices.count == 1,
      case .object(let choice) = choices[0],
      choice.allSatisfy({ $0.name == "delta" || $0.name == "index" || !$0.value.isSomething }),
      choices[0]["index"]?.whole ?? 0 == 0, case .object(let delta)? = choices[0]["delta"],
      delta.allSatisfy({ $0.name == "content" || !$0.value.isSomething })
    else { return nil }
    return choices[0]["delta"]?["content"]?.text
  }
}

extension LenientJSON {
  static func text(_ text: String) -> LenientJSON { .string(Array(text.utf8)) }

  /// A whole number that an `Int` holds.
  package var whole: Int? {
    guard case .number(let text) = self else { return nil }
    return Int(text) ?? Double(text).flatMap { Int(exactly: $0) }
  }

  /// An object with this member, in the place of the one of its name.
  package func setting(_ name: String, _ value: LenientJSON) -> LenientJSON {
    guard case .object(var members) = self else { return self }
    if let index = members.lastIndex(where: { $0.name == name }) {
      members[index] = Member(name, value)
    } else {
      members.append(Member(name, value))
    }
    return .object(members)
  }

  /// With this member where it has none, or null.
  func filling(_ name: String, _ value: LenientJSON) -> LenientJSON {
    self[name].map { $0.isNull } ?? true ? setting(name, value) : self
  }

  package func removing(_ names: Set<String>) -> LenientJSON {
    guard case .object(let members) = self else { return self }
    return .object(members.filter { !names.contains($0.name) })
  }
}
