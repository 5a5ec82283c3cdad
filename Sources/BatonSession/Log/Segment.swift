import BatonProtocol
import NIOConcurrencyHelpers
import NIOCore

/// What one read brought for a session: immutable, shared by every device on every event loop.
///
/// Its bytes for one encoding are built when a device first asks for them, and shared from then on.
package final class Segment: Sendable {
  /// Which bytes are meant: the wire, and whether adjacent deltas are joined.
  package struct Encoding: Sendable, Hashable {
    package enum Wire: Sendable, Hashable {
      case webSocket, events, text
    }

    package var wire: Wire
    package var joined: Bool

    package init(_ wire: Wire, joined: Bool) {
      self.wire = wire
      self.joined = joined
    }
  }

  package let entries: [Entry]
  /// What the entries cost in memory, about.
  package let bytes: Int
  private let encodings = NIOLockedValueBox<[(Encoding, ByteBuffer)]>([])

  package init(_ entries: [Entry]) {
    self.entries = entries
    bytes = entries.reduce(0) { $0 + $1.keptBytes }
  }

  package func encoded(_ encoding: Encoding, _ make: ([Entry]) -> ByteBuffer) -> ByteBuffer {
    encodings.withLockedValue { known in
      if let found = known.first(where: { $0.0 == encoding }) { return found.1 }
      let bytes = make(entries)
      known.append((encoding, bytes))
      return bytes
    }
  }
}

/// A stretch of a segment for one device.
package struct Delivery: Sendable {
  package var segment: Segment
  package var range: Range<Int>
  /// Whether adjacent deltas are to be joined.
  package var joined: Bool

  package init(_ segment: Segment, _ range: Range<Int>, joined: Bool) {
    self.segment = segment
    self.range = range
    self.joined = joined
  }

  package var entries: ArraySlice<Entry> { segment.entries[range] }
  package var isWhole: Bool { range == segment.entries.indices }
}
