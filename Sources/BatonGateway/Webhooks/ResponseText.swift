import BatonProtocol
import NIOCore

/// The text of a response that has ended, put together from its last entry back to its first. It is whole, or there is none.
struct ResponseText {
  enum Verdict {
    case more, whole
    /// It is too long, or not all of it is there.
    case none
  }

  private let response: String
  /// The newest first.
  private var pieces: [ByteBuffer] = []
  private var bytes = 0
  /// The first number that is still missing, counted down; nil before the first of them is known.
  private var missing: UInt64?

  /// - Parameter n: the response's last number; 0 where it has none, or that is not known.
  init(_ response: String, upTo n: UInt64) {
    self.response = response
    missing = n > 0 ? n : nil
  }

  /// - Parameter entry: of the session, older than the one before.
  mutating func take(_ entry: Entry) -> Verdict {
    // Whose it is nobody knows.
    if entry.isTooBig { return .none }
    guard entry.isOf(response) else { return .more }
    if entry.event == "start" { return (missing ?? 0) == 0 ? .whole : .none }
    if let n = entry.n {
      // A repeat (PROTOCOL 2).
      if let missing, n > missing { return .more }
      if let missing, n < missing { return .none }
      missing = n - min(entry.joined, n)
    }
    if entry.event == Entry.token, entry.part.map({ $0.hasPrefix("text:") }) ?? true {
      switch entry.payload {
      case .text(let data), .binary(let data):
        bytes += data.readableBytes
        if bytes > StoredWebhooks.textLimit { return .none }
        pieces.append(data)
      case .none: break
      case .tooBig: return .none
      }
    }
    return missing == 0 ? .whole : .more
  }

  var joined: ByteBuffer? {
    var text = ByteBuffer()
    for piece in pieces.reversed() { text.writeImmutableBuffer(piece) }
    // Characters may be split over two deltas, but not lack a half.
    return text.readableBytesView.isEmpty || String(utf8: text.readableBytesView) != nil
      ? text : nil
  }

  /// Where nothing older was ever there.
  var wholeAtTheBeginning: ByteBuffer? { (missing ?? 0) == 0 ? joined : nil }
}
