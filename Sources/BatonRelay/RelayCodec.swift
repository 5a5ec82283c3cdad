import BatonProducer
import BatonProtocol
import BatonUpstream
import NIOCore

/// One entry that comes of an upstream's answer, with a number of its own.
package enum RelayItem: Sendable, Equatable {
  /// A text delta: of the answer itself where `part` is nil.
  case delta(ByteBuffer, part: String?)
  /// JSON that is kept as it is, in an entry with the codec's event; `more`: it goes on in the next one.
  case event(ByteBuffer, more: Bool)
  /// An event of a stream that nothing is known of, as it came; each nil where it had none.
  case verbatim(ByteBuffer?, name: String?, id: String?, more: Bool)

  /// Cut as the producer cuts deltas, so that each item has the number of its entry.
  static func deltas(_ text: String, part: String?) -> [RelayItem] {
    text.isEmpty ? [] : ByteBuffer(string: text).pieces().map { .delta($0, part: part) }
  }

  static func events(_ json: String) -> [RelayItem] {
    let pieces = ByteBuffer(string: json).pieces()
    return pieces.enumerated().map { .event($1, more: $0 + 1 < pieces.count) }
  }
}

/// How an answer ends in its session.
package struct RelayEnd: Sendable, Equatable {
  package var how: ResponseEnd
  /// JSON.
  package var data: String
}

/// Why a relay ends before its upstream does.
package enum RelayStop: Error, Sendable {
  case cancelled
  /// The connection broke off, or the stream ended without its own end.
  case cut(String)
  /// The node goes away.
  case drained
  /// The upstream was not asked, or has refused, after the response had been promised.
  case unasked(reason: String, String)

  var words: String {
    switch self {
    case .cancelled: "cancelled"
    case .cut(let why): why
    case .drained: "the gateway went away"
    case .unasked(_, let why): why
    }
  }

  var reason: String {
    switch self {
    case .cancelled: "cancel"
    case .cut: "upstream_cut"
    case .drained: "relay_drained"
    case .unasked(let reason, _): reason
    }
  }

  var isCut: Bool { if case .cut = self { true } else { false } }

  var how: ResponseEnd { if case .cancelled = self { .cancelled } else { .error } }
}

/// Turns the events of one wire into entries. A value; numbers are those that the entries will have.
package protocol RelayCodec: Sendable {
  /// Of the entries that hold JSON as it came.
  static var event: String { get }
  /// Whether it takes `EventStreamDecoder.Item.verbatim`.
  static var isVerbatim: Bool { get }
  /// The data of the response's start, JSON; asked for once the upstream has accepted.
  var start: String { get }
  mutating func received(_ event: EventStreamDecoder.Item) -> [RelayItem]
  /// Itself, or another one where the first event is none of this wire: asked before each event of an answer that is read
  /// again.
  func reading(_ event: EventStreamDecoder.Item) -> any RelayCodec
  /// The upstream has closed its stream as HTTP wants it closed.
  mutating func ended()
  /// The response's id at the upstream, as far as it is known, where it may keep the response.
  var upstreamID: String? { get }
  /// Nil before the upstream's own end.
  var end: RelayEnd? { get }
  /// It ends otherwise.
  mutating func stopped(_ why: RelayStop) -> ([RelayItem], RelayEnd)
}

extension RelayCodec {
  package static var isVerbatim: Bool { false }
  package mutating func ended() {}
  package var upstreamID: String? { nil }
  package func reading(_ event: EventStreamDecoder.Item) -> any RelayCodec { self }
}
