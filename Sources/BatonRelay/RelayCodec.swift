import BatonProducer
import BatonUpstream

/// What of an upstream's answer goes into the session.
package enum RelayItem: Sendable, Equatable {
  /// A text delta: of the answer itself where `part` is nil.
  case delta(String, part: String?)
  /// One JSON text that is kept as it is, in an entry with the event `openai`.
  case event(String)
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

  var words: String {
    switch self {
    case .cancelled: "cancelled"
    case .cut(let why): why
    case .drained: "the gateway went away"
    }
  }

  var reason: String {
    switch self {
    case .cancelled: "cancel"
    case .cut: "upstream_cut"
    case .drained: "relay_drained"
    }
  }

  var how: ResponseEnd { if case .cancelled = self { .cancelled } else { .error } }
}

/// Turns the events of one wire into entries. A value; numbers are those that the entries will have.
package protocol RelayCodec: Sendable {
  /// The data of the response's start, JSON; asked for once the upstream has accepted.
  var start: String { get }
  mutating func received(_ event: EventStreamDecoder.Item) -> [RelayItem]
  /// Nil before the upstream's own end.
  var end: RelayEnd? { get }
  /// It ends otherwise.
  mutating func stopped(_ why: RelayStop) -> ([RelayItem], RelayEnd)
}

/// Pieces of a JSON text that one entry holds; the others follow with the next numbers.
package enum RelayPieces {
  /// Bytes of one piece: an entry may have 256 KiB.
  package static let limit = 192 << 10

  static func count(_ bytes: Int) -> UInt64 { UInt64(max(1, (bytes + limit - 1) / limit)) }

  /// Cut between characters.
  package static func of(_ text: String) -> [Substring] {
    var pieces: [Substring] = []
    var rest = text[...]
    while rest.utf8.count > limit {
      var cut = rest.utf8.index(rest.startIndex, offsetBy: limit)
      while rest.utf8[cut] & 0xC0 == 0x80 { cut = rest.utf8.index(before: cut) }
      pieces.append(rest[..<cut])
      rest = rest[cut...]
    }
    return pieces + [rest]
  }
}
