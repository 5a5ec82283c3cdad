import BatonProducer
import BatonProtocol
import BatonUpstream
import NIOCore

/// Appends the events of an upstream to an open response.
struct RelayFeed {
  /// Bytes of one event.
  private static let eventLimit = 8 << 20

  let answer: OpenResponse
  private var codec: any RelayCodec
  private var decoder: EventStreamDecoder
  /// So many items are there already, of an answer that is read again.
  private var known: UInt64
  /// Items that have come.
  private var position: UInt64 = 0

  /// - Parameter known: nil: this is the response's beginning.
  init(_ codec: any RelayCodec, to answer: OpenResponse, known: UInt64? = nil) {
    (self.codec, self.answer, self.known) = (codec, answer, known ?? 0)
    decoder = EventStreamDecoder(limit: Self.eventLimit, isVerbatim: type(of: codec).isVerbatim)
    isAgain = known != nil
  }

  private var isAgain: Bool
  /// Something has come that was not there, since it was last asked for.
  var hasProgressed = false
  /// The upstream keeps its responses, as far as is known: each of its events has the id of this one there.
  var keepsUpstreamID = false
  /// A hidden field, of entries with an upstream's event.
  package static let upstreamID = "_upstream"

  /// Bytes of an event that is not whole yet.
  var held: Int { decoder.held }

  /// The upstream has said its own end.
  var isOver: Bool { codec.end != nil }

  var upstreamID: String? { codec.upstreamID }

  /// All of it is read once more, from its beginning; what is there is left out.
  mutating func beginAgain(_ codec: any RelayCodec) {
    (self.codec, known, position) = (codec, max(known, position), 0)
    decoder = EventStreamDecoder(limit: Self.eventLimit, isVerbatim: type(of: codec).isVerbatim)
    isAgain = true
  }

  mutating func received(_ bytes: ByteBuffer) async throws {
    for event in decoder.received(bytes) {
      if isAgain { codec = codec.reading(event) }
      try await append(codec.received(event))
    }
  }

  /// The upstream's stream has come to its end, whatever it has said.
  mutating func ended() async throws {
    guard !isOver else { return }
    for event in decoder.ended() { try await append(codec.received(event)) }
    codec.ended()
  }

  /// - Parameter stop: why, where the upstream has not said its own end.
  @discardableResult mutating func end(_ stop: RelayStop) async throws -> ResponseEnd {
    let end: RelayEnd
    if let told = codec.end {
      end = told
    } else {
      let (items, told) = codec.stopped(stop)
      try await append(items)
      end = told
    }
    do {
      try await answer.end(end.how, data: end.data)
    } catch is CancellationError {
      // It goes its way.
    }
    return end.how
  }

  private mutating func append(_ items: [RelayItem]) async throws {
    let event = type(of: codec).event
    for item in items {
      position += 1
      guard position > known else { continue }
      hasProgressed = true
      switch item {
      case .delta(let text, let part): try await answer.append(text, part: part)
      case .event(let json, let more):
        let id = keepsUpstreamID ? codec.upstreamID : nil
        try await answer.append(
          event: event, data: String(buffer: json), more: more,
          allFields: id.map { [(name: Self.upstreamID, value: $0)] } ?? [])
      case .verbatim(let data, let name, let id, let more):
        let fields = [(EventStreamCodec.name, name), (EventStreamCodec.id, id)]
        try await answer.append(
          event: event, data: data.map { String(buffer: $0) }, more: more,
          fields: fields.compactMap { field, value in value.map { (field, $0) } })
      }
    }
  }
}
