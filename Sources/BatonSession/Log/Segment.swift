import BatonProtocol
import NIOConcurrencyHelpers
import NIOCore

/// What one read brought for a session: immutable, shared by every device on every event loop.
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

  package let entries: Entries
  /// For a page of history: held by whoever still has its bytes to write, and the bytes once they are made.
  package let page: SharedPage?

  package init(_ entries: Entries, charge: MemoryCharge? = nil) {
    self.entries = entries.startIndex == 0 ? entries : Entries(Array(entries))
    page = charge.map(SharedPage.init)
  }

  /// What it costs in memory.
  package var bytes: Int { entries.keptBytes }
  package var charge: MemoryCharge? { page?.charge }
}

/// A page's charge, and its bytes in the encodings that devices have asked for: made once for all who read the same page.
package final class SharedPage: Sendable {
  package let charge: MemoryCharge
  private let encodings = NIOLockedValueBox<[(Segment.Encoding, from: Int, ByteBuffer)]>([])

  init(_ charge: MemoryCharge) { self.charge = charge }

  /// The bytes of the entries from `from` on.
  package func encoded(_ encoding: Segment.Encoding, from: Int, _ make: () -> ByteBuffer) -> ByteBuffer {
    encodings.withLockedValue { known in
      if let found = known.first(where: { $0.0 == encoding && $0.from == from }) { return found.2 }
      let bytes = make()
      charge.add(bytes.storageCapacity)
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

  package var entries: Entries { segment.entries[range] }
  /// All of the segment, but for a first entry that was known before: worth to be encoded once for all who get the same.
  package var isWhole: Bool { range.lowerBound <= 1 && range.upperBound == segment.entries.endIndex }
}
