import NIOCore

/// One item of the stream, as it was read.
package struct Entry: Sendable {
  package enum Payload: Sendable, Equatable {
    case none
    case text(ByteBuffer)
    /// Not UTF-8; delivered as base64.
    case binary(ByteBuffer)
    /// Names and values together exceed `--max-entry-bytes`: not kept, `skipped` says so.
    case tooBig
  }

  package struct Field: Sendable, Equatable {
    package var name: ByteBuffer
    package var value: ByteBuffer

    package init(name: ByteBuffer, value: ByteBuffer) {
      self.name = name
      self.value = value
    }
  }

  package var id: EntryID
  /// Nil only where the entry was too large to be read.
  package var check: UInt32?
  package var event: String = Entry.token
  package var response: String?
  package var n: UInt64?
  /// How many deltas it holds; 1 where the producer joined none.
  package var joined: UInt64 = 1
  package var payload: Payload = .none
  package var fields: [Field] = []
  /// Names and values together.
  package var bytes: Int = 0

  package static let token = "token"

  package init(id: EntryID, check: UInt32?) {
    self.id = id
    self.check = check
  }

  /// What it costs in memory, about: nothing of what is too large is kept.
  package var keptBytes: Int { 96 + (payload == .tooBig ? 0 : bytes) }

  package var offset: Offset { Offset(id: id, check: check) }
  package var place: Place { Place(offset: offset) }

  /// `end`, `error` and `cancelled` end a response.
  package var endsResponse: Bool { event == "end" || event == "error" || event == "cancelled" }

  /// Whether `next` may be joined to this one in a frame (PROTOCOL 4).
  package func joins(_ next: Entry) -> Bool {
    guard event == Entry.token, next.event == Entry.token, response == next.response,
      fields.isEmpty, next.fields.isEmpty, case .text = payload, case .text = next.payload
    else { return false }
    switch (n, next.n) {
    case (nil, nil): return true
    case (let n?, let m?): return m >= next.joined && m - next.joined == n
    default: return false
    }
  }
}

/// Where something stands in a stream: behind an entry, or where there is none (yet, or any more).
package struct Place: Sendable, Equatable {
  package var offset: Offset
  /// False at the start, and at the last generated id of a stream that holds nothing: there is no entry to prove the place by.
  package var isEntry: Bool

  package static let zero = Place(offset: .zero)

  package init(offset: Offset) {
    self.offset = offset
    isEntry = offset != .zero
  }

  /// Behind all ids up to this one, none of which is retained.
  package init(emptyUpTo id: EntryID) {
    offset = Offset(id: id)
    isEntry = false
  }
}
