import BatonProtocol
import BatonUpstream
import NIOCore

/// One event of OpenAI's Responses.
package enum ResponseEvent: Sendable {
  /// What almost all of them are.
  case delta(ResponseDelta)
  case other(LenientJSON)

  package var json: LenientJSON {
    switch self {
    case .delta(let delta): delta.json
    case .other(let json): json
    }
  }

  package var sequenceNumber: UInt64? {
    switch self {
    case .delta(let delta): delta.sequenceNumber
    case .other(let json): json["sequence_number"]?.whole.flatMap { UInt64(exactly: $0) }
    }
  }

  package var isEnd: Bool { if case .other(let json) = self { ResponseFold.isEnd(json) } else { false } }

  /// Its type, where that can stand in a line: a model server may have written anything.
  package static func name(_ json: LenientJSON) -> String {
    guard let type = json["type"]?.text, type.utf8.allSatisfy({ (0x21...0x7E).contains($0) }) else { return "message" }
    return type
  }

  /// As a server-sent event.
  package func write(into bytes: inout ByteBuffer) {
    switch self {
    case .delta(let delta): delta.write(into: &bytes)
    case .other(let json): bytes.writeString("event: \(Self.name(json))\ndata: \(json.json)\n\n")
    }
  }
}

/// More of a text.
package struct ResponseDelta: Sendable {
  let type: String
  let sequenceNumber: UInt64
  /// Of characters that JSON does not escape.
  let itemID: String
  let output: Int
  /// The member that numbers parts within their item.
  let index: (name: String, value: Int)?
  /// UTF-8.
  let text: [UInt8]
  let hasLogprobs: Bool

  var json: LenientJSON {
    var members: [LenientJSON.Member] = [
      .init("type", .text(type)), .init("sequence_number", .number("\(sequenceNumber)")),
      .init("item_id", .text(itemID)), .init("output_index", .number("\(output)")),
    ]
    if let index { members.append(.init(index.name, .number("\(index.value)"))) }
    members.append(.init("delta", .string(text)))
    if hasLogprobs { members.append(.init("logprobs", .array([]))) }
    return .object(members)
  }

  func write(into bytes: inout ByteBuffer) {
    bytes.writeStaticString("event: ")
    bytes.writeString(type)
    bytes.writeStaticString("\ndata: {\"type\":\"")
    bytes.writeString(type)
    bytes.writeStaticString("\",\"sequence_number\":")
    bytes.writeString(String(sequenceNumber))
    bytes.writeStaticString(",\"item_id\":\"")
    bytes.writeString(itemID)
    bytes.writeStaticString("\",\"output_index\":")
    bytes.writeString(String(output))
    if let index {
      bytes.writeStaticString(",\"")
      bytes.writeString(index.name)
      bytes.writeStaticString("\":")
      bytes.writeString(String(index.value))
    }
    bytes.writeStaticString(",\"delta\":")
    var json = JSONWriter(into: bytes)
    bytes = ByteBuffer()
    json.value(String(decoding: text, as: UTF8.self))
    bytes = json.buffer
    bytes.writeStaticString(hasLogprobs ? ",\"logprobs\":[]}\n\n" : "}\n\n")
  }
}
