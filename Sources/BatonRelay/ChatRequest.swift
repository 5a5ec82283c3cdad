import BatonUpstream

/// A request of OpenAI's Responses as one of Chat Completions, for servers that have no other API.
package struct ChatRequest {
  /// What Chat Completions can't be asked for, in words.
  package struct Unsupported: Error, Sendable, Equatable {
    package let words: String
  }

  /// The body.
  package private(set) var body: LenientJSON

  /// Members that have another form there, and those that are the relay's own.
  private static let others: Set<String> = [
    "background", "conversation", "include", "input", "instructions", "max_output_tokens", "max_tool_calls",
    "previous_response_id", "prompt", "reasoning", "store", "stream", "stream_options", "text", "tool_choice", "tools",
    "truncation",
  ]

  package init(_ asked: LenientJSON) throws(Unsupported) {
    for name in ["conversation", "previous_response_id", "prompt"] where asked[name]?.isSomething == true {
      throw Unsupported(words: "\(name): the model server keeps nothing; send the conversation as input.")
    }
    var chat = asked.removing(Self.others)
    chat = chat.setting("messages", .array(try Self.messages(asked)))
    if let most = asked["max_output_tokens"], !most.isNull { chat = chat.setting("max_tokens", most) }
    if let effort = asked["reasoning"]?["effort"], !effort.isNull { chat = chat.setting("reasoning_effort", effort) }
    if let verbosity = asked["text"]?["verbosity"], !verbosity.isNull {
      chat = chat.setting("verbosity", verbosity)
    }
    if let format = asked["text"]?["format"], let form = Self.form(format) {
      chat = chat.setting("response_format", form)
    }
    if let tools = asked["tools"]?.elements, !tools.isEmpty {
      var told: [LenientJSON] = []
      for tool in tools { told.append(try Self.tool(tool)) }
      chat = chat.setting("tools", .array(told))
    }
    switch asked["tool_choice"] {
    case .string(let text)?: chat = chat.setting("tool_choice", .string(text))
    case .object?:
      guard asked["tool_choice"]?["type"]?.text == "function", let name = asked["tool_choice"]?["name"] else {
        throw Unsupported(words: "tool_choice: the model server knows functions only.")
      }
      chat = chat.setting(
        "tool_choice",
        .object([.init("type", .text("function")), .init("function", .object([.init("name", name)]))]))
    default: break
    }
    body = chat.setting("stream", .bool(true))
      .setting("stream_options", .object([.init("include_usage", .bool(true))]))
  }

  /// For servers that refuse to be asked for usage.
  package mutating func leaveOutUsage() { body = body.removing(["stream_options"]) }

  // MARK: messages

  private static func messages(_ asked: LenientJSON) throws(Unsupported) -> [LenientJSON] {
    var messages: [LenientJSON] = []
    switch asked["instructions"] {
    case .string(let text)?: messages.append(message("system", .string(text)))
    case .array(let items)?: for item in items { try add(item, to: &messages) }
    default: break
    }
    switch asked["input"] {
    case .string(let text)?: messages.append(message("user", .string(text)))
    case .array(let items)?: for item in items { try add(item, to: &messages) }
    default: throw Unsupported(words: "input is missing: a string, or a list of items.")
    }
    return messages
  }

  private static func message(_ role: String, _ content: LenientJSON) -> LenientJSON {
    .object([.init("role", .text(role)), .init("content", content)])
  }

  private static func add(_ item: LenientJSON, to messages: inout [LenientJSON]) throws(Unsupported) {
    switch item["type"]?.text ?? "message" {
    case "message":
      let role = item["role"]?.text ?? "user"
      // Chat templates know no developer.
      let told = role == "developer" ? "system" : role
      messages.append(message(told, try content(item["content"] ?? .text(""))))
    case "function_call":
      let call = LenientJSON.object([
        .init("id", item["call_id"] ?? item["id"] ?? .text("")), .init("type", .text("function")),
        .init(
          "function",
          .object([.init("name", item["name"] ?? .text("")), .init("arguments", item["arguments"] ?? .text("{}"))])),
      ])
      if let last = messages.last, last["role"]?.text == "assistant" {
        let calls = (last["tool_calls"]?.elements ?? []) + [call]
        messages[messages.count - 1] = last.setting("tool_calls", .array(calls))
      } else {
        messages.append(message("assistant", .null).setting("tool_calls", .array([call])))
      }
    case "function_call_output":
      messages.append(
        message("tool", try content(item["output"] ?? .text("")))
          .setting("tool_call_id", item["call_id"] ?? .text("")))
    case "reasoning": break
    case let kind: throw Unsupported(words: "input: the model server knows no items of type \(kind.prefix(64)).")
    }
  }

  /// Text alone as a string, which every server takes.
  private static func content(_ content: LenientJSON) throws(Unsupported) -> LenientJSON {
    guard case .array(let parts) = content else { return content }
    var text: [UInt8] = []
    var told: [LenientJSON] = []
    var isText = true
    for part in parts {
      switch part["type"]?.text ?? "" {
      case "input_text", "output_text", "text", "refusal":
        guard case .string(let piece) = part["text"] ?? part["refusal"] ?? .text("") else { continue }
        text += piece
        told.append(.object([.init("type", .text("text")), .init("text", .string(piece))]))
      case "input_image":
        isText = false
        guard let url = part["image_url"], url.isSomething else {
          throw Unsupported(words: "input_image: the model server has no files; send image_url.")
        }
        var image: [LenientJSON.Member] = [.init("url", url)]
        if let detail = part["detail"], !detail.isNull { image.append(.init("detail", detail)) }
        told.append(.object([.init("type", .text("image_url")), .init("image_url", .object(image))]))
      case "input_file":
        isText = false
        told.append(.object([.init("type", .text("file")), .init("file", part.removing(["type"]))]))
      case "input_audio":
        isText = false
        told.append(part)
      case let kind: throw Unsupported(words: "input: the model server knows no content of type \(kind.prefix(64)).")
      }
    }
    return isText ? .string(text) : .array(told)
  }

  // MARK: tools and forms

  private static func tool(_ tool: LenientJSON) throws(Unsupported) -> LenientJSON {
    guard tool["type"]?.text == "function" else {
      throw Unsupported(words: "tools: the model server knows functions only.")
    }
    return .object([.init("type", .text("function")), .init("function", tool.removing(["type"]))])
  }

  private static func form(_ format: LenientJSON) -> LenientJSON? {
    switch format["type"]?.text {
    case "json_schema"?:
      .object([.init("type", .text("json_schema")), .init("json_schema", format.removing(["type"]))])
    case "json_object"?: .object([.init("type", .text("json_object"))])
    default: nil
    }
  }
}
