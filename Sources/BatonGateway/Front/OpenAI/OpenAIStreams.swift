import BatonProtocol
import BatonRelay
import BatonUpstream
import NIOCore

/// Entries as one of OpenAI's streams.
protocol OpenAIStream: RelayStream {
  /// The response has ended, and nothing that was written says so: whoever relayed it is gone.
  var lacksEnd: Bool { get }
  /// - Parameter object: the response, where `lacksEnd`.
  func end(_ object: LenientJSON?, into bytes: inout ByteBuffer)
}

extension OpenAIStream {
  fileprivate static var noMemory: String {
    "the gateway has no memory for a part of the answer now; read it again later"
  }
}

struct ResponsesStream: OpenAIStream {
  /// The `sequence_number` of the last event that the client has.
  private(set) var after: UInt64?
  /// Of a response that waits for its turn: the session will have them, too.
  private let queuing: [LenientJSON]
  private var events: ResponseEvents
  private var hasEnd = false
  private var n: UInt64 = 0

  init(_ id: OpenAIResponseID, after: UInt64?, queuing: [LenientJSON] = []) {
    (self.after, self.queuing) = (after, queuing)
    events = ResponseEvents(id: id.description)
  }

  var held: Int { events.held }

  mutating func begin(into bytes: inout ByteBuffer) {
    for event in queuing.map(ResponseEvent.other) where isNew(event) {
      event.write(into: &bytes)
      after = event.sequenceNumber
    }
  }

  mutating func breakOff(into bytes: inout ByteBuffer) {
    ResponseEvent.other(
      .object([
        .init("type", .string(Array("error".utf8))), .init("sequence_number", .number("\(n)")),
        .init("code", .string(Array("server_error".utf8))), .init("message", .string(Array(Self.noMemory.utf8))),
        .init("param", .null),
      ])
    ).write(into: &bytes)
  }

  mutating func write(_ entry: Entry, into bytes: inout ByteBuffer) {
    n = max(n, entry.n ?? 0)
    for event in events.take(entry) {
      hasEnd = hasEnd || event.isEnd
      if isNew(event) { event.write(into: &bytes) }
    }
  }

  var lacksEnd: Bool { !hasEnd }

  func end(_ object: LenientJSON?, into bytes: inout ByteBuffer) {
    guard let object else { return }
    if let closing = events.closing(object) {
      for event in closing where isNew(event) { event.write(into: &bytes) }
      return
    }
    let error = LenientJSON.object([
      .init("code", .string(Array("server_error".utf8))),
      .init("message", .string(Array("the answer broke off".utf8))),
    ])
    let response = object.setting("status", .string(Array("failed".utf8))).setting("error", error)
    ResponseEvent.other(
      .object([
        .init("type", .string(Array("response.failed".utf8))), .init("sequence_number", .number("\(n)")),
        .init("response", response),
      ])
    ).write(into: &bytes)
  }

  private func isNew(_ event: ResponseEvent) -> Bool {
    guard let number = event.sequenceNumber else { return false }
    return after.map { number > $0 } ?? true
  }
}

struct ChatStream: OpenAIStream {
  private var wire = ChatWire()
  private var isWhole = false

  var held: Int { wire.held }

  mutating func breakOff(into bytes: inout ByteBuffer) {
    bytes.writeString(
      "data: {\"error\":{\"message\":\"\(Self.noMemory)\",\"type\":\"server_error\",\"param\":null,\"code\":\"server_error\"}}\n\n"
    )
  }

  mutating func write(_ entry: Entry, into bytes: inout ByteBuffer) {
    if let chunk = wire.chunk(RelayedEntry(entry)) { bytes.writeString("data: \(chunk.json)\n\n") }
    if entry.event == "end" { isWhole = true }
    if entry.event == "error" || entry.event == "cancelled" {
      let told = entry.event == "error" ? "the answer broke off" : "the answer was cancelled"
      bytes.writeString(
        "data: {\"error\":{\"message\":\"\(told)\",\"type\":\"\(entry.event)\",\"param\":null,\"code\":\"\(entry.event)\"}}\n\n"
      )
    }
  }

  let lacksEnd = false

  func end(_ object: LenientJSON?, into bytes: inout ByteBuffer) {
    if isWhole { bytes.writeString("data: [DONE]\n\n") }
  }
}
