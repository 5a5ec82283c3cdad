import BatonProtocol
import BatonUpstream
import NIOCore

/// Server-sent events that nothing else is known of: each is kept as it came. `EventStreamWire` writes them again.
package struct EventStreamCodec: RelayCodec {
  package static let event = "sse"
  package static let isVerbatim = true
  /// The fields that hold an event's own name and id.
  static let name = "sse-event"
  static let id = "sse-id"

  /// Bytes of a name and an id together.
  private static let nameLimit = 16 << 10

  package private(set) var end: RelayEnd?
  /// Bytes of the last event that was too large to be kept.
  private var leftOut: Int?

  package init() {}

  package var start: String {
    LenientJSON.object([.init("wire", .text(Self.event)), .init("contentType", .text("text/event-stream"))]).json
  }

  package mutating func received(_ event: EventStreamDecoder.Item) -> [RelayItem] {
    switch event {
    case .verbatim(let name, let id, let data):
      let size = (name?.utf8.count ?? 0) + (id?.utf8.count ?? 0)
      guard size <= Self.nameLimit else {
        leftOut = size + (data?.count ?? 0)
        return []
      }
      guard let data, !data.isEmpty else {
        return [.verbatim(data.map { _ in ByteBuffer() }, name: name, id: id, more: false)]
      }
      // Bytes that are no UTF-8 become U+FFFD, as in every reader of such a stream.
      let pieces = ByteBuffer(string: String(decoding: data, as: UTF8.self)).pieces()
      return pieces.enumerated().map { .verbatim($1, name: name, id: id, more: $0 + 1 < pieces.count) }
    case .tooLarge(let bytes):
      leftOut = bytes
      return []
    case .event, .line: return []
    }
  }

  package mutating func ended() {
    guard let leftOut else {
      end = RelayEnd(how: .end, data: "{}")
      return
    }
    end = failed("event_too_large", "an event of \(leftOut) bytes was left out")
  }

  package mutating func stopped(_ why: RelayStop) -> ([RelayItem], RelayEnd) {
    if why.how == .cancelled {
      let data = LenientJSON.object([.init("reason", .text(why.reason))])
      return ([], RelayEnd(how: .cancelled, data: data.json))
    }
    return ([], failed(why.reason, why.words))
  }

  private func failed(_ reason: String, _ message: String) -> RelayEnd {
    let data = LenientJSON.object([.init("reason", .text(reason)), .init("message", .text(message))])
    return RelayEnd(how: .error, data: data.json)
  }
}

/// Writes the events of a response of `EventStreamCodec` again.
package struct EventStreamWire: Sendable {
  /// Bytes of one event.
  private static let limit = 16 << 20

  private var n: UInt64 = 0
  /// Of an event that goes on in the next entry.
  private var begun: [UInt8]?
  /// How the response has ended: `end`, `error` or `cancelled`; nil before it has.
  package private(set) var ending: String?
  /// Something is missing in what was written.
  package private(set) var isBroken = false

  package init() {}

  /// Bytes of an event that is not whole yet.
  package var held: Int { begun?.count ?? 0 }

  /// By what an event is told apart: its own id, or else the offset of its (last) entry.
  /// - Returns: nil where the entry ends no event.
  package static func id(of entry: Entry) -> String? {
    guard entry.event == EventStreamCodec.event, !entry.hasMore else { return nil }
    return text(EventStreamCodec.id, of: entry) ?? entry.offset.description
  }

  package mutating func write(_ entry: Entry, into bytes: inout ByteBuffer) {
    if entry.isTooBig { isBroken = true }
    guard !isBroken, ending == nil else { return }
    if entry.endsResponse {
      ending = entry.event
      return
    }
    guard entry.event == EventStreamCodec.event else { return }
    if let number = entry.n {
      // A repeat (PROTOCOL 2).
      guard number > n else { return }
      n = number
    }
    switch entry.payload {
    case .text(let text), .binary(let text):
      if begun == nil { begun = [] }
      begun?.append(contentsOf: text.readableBytesView)
    case .none, .tooBig: break
    }
    guard begun?.count ?? 0 <= Self.limit else {
      (isBroken, begun) = (true, nil)
      return
    }
    guard let id = Self.id(of: entry) else { return }
    let data = begun
    begun = nil
    if let name = Self.text(EventStreamCodec.name, of: entry) { bytes.writeString("event: \(name)\n") }
    bytes.writeString("id: \(id)\n")
    if let data { Self.write(data, into: &bytes) }
    bytes.writeString("\n")
  }

  private static func write(_ data: [UInt8], into bytes: inout ByteBuffer) {
    var rest = data[...]
    while true {
      let line = rest.prefix { $0 != 10 && $0 != 13 }
      bytes.writeStaticString("data: ")
      bytes.writeBytes(line)
      bytes.writeStaticString("\n")
      rest = rest[line.endIndex...]
      guard let end = rest.popFirst() else { return }
      if end == 13, rest.first == 10 { rest = rest.dropFirst() }
    }
  }

  /// Nil where the entry has no such field, or one that no line can hold.
  private static func text(_ field: String, of entry: Entry) -> String? {
    guard let value = entry.fields.first(where: { String(buffer: $0.name) == field })?.value else { return nil }
    return value.readableBytesView.contains { $0 == 10 || $0 == 13 || $0 == 0 } ? nil : String(buffer: value)
  }
}
