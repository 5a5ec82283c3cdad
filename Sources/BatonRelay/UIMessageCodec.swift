import BatonProtocol
import BatonUpstream
import NIOCore

/// The AI SDK's UI message stream, from its chunks to entries: deltas become deltas of parts, and every other chunk is kept
/// as it is; `UIMessageWire` makes the chunks again.
package struct UIMessageCodec: RelayCodec {
  package static let event = "ui"

  /// What the message is called where the backend does not say.
  private let messageID: String
  /// The message was begun by a response before.
  private let isContinued: Bool
  /// Chunks that tell what the client has found out meanwhile.
  private let outputs: [LenientJSON]
  private var hasStarted = false
  private var finishReason: String?
  private var isFinished = false
  private var isAborted = false
  private var error: String?
  package private(set) var end: RelayEnd?

  /// - Parameters:
  ///   - response: names the message where nobody else does.
  ///   - request: what the client has sent; nil where the backend is all there is.
  package init(response: String, request: UIMessageRequest? = nil) {
    messageID = request?.continued ?? response
    isContinued = request?.continued != nil
    outputs = request?.outputs ?? []
  }

  package var start: String {
    LenientJSON.object(
      [.init("wire", .text("ai-sdk")), .init("contentType", .text("text/event-stream"))]
        + (isContinued ? [.init("messageId", .text(messageID))] : [])
    ).json
  }

  package mutating func received(_ event: EventStreamDecoder.Item) -> [RelayItem] {
    guard end == nil, case .event(_, let data) = event else { return [] }
    if data.elementsEqual("[DONE]".utf8) {
      end = told
      return []
    }
    let (values, isAll) = LenientJSON.values(data)
    return values.flatMap { received($0, isAll && values.count == 1 ? data : nil) }
  }

  /// - Parameter data: as it came.
  private mutating func received(_ chunk: LenientJSON, _ data: [UInt8]?) -> [RelayItem] {
    guard let type = chunk["type"]?.text else { return [] }
    guard hasStarted else {
      hasStarted = true
      guard type == "start" else {
        return begun(.object([.init("type", .text("start"))])) + received(chunk, data)
      }
      return begun(chunk)
    }
    switch type {
    case "finish":
      isFinished = true
      finishReason = chunk["finishReason"]?.text
    case "abort": isAborted = true
    case "error": error = chunk["errorText"]?.text ?? ""
    default: if let delta = Self.delta(chunk, type) { return delta }
    }
    // A line of an event stream holds no line ends; between the tokens of JSON they mean nothing.
    if let data, !data.contains(where: { $0 == 10 || $0 == 13 }), JSONValue(ByteBuffer(bytes: data)) != nil {
      return RelayItem.events(String(decoding: data, as: UTF8.self))
    }
    return RelayItem.events(chunk.json)
  }

  private func begun(_ start: LenientJSON) -> [RelayItem] {
    let isNamed = start["messageId"]?.text?.isEmpty == false
    return ([isNamed ? start : start.setting("messageId", .text(messageID))] + outputs)
      .flatMap { RelayItem.events($0.json) }
  }

  /// A delta whose members an entry can hold.
  private static func delta(_ chunk: LenientJSON, _ type: String) -> [RelayItem]? {
    guard let kind = UIMessageWire.Kind.all.first(where: { $0.delta == type }), case .object(let members) = chunk,
      let name = chunk[kind.name]?.text, let text = chunk[kind.member]?.text,
      members.allSatisfy({ ["type", kind.name, kind.member].contains($0.name) })
    else { return nil }
    let part = "\(kind.kind):\(name)"
    return Shape.part(part.utf8) ? RelayItem.deltas(text, part: part) : nil
  }

  /// What the backend has said of its end.
  private var told: RelayEnd {
    if let error { return RelayEnd(how: .error, data: UpstreamEnd(reason: .error, message: error).data) }
    if isAborted { return RelayEnd(how: .cancelled, data: #"{"reason":"abort"}"#) }
    var end = UpstreamEnd()
    end.finishReason = finishReason
    return RelayEnd(how: .end, data: end.data)
  }

  package mutating func stopped(_ why: RelayStop) -> ([RelayItem], RelayEnd) {
    // A backend that ends its stream without `[DONE]` may have said all.
    if isFinished || isAborted || error != nil { return ([], told) }
    let isCancel = why.how == .cancelled
    let data = LenientJSON.object(
      [.init("reason", .text(why.reason))] + (isCancel ? [] : [.init("message", .text(why.words))]))
    return ([], RelayEnd(how: why.how, data: data.json))
  }
}

/// What a client of the AI SDK posts (`DefaultChatTransport`).
package struct UIMessageRequest: Sendable {
  /// The chat's id, which is the session's name.
  package let chat: String
  /// The same for the same question, as far as the client can be asked it twice; nil where it asks anew.
  package let key: String?
  /// The last message, with its content: an edited one keeps its id.
  package let lastMessage: String
  /// What the person wrote, where the last message is a person's.
  package let text: String?
  /// The message that is gone on with: a tool was approved, or the client has run it.
  package let continued: String?
  /// Chunks with the outputs of the tools that the client has run.
  package let outputs: [LenientJSON]

  /// Nil where members are missing.
  package init?(_ body: LenientJSON) {
    // Apps often send the last message alone (`prepareSendMessagesRequest`).
    let only = body["message"].flatMap { $0["id"] == nil ? nil : [$0] }
    guard let chat = body["id"]?.text, let messages = body["messages"]?.elements ?? only else { return nil }
    self.chat = chat
    let last = messages.last
    let id = last?["id"]?.text ?? ""
    lastMessage = last?.json ?? ""
    // To regenerate is to ask anew.
    key = body["trigger"]?.text == "regenerate-message" || id.isEmpty ? nil : lastMessage
    let isPersons = last?["role"]?.text == "user"
    text =
      isPersons
      ? (last?["parts"]?.elements ?? []).filter { $0["type"]?.text == "text" }.compactMap { $0["text"]?.text }.joined()
      : nil
    continued = last?["role"]?.text == "assistant" && !id.isEmpty ? id : nil
    outputs = continued == nil ? [] : Self.outputs(of: last?["parts"]?.elements ?? [])
  }

  /// Of the last step's tools: those before it were told by the responses before.
  private static func outputs(of parts: [LenientJSON]) -> [LenientJSON] {
    let step = parts.lastIndex { $0["type"]?.text == "step-start" }.map { $0 + 1 } ?? 0
    return parts[step...].compactMap { part in
      guard let type = part["type"]?.text, type.hasPrefix("tool-") || type == "dynamic-tool",
        let call = part["toolCallId"], part["providerExecuted"]?.isSomething != true
      else { return nil }
      let told: [LenientJSON.Member]
      switch part["state"]?.text {
      case "output-available":
        told = [
          .init("type", .text("tool-output-available")), .init("toolCallId", call),
          .init("output", part["output"] ?? .null),
        ]
      case "output-error":
        told = [
          .init("type", .text("tool-output-error")), .init("toolCallId", call),
          .init("errorText", part["errorText"] ?? .text("")),
        ]
      default: return nil
      }
      return .object(told + (type == "dynamic-tool" ? [.init("dynamic", .bool(true))] : []))
    }
  }
}
