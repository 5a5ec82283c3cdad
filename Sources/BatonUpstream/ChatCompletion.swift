/// A chat completion put together from its chunks, as servers really write them: which text it has, and whether it is whole.
package struct ChatCompletion {
  /// Nothing that comes counts any more.
  package private(set) var isDone = false
  /// There is a finish reason with nothing but usage after it.
  package var isFinished: Bool { finishReason != nil }
  /// Something but text came, or a finish reason: the answer has begun.
  package private(set) var hasBegun = false

  private var finishReason: String?
  private var usage: LenientJSON?
  private var failure: (message: String, status: Int?)?
  /// Why something of it may be missing.
  private var loss: String?
  /// What was said beside the answer; of interest where nothing else tells why it broke off.
  private var remark: String?
  private var isWhole = false
  /// Kinds of content that are no text.
  private var notShown: [String] = []
  /// Kinds of events in which nothing is known; of interest where there is nothing else.
  private var unknown: [String] = []
  /// The first choice's, the only one that is shown.
  private var index: String?
  private var pieces = TextPieces()
  private var sent = SentText()

  package init() {}

  /// What one event says.
  /// - Returns: the text in it.
  package mutating func received(_ data: some Collection<UInt8>, event: String = "") -> String {
    if isDone { return "" }
    let data = Array(data)
    let (values, end) = LenientJSON.read(data)
    var text = ""
    for value in values where !isDone { text += chunk(value, event: event) }
    guard let end, !isDone else { return text }
    let rest = data[end...]
    if Self.isDoneMark(rest) {
      done()
    } else if let remains = LenientJSON.remains(of: rest), remains.isSomething, rest.first == UInt8(ascii: "{") {
      text += chunk(remains, event: event)
      lost("an event could not be read: \(UpstreamMessage.excerpt(rest))")
    } else if event == "error" {
      failed(UpstreamMessage.find(inBody: rest))
    } else if values.isEmpty || rest.contains(UInt8(ascii: "{")), event.isEmpty || !Self.isKeepAlive(event),
      !Self.isKeepAlive(String(decoding: rest.prefix(32), as: UTF8.self))
    {
      lost("an event could not be read: \(UpstreamMessage.excerpt(rest))")
    }
    return text
  }

  /// A line beside the events' fields.
  package mutating func received(line: [UInt8]) -> String {
    if line.starts(with: "error:".utf8) {
      if !isDone { failed(UpstreamMessage.find(inBody: line.dropFirst(6))) }
    } else if line.first == UInt8(ascii: "{"), LenientJSON.values(line).isAll {
      return received(line)
    } else {
      remark = remark ?? UpstreamMessage.shortened(String(decoding: line, as: UTF8.self))
    }
    return ""
  }

  /// A whole answer in one JSON text, which is its own end.
  package mutating func received(document: [UInt8]) -> String {
    let text = received(document)
    isWhole = index != nil && loss == nil
    if index == nil, failure == nil {
      failed(UpstreamMessage.find(inBody: document) ?? "there is no answer in it: \(UpstreamMessage.excerpt(document))")
    }
    return text
  }

  package mutating func failed(_ message: String?, status: Int? = nil) {
    failure = failure ?? (message ?? "the model told of an error without words", status)
    isDone = true
  }

  /// Something was left out that may have been text.
  package mutating func lost(_ what: String) { loss = loss ?? what }

  /// The stream is over, or has been given up.
  /// - Returns: the text that was held back, and how the answer ends.
  package mutating func ended() -> (text: String, end: UpstreamEnd) {
    (pieces.ended(), end())
  }

  private func end() -> UpstreamEnd {
    var end = UpstreamEnd()
    end.usage = usage
    end.notShown = index == nil ? notShown + unknown : notShown
    end.finishReason = finishReason
    if let failure {
      (end.reason, end.message, end.status) = (.error, failure.message, failure.status)
    } else if let finishReason, Self.isFailure(finishReason) {
      end.reason = .error
    } else if !isWhole, finishReason == nil {
      (end.reason, end.message) = (.cut, loss ?? remark)
    } else if let loss {
      (end.reason, end.message) = (.error, loss)
    }
    return end
  }

  private mutating func done() {
    isDone = true
    isWhole = true
  }

  // MARK: chunks

  private mutating func chunk(_ chunk: LenientJSON, event: String) -> String {
    switch chunk {
    case .object: break
    case .array(let elements) where elements.isEmpty:
      lost("an event could not be read: []")
      return ""
    case .array(let elements):
      return elements.reduce(into: "") { text, element in if !isDone { text += self.chunk(element, event: event) } }
    case .string where chunk.text?.lowercased() == "[done]":
      done()
      return ""
    case .string where event == "error":
      failed(UpstreamMessage.find(chunk))
      return ""
    default: return ""
    }
    let kind = chunk["object"]?.text ?? chunk["type"]?.text
    if chunk["error"]?.isSomething == true || kind == "error" || event == "error" {
      let status = [chunk["status"], chunk["code"], chunk["error"]?["code"]].lazy.compactMap(Self.status).first
      failed(UpstreamMessage.find(chunk), status: status)
      return ""
    }
    if let usage = chunk["usage"], usage.isSomething { self.usage = usage }
    let choices: [LenientJSON]
    switch chunk["choices"] {
    case .array(let elements)?: choices = elements
    case .object(let members)?: choices = [.object(members)]
    default: choices = ["delta", "message", "text", "finish_reason"].contains { Self.isPart(chunk[$0]) } ? [chunk] : []
    }
    if chunk["choices"] == nil, choices.isEmpty, chunk["usage"] == nil, chunk.isSomething,
      !Self.isKeepAlive(kind ?? "unknown")
    {
      remember(kind ?? "unknown", in: &unknown)
    }
    if choices.isEmpty, let said = UpstreamMessage.find(chunk) { remark = said }
    return choices.reduce(into: "") { $0 += choice($1) }
  }

  /// What a choice may say outside of `choices`; a bare message there is mostly no answer.
  private static func isPart(_ value: LenientJSON?) -> Bool {
    if case .object? = value { true } else { false }
  }

  private static func status(_ value: LenientJSON?) -> Int? {
    guard case .number(let text)? = value, let status = Int(text), (400..<600).contains(status) else { return nil }
    return status
  }

  private mutating func choice(_ choice: LenientJSON) -> String {
    guard case .object = choice else { return "" }
    let index = choice["index"].map(\.json) ?? self.index ?? "0"
    self.index = self.index ?? index
    guard index == self.index else { return "" }
    hasBegun = true
    if let error = choice["error"], error.isSomething { failed(UpstreamMessage.find(error)) }
    let shownBefore = notShown.count
    var others = false
    var text = ""
    if let delta = choice["delta"], delta.isSomething {
      text = pieces.received(content(of: delta, &others))
      sent.add(text)
    } else if let message = choice["message"], message.isSomething {
      text = sent.rest(of: pieces.received(content(of: message, &others)))
    } else if let plain = choice["text"], plain.isSomething {
      text = pieces.received(shown(plain, &others))
      sent.add(text)
    }
    if !text.isEmpty || others || notShown.count > shownBefore { finishReason = nil }
    if let reason = Self.reason(choice["finish_reason"]) ?? Self.reason(choice["finishReason"]) {
      finishReason = reason
    }
    return text
  }

  private mutating func content(of message: LenientJSON, _ others: inout Bool) -> [UInt8] {
    guard case .object = message else { return shown(message, &others) }
    var text: [UInt8] = []
    if let content = message["content"] { text += shown(content, &others) }
    if let refusal = message["refusal"] { text += shown(refusal, &others) }
    if let said = message["audio"]?["transcript"] { text += shown(said, &others) }
    for (name, kind) in Self.otherMembers where message[name]?.isSomething == true { hide(kind, &others) }
    return text
  }

  /// Members of a delta that are no text for people, and how the end calls them.
  private static let otherMembers = [
    ("reasoning_content", "reasoning"), ("reasoning", "reasoning"), ("reasoning_details", "reasoning"),
    ("thinking", "reasoning"), ("thinking_blocks", "reasoning"), ("tool_calls", "tool_calls"),
    ("function_call", "tool_calls"), ("audio", "audio"), ("images", "image"), ("image", "image"),
  ]

  /// The text of a content: a string, a part, or parts.
  private mutating func shown(_ content: LenientJSON, _ others: inout Bool) -> [UInt8] {
    switch content {
    case .string(let text): return text
    case .array(let parts): return parts.reduce(into: []) { $0 += shown($1, &others) }
    case .object:
      let kind = content["type"]?.text
      let isText = kind == nil || kind == "refusal" || kind?.hasSuffix("text") == true || kind == "text_delta"
      let value = [content["text"], content["refusal"], content["content"], content["value"]].lazy.compactMap(\.self)
        .first
      if isText, let value { return shown(value, &others) }
      hide(kind ?? "unknown", &others)
      return []
    case .number, .bool, .null: return []
    }
  }

  private mutating func hide(_ kind: String, _ others: inout Bool) {
    others = true
    remember(kind, in: &notShown)
  }

  private func remember(_ kind: String, in kinds: inout [String]) {
    let kind = String(kind.prefix(64))
    if !kinds.contains(kind), kinds.count < 16 { kinds.append(kind) }
  }

  // MARK: words

  /// Nil for what only looks like one.
  private static func reason(_ value: LenientJSON?) -> String? {
    let text = value?.text ?? value?["type"]?.text ?? value?["reason"]?.text
    guard let text = text.flatMap(UpstreamMessage.shortened) else { return nil }
    return ["null", "none", "nil", "undefined", "unfinished", "not_finished"].contains(text.lowercased()) ? nil : text
  }

  /// A finish reason which says that the answer is not what it would have been.
  static func isFailure(_ reason: String) -> Bool {
    let reason = reason.lowercased()
    return [
      "abort", "cancel", "fail", "timeout", "timed_out", "insufficient_", "unavailable", "disconnect", "malformed",
    ]
    .contains(where: reason.hasPrefix) || reason.contains("error") || reason.hasSuffix("timeout")
      || reason.hasSuffix("unavailable") || reason.hasSuffix("failure") || reason.hasSuffix("failed")
  }

  /// `[DONE]`, with white space around it.
  private static func isDoneMark(_ data: some Collection<UInt8>) -> Bool {
    data.count < 64 && String(decoding: data, as: UTF8.self).lowercased().filter { !$0.isWhitespace } == "[done]"
  }

  private static func isKeepAlive(_ word: String) -> Bool {
    let word = word.lowercased().filter { $0.isLetter }
    return ["ping", "pong", "keepalive", "heartbeat", "ok", "processing", ""].contains(word)
  }
}

/// How much was sent, so that a message which says it all again adds only what is new.
private struct SentText {
  private var count = 0
  private var hash = start
  private var hasDeltas = false
  /// Messages have so far repeated what was sent.
  private var isRepeated = false

  // FNV-1a.
  private static let start: UInt64 = 0xcbf2_9ce4_8422_2325

  private static func hash(_ bytes: some Sequence<UInt8>, from start: UInt64) -> UInt64 {
    bytes.reduce(start) { ($0 ^ UInt64($1)) &* 0x100_0000_01b3 }
  }

  mutating func add(_ text: String, isDelta: Bool = true) {
    if isDelta, !text.isEmpty { hasDeltas = true }
    count += text.utf8.count
    hash = Self.hash(text.utf8, from: hash)
  }

  mutating func rest(of message: String) -> String {
    let bytes = Array(message.utf8)
    let repeats = count > 0 && bytes.count >= count && Self.hash(bytes[..<count], from: Self.start) == hash
    guard repeats, bytes.count > count || hasDeltas || isRepeated else {
      add(message, isDelta: false)
      return message
    }
    isRepeated = true
    let rest = String(decoding: bytes[count...], as: UTF8.self)
    add(rest, isDelta: false)
    return rest
  }
}
