import BatonProtocol

/// What Redis knows of a response: the value of its field in the session's `producers` hash.
package struct ResponseRecord: Sendable, Equatable {
  package let epoch: UInt64
  /// The number of its last delta; 0 before the first.
  package let n: UInt64
  package let state: ResponseState
  /// The lease, `WRITER.COUNT`.
  package let token: String
  /// Its last entry; nil before there is one.
  package let id: EntryID?
  /// When it was last written, in milliseconds on the server's clock: good for a suspicion, never for a verdict.
  package let time: UInt64

  /// Nil for any other shape.
  package init?(_ value: some StringProtocol) {
    let parts = value.split(separator: " ", omittingEmptySubsequences: false)
    guard parts.count == 6, let epoch = UInt64(parts[0]), let n = UInt64(parts[1]),
      let state = ResponseState(rawValue: String(parts[2])), let time = UInt64(parts[5])
    else { return nil }
    self.epoch = epoch
    self.n = n
    self.state = state
    token = String(parts[3])
    id = EntryID(String(parts[4]))
    self.time = time
  }

  /// A writer without a count (an HTTP caller's) holds no lease.
  package var isLeased: Bool { state == .open && token.contains(".") }
}
