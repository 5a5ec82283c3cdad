import BatonProtocol
import BatonUpstream
import NIOCore

/// Makes the chunks of an AI SDK's UI message stream of the entries of one message again; of any response, whoever
/// produces it. What a client would break off at, such as deltas of parts whose beginning is no longer retained, is mended.
package struct UIMessageWire: Sendable {
  struct Kind {
    let kind: String
    let delta: String
    /// The members of the part's name and of the text.
    let name: String
    let member: String

    static let all = [
      Kind(kind: "text", delta: "text-delta", name: "id", member: "delta"),
      Kind(kind: "reasoning", delta: "reasoning-delta", name: "id", member: "delta"),
      Kind(kind: "tool", delta: "tool-input-delta", name: "toolCallId", member: "inputTextDelta"),
    ]
  }

  /// Names of parts and tool calls that are known at the same time.
  private static let maxNames = 10_000

  /// The last response of the message; nil: whichever comes.
  private let last: String?
  /// Whether all tool calls of the message come here; else the client has them.
  private let isWhole: Bool
  private var hasStarted = false
  private var tools: Set<String> = []
  /// Bytes of the names of parts and tool calls.
  private var nameBytes = 0
  private var response = Response(name: "")
  /// The message has ended.
  package private(set) var isOver = false

  /// - Parameters:
  ///   - last: the name of the message's last response; nil where it has one, and the client has what came before.
  package init(last: String? = nil) { (self.last, isWhole) = (last, last != nil) }

  /// Bytes of a chunk that is not whole yet, and of what is known of the message.
  package var held: Int { response.begun.held + nameBytes }

  /// Ends the message by an `error` chunk, with these words.
  package mutating func fail(_ words: String, into bytes: inout ByteBuffer) {
    if !isOver { write(error: words, into: &bytes) }
  }

  /// Of the response that is being told.
  private struct Response: Sendable {
    let name: String
    /// Its events are chunks of this wire.
    var isOurs = false
    var messageID: String?
    var n: UInt64 = 0
    /// `text` or `reasoning`, and the part's name, in the order in which they were begun.
    var open: [Part] = []
    var inputs: Set<String> = []
    var hasEnd = false
    /// Of a chunk that goes on in the next entry.
    var begun = EventPieces()
  }

  private struct Part: Sendable, Equatable {
    let kind: String
    let id: String
  }

  package mutating func write(_ entry: Entry, into bytes: inout ByteBuffer) {
    guard !isOver else { return }
    if response.name.isEmpty || !entry.isOf(response.name) {
      guard let name = entry.response else { return }
      response = Response(name: name)
    }
    let isLast = last == nil || last == response.name
    if entry.isTooBig {
      write(error: "A part of the answer is too large for the gateway.", into: &bytes)
      return
    }
    if let n = entry.n {
      // A repeat (PROTOCOL 2).
      guard n > response.n else { return }
      response.n = n
    }
    switch entry.event {
    case "start":
      let told = Self.data(entry)
      response.isOurs = told["wire"]?.text == "ai-sdk"
      response.messageID = told["messageId"]?.text
      if !response.isOurs { begin(into: &bytes) }
    case UIMessageCodec.event:
      response.isOurs = true
      guard let data = response.begun.whole(RelayedEntry(entry)) else { return }
      write(chunk: data, isLast: isLast, into: &bytes)
    case Entry.token: delta(entry, into: &bytes)
    case "end", "error", "cancelled": end(entry, isLast: isLast, into: &bytes)
    default: break
    }
  }

  // MARK: chunks

  private mutating func write(chunk data: [UInt8], isLast: Bool, into bytes: inout ByteBuffer) {
    guard let chunk = LenientJSON.values(data).values.first, let type = chunk["type"]?.text else { return }
    // Whoever may append has written it.
    let isPlain = !data.contains { $0 == 10 || $0 == 13 } && JSONValue(ByteBuffer(bytes: data)) != nil
    func pass(_ bytes: inout ByteBuffer) {
      bytes.writeStaticString("data: ")
      if isPlain { bytes.writeBytes(data) } else { bytes.writeString(chunk.json) }
      bytes.writeStaticString("\n\n")
    }
    if type == "start" {
      guard !hasStarted else { return write(metadata: chunk, into: &bytes) }
      hasStarted = true
      guard chunk["messageId"]?.text?.isEmpty != false else { return pass(&bytes) }
      return Self.write(chunk.setting("messageId", .text(response.messageID ?? response.name)), into: &bytes)
    }
    begin(into: &bytes)
    let call = chunk["toolCallId"]?.text
    switch type {
    case "finish", "abort", "error":
      guard isLast else { return write(metadata: chunk, into: &bytes) }
      response.hasEnd = true
    case "text-start", "reasoning-start":
      let part = Part(kind: String(type.dropLast("-start".count)), id: chunk["id"]?.text ?? "")
      guard !response.open.contains(part) else { return }
      opened(part)
    case "text-delta", "reasoning-delta":
      open(Part(kind: String(type.dropLast("-delta".count)), id: chunk["id"]?.text ?? ""), into: &bytes)
    case "text-end", "reasoning-end":
      let part = Part(kind: String(type.dropLast("-end".count)), id: chunk["id"]?.text ?? "")
      guard let index = response.open.firstIndex(of: part) else { return }
      response.open.remove(at: index)
    case "finish-step": response.open = []
    case "tool-input-start":
      if let call { known(call, isStreamed: true) }
    case "tool-input-delta":
      guard call.map(response.inputs.contains) ?? false else { return }
    case "tool-input-available", "tool-input-error":
      if let call { known(call, isStreamed: false) }
    case _ where type.hasPrefix("tool-output-") || type == "tool-approval-request":
      guard !isWhole || call.map(tools.contains) ?? true else { return }
    default: break
    }
    pass(&bytes)
  }

  private mutating func known(_ call: String, isStreamed: Bool) {
    guard tools.count < Self.maxNames else { return }
    if tools.insert(call).inserted { nameBytes += call.utf8.count }
    if isStreamed, response.inputs.insert(call).inserted { nameBytes += call.utf8.count }
  }

  /// What an inner `start` or `finish` has to say beside itself.
  private func write(metadata chunk: LenientJSON, into bytes: inout ByteBuffer) {
    guard let metadata = chunk["messageMetadata"] else { return }
    Self.write(
      .object([.init("type", .text("message-metadata")), .init("messageMetadata", metadata)]), into: &bytes)
  }

  // MARK: what entries say

  /// The message's `start`, where none came.
  private mutating func begin(into bytes: inout ByteBuffer) {
    guard !hasStarted else { return }
    hasStarted = true
    Self.write("start", [("messageId", response.messageID ?? response.name)], into: &bytes)
    if !response.isOurs { Self.write("start-step", [], into: &bytes) }
  }

  private mutating func opened(_ part: Part) {
    guard response.open.count < Self.maxNames else { return }
    response.open.append(part)
    nameBytes += part.id.utf8.count
  }

  private mutating func open(_ part: Part, into bytes: inout ByteBuffer) {
    guard !response.open.contains(part) else { return }
    Self.write("\(part.kind)-start", [("id", part.id)], into: &bytes)
    opened(part)
  }

  private mutating func delta(_ entry: Entry, into bytes: inout ByteBuffer) {
    let text: ByteBuffer
    switch entry.payload {
    case .text(let bytes), .binary(let bytes): text = bytes
    case .none, .tooBig: return
    }
    guard let part = entry.part else {
      return delta(Kind.all[0], response.name, text, into: &bytes)
    }
    let kind = part.prefix { $0 != ":" }
    let name = String(part[part.index(part.startIndex, offsetBy: min(kind.count + 1, part.count))...])
    switch kind {
    case "text", "refusal": delta(Kind.all[0], name, text, into: &bytes)
    case "reasoning", "summary": delta(Kind.all[1], name, text, into: &bytes)
    case "tool" where response.inputs.contains(name): delta(Kind.all[2], name, text, into: &bytes)
    default: break
    }
  }

  private mutating func delta(_ kind: Kind, _ name: String, _ text: ByteBuffer, into bytes: inout ByteBuffer) {
    begin(into: &bytes)
    if kind.kind != "tool" { open(Part(kind: kind.kind, id: name), into: &bytes) }
    // What almost all chunks are. Names of parts have no characters that JSON escapes.
    bytes.writeStaticString("data: {\"type\":\"")
    bytes.writeString(kind.delta)
    bytes.writeStaticString("\",\"")
    bytes.writeString(kind.name)
    bytes.writeStaticString("\":\"")
    bytes.writeString(name)
    bytes.writeStaticString("\",\"")
    bytes.writeString(kind.member)
    bytes.writeStaticString("\":")
    var json = JSONWriter(into: bytes)
    bytes = ByteBuffer()
    json.value(String(buffer: text))
    bytes = json.buffer
    bytes.writeStaticString("}\n\n")
  }

  private mutating func end(_ entry: Entry, isLast: Bool, into bytes: inout ByteBuffer) {
    guard isLast else { return }
    begin(into: &bytes)
    if !response.hasEnd {
      switch entry.event {
      case "error":
        let told = Self.data(entry)
        return write(error: told["message"]?.text ?? told["reason"]?.text ?? "The answer broke off.", into: &bytes)
      case "cancelled": Self.write("abort", [], into: &bytes)
      default:
        for part in response.open { Self.write("\(part.kind)-end", [("id", part.id)], into: &bytes) }
        if !response.isOurs {
          Self.write("finish-step", [], into: &bytes)
          Self.write("finish", [], into: &bytes)
        }
      }
    }
    isOver = true
  }

  private mutating func write(error: String, into bytes: inout ByteBuffer) {
    begin(into: &bytes)
    Self.write("error", [("errorText", error)], into: &bytes)
    isOver = true
  }

  private static func text(_ entry: Entry) -> [UInt8] { RelayedEntry(entry).data }

  /// The JSON of a marker.
  private static func data(_ entry: Entry) -> LenientJSON {
    LenientJSON.values(text(entry)).values.first ?? .null
  }

  private static func write(_ type: String, _ members: [(String, String)], into bytes: inout ByteBuffer) {
    bytes.writeStaticString("data: ")
    var json = JSONWriter(into: bytes)
    bytes = ByteBuffer()
    json.object { json in
      json.member("type", type)
      for (name, text) in members { json.member(name, text) }
    }
    bytes = json.buffer
    bytes.writeStaticString("\n\n")
  }

  private static func write(_ chunk: LenientJSON, into bytes: inout ByteBuffer) {
    bytes.writeString("data: \(chunk.json)\n\n")
  }
}

extension UIMessageWire {
  /// In bytes; a longer one names nothing.
  private static let messageIDLimit = 1024

  /// The last event of a stream that has said all.
  package static let done = "data: [DONE]\n\n"

  /// What an entry tells of the message that its response is part of.
  /// - Parameter entry: a `start`, or an event of this wire.
  /// - Returns: nil where it names none.
  package static func messageID(of entry: Entry) -> String? {
    // Of a chunk that goes on in the next entry the beginning is enough.
    let told = LenientJSON.remains(of: text(entry))
    guard entry.event == "start" || told?["type"]?.text == "start", let id = told?["messageId"]?.text,
      id.utf8.count <= messageIDLimit
    else { return nil }
    return id
  }
}
