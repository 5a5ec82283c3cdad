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
  /// For a page of history: held by whoever still has its bytes to write.
  package let charge: MemoryCharge?
  private let encodings = NIOLockedValueBox<[(Encoding, from: Int, ByteBuffer)]>([])

  package init(_ entries: [Entry], charge: MemoryCharge? = nil) {
    self.entries = entries
    self.charge = charge
    bytes = entries.reduce(0) { $0 + $1.keptBytes }
  }

  /// The bytes of the entries from `from` on.
  package func encoded(_ encoding: Encoding, from: Int = 0, _ make: (ArraySlice<Entry>) -> ByteBuffer) -> ByteBuffer {
    encodings.withLockedValue { known in
      if let found = known.first(where: { $0.0 == encoding && $0.from == from }) { return found.2 }
      let bytes = make(entries[from...])
      charge?.add(bytes.readableBytes)
      known.append((encoding, from, bytes))
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
  /// All of the segment, but for a first entry that was known before: worth to be encoded once for all who get the same.
  package var isWhole: Bool { range.lowerBound <= 1 && range.upperBound == segment.entries.count }
}
