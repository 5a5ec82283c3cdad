import BatonProtocol
import NIOCore

/// Decides for one session which responses have lost their producer (PROTOCOL 9).
///
/// A lease is dead once its token was seen unchanged for 15 s, on our own monotonic clock, look after look over one
/// connection. Looks that lie too far apart (we were frozen, Redis was paused) prove nothing: counting starts again.
package struct LeaseWatch: Sendable {
  package struct Lease: Hashable, Sendable {
    package let response: String
    package let epoch: UInt64
    package let token: String

    package init(response: String, epoch: UInt64, token: String) {
      (self.response, self.epoch, self.token) = (response, epoch, token)
    }
  }

  /// How long a token stands still before its producer counts as lost: three renewals.
  package static let patience = TimeAmount.seconds(15)
  /// How often to look while ``hasLeases``.
  package static let interval = TimeAmount.seconds(1)
  /// Looks further apart than this don't connect.
  package static let reach = TimeAmount.seconds(6)

  private var since: [Lease: NIODeadline] = [:]
  /// Leases that were stale by the server's clock at first sight, and have neither moved nor died since.
  private var suspects: Set<Lease> = []
  private var lookedAt: NIODeadline?

  package init() {}

  /// Whether there is anything to watch: look again after ``interval``.
  package var hasLeases: Bool { !since.isEmpty }

  /// A response looks as if its producer had died while nobody watched: no device is told `live` before this is over.
  package var holdsLive: Bool { !suspects.isEmpty }

  /// Takes what one look at all of the session's records found, and says which leases to end by compare-and-set.
  ///
  /// - Parameters:
  ///   - serverTime: milliseconds on the server's clock, from the same look.
  ///   - now: when the look's answer came.
  package mutating func looked(
    at records: [(response: String, record: ResponseRecord)], serverTime: UInt64, now: NIODeadline
  ) -> [Lease] {
    let isConnected = lookedAt.map { now - $0 <= Self.reach } ?? false
    lookedAt = now
    var seen: [Lease: NIODeadline] = [:]
    var suspected: Set<Lease> = []
    for (response, record) in records where record.isLeased {
      let lease = Lease(response: response, epoch: record.epoch, token: record.token)
      let first = isConnected ? since[lease] : nil
      seen[lease] = first ?? now
      let isStale = serverTime > record.time &+ UInt64(Self.patience.nanoseconds / 1_000_000)
      if suspects.contains(lease) || first == nil && isStale { suspected.insert(lease) }
    }
    (since, suspects) = (seen, suspected)
    return seen.filter { now - $0.value >= Self.patience }.map(\.key)
  }

  /// The connection is another now, or to another master, or writes were refused: nothing that was seen counts.
  package mutating func connectionLost() {
    since.removeAll()
    lookedAt = nil
  }
}
