import BatonProtocol

/// The first line of a recording: what was recorded.
package struct RecordingHeader: Sendable, Equatable {
  package enum Kind: Sendable, Equatable {
    /// What one device got.
    case device(Asked)
    /// What one producer meant of one response, and what Redis acknowledged.
    case producer(response: String)
    /// What a stream held at the end.
    case stream
    /// What somebody deleted on purpose.
    case deletions

    package var isDevice: Bool { if case .device = self { true } else { false } }
  }

  /// What a device asked for (section 3 of the protocol).
  package struct Asked: Sendable, Equatable {
    package enum Start: Sendable, Equatable {
      case after(Offset)
      case end
      case newest(Int)
      case response(String)
    }

    /// The device's name, where it has one.
    package var device: String?
    package var start: Start
    package var rollup: String?
    package var until: String?

    package init(device: String? = nil, start: Start = .after(.zero), rollup: String? = nil, until: String? = nil) {
      (self.device, self.start, self.rollup, self.until) = (device, start, rollup, until)
    }
  }

  /// The newest version of the format, and the only one so far.
  package static let version = 1

  package var kind: Kind
  package var session: String
  /// Milliseconds since 1970.
  package var at: Int64

  package init(_ kind: Kind, session: String, at: Int64 = 0) {
    (self.kind, self.session, self.at) = (kind, session, at)
  }
}

/// Every other line of a recording: what happened. Of texts only digests are kept.
package enum RecordingEvent: Sendable, Equatable {
  // Of a device.
  case connecting
  case frame(DeviceFrame)
  /// The connection was lost, or none could be made.
  case lost
  /// The gateway has ended the attach: there is nothing more to come.
  case finished
  /// The device has ended the attach.
  case closed
  /// A gateway refused for good.
  case rejected

  // Of a producer.
  /// The response was begun or taken over; the numbers go on after this one.
  case opened(after: UInt64)
  /// A delta is about to be appended.
  case delta(n: UInt64, Digest)
  /// The end is about to be appended: `end`, `error` or `cancelled`.
  case end(String, data: Digest?)
  /// Redis has everything up to this delta, and the end where that is named; `id` is the last one's, where it is known.
  case acknowledged(through: UInt64, end: String?, id: EntryID?)

  // Of a stream.
  case info(StreamFacts)
  case entry(StreamEntry)
  /// The stream holds no more.
  case whole

  // Of what was deleted on purpose.
  /// Every entry with a smaller id.
  case trimmed(before: EntryID)
  case deleted([EntryID])
  case deletedSession
}

/// A frame as a device got it.
package enum DeviceFrame: Sendable, Equatable {
  case entry(ShownEntry)
  /// - Parameter holdsEntries: the stream held one at least.
  case attached(session: String?, offset: Offset, holdsEntries: Bool)
  case live(Offset)
  case behind
  case stalled
  case reset(reason: String, from: Offset, offset: Offset)
  case skipped(Offset, bytes: UInt64?)
  /// Any other: it says nothing about the stream.
  case other
}

/// An entry as its frame shows it (section 4 of the protocol).
package struct ShownEntry: Sendable, Equatable {
  package var offset: Offset
  package var event: String
  package var response: String?
  package var part: String?
  package var n: UInt64?
  package var joined: UInt64
  /// The data goes on in the next entry.
  package var hasMore = false
  package var data: Digest?
  /// Over the other fields; 0 where there are none.
  package var fields: UInt64

  package init(
    offset: Offset, event: String = "token", response: String? = nil, n: UInt64? = nil, joined: UInt64 = 1,
    data: Digest? = nil, fields: UInt64 = 0
  ) {
    (self.offset, self.event, self.response, self.n) = (offset, event, response, n)
    (self.joined, self.data, self.fields) = (joined, data, fields)
  }
}

/// An entry of the stream, with what only the stream tells.
package struct StreamEntry: Sendable, Equatable {
  /// The entry as its own frame would show it.
  package var shown: ShownEntry
  /// Names and values together.
  package var bytes: UInt64
  /// Its names and values were too large to be read.
  package var isElided: Bool
  /// A delta of UTF-8 without other fields: gateways may join it to its neighbours.
  package var isJoinable: Bool
}

/// What `XINFO STREAM` says.
package struct StreamFacts: Sendable, Equatable {
  package var length: UInt64
  /// Nil before Redis 7.
  package var entriesAdded: UInt64?

  package init(length: UInt64, entriesAdded: UInt64?) { (self.length, self.entriesAdded) = (length, entriesAdded) }
}
