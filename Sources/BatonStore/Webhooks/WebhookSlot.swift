import BatonProtocol
import BatonRedis

/// Where the atomic step records what webhooks are to tell: one hash for each slot of a cluster, wherever Redis runs (PROTOCOL 12).
package struct WebhookSlot: Sendable, Hashable {
  package static let count = RedisSlot.count
  /// A field by which the hash is there: who appends records nothing without it.
  package static let armed = "/"
  /// A field that counts what was not recorded because there was no room.
  package static let full = "/full"

  /// 0 to ``count`` − 1.
  package let index: Int

  /// What the name changes by for each bit of a slot, four bits a letter: a checksum of names of one length is linear.
  private static let changes: [UInt16] = [
    6906, 1773, 10107, 4364, 10897, 14784, 8035, 10111, 4356, 8712, 7146, 1229, 9019, 6540,
  ]
  /// The slot of `webhooks:@@@@`.
  private static let base = 8766

  package init(_ index: Int) { self.index = index }

  /// The slot of a session.
  package init(of session: SessionName) { self.init(RedisSlot.of("{\(session.qualified)}")) }

  /// Nil unless it is four letters of a slot, as in a notice.
  package init?(letters: String) {
    guard letters.utf8.count == 4, letters.utf8.allSatisfy({ (0x40...0x4F).contains($0) }) else { return nil }
    self.init(RedisSlot.of("{webhooks:\(letters)}"))
  }

  package var letters: String {
    var name: UInt16 = 0
    for (bit, change) in Self.changes.enumerated() where (index ^ Self.base) >> bit & 1 == 1 { name ^= change }
    return String(decoding: (0..<4).map { 0x40 | UInt8(name >> (12 - 4 * $0) & 15) }, as: UTF8.self)
  }

  /// Nobody's session, in the same slot. Nil never: the letters are allowed in a name.
  package var session: SessionName? { SessionName("webhooks:\(letters)") }

  package func key(prefix: String) -> String { "\(prefix){webhooks:\(letters)}:pending" }

  /// Where the slots that have something new are told, by their letters.
  package static func channel(prefix: String) -> String { "\(prefix)webhooks" }
}

/// A response whose producer has a lease: another field of a slot's hash.
package struct WebhookWatch: Sendable, Hashable {
  package let session: SessionName
  package let response: String

  /// Nil for any other shape.
  package init?(field: String) {
    let name = field.split(separator: " ", omittingEmptySubsequences: false)
    guard name.count == 2, let session = SessionName(qualified: String(name[0])), name[1].hasPrefix("="),
      Shape.name(name[1].dropFirst().utf8, upTo: 128)
    else { return nil }
    (self.session, response) = (session, String(name[1].dropFirst()))
  }

  package var field: String { "\(session.qualified) =\(response)" }
}

/// An end, or an input that nobody may have taken: a field of a slot's hash.
package struct WebhookRecord: Sendable, Equatable {
  package let session: SessionName
  /// Of the entry.
  package let id: EntryID
  /// `end`, `error`, `cancelled` or `input`.
  package let event: String
  package let response: String?
  /// The response's last number; 0 where it is not known.
  package let n: UInt64
  /// Addresses that have been told.
  package var told: Set<String>

  /// Nil for any other shape.
  package init?(field: String, value: String) {
    let name = field.split(separator: " ", omittingEmptySubsequences: false)
    let parts = value.split(separator: " ", omittingEmptySubsequences: false)
    guard name.count == 2, let session = SessionName(qualified: String(name[0])), let id = EntryID(name[1]),
      (3...4).contains(parts.count), Shape.name(parts[0].utf8, upTo: 16), Shape.name(parts[1].utf8, upTo: 128),
      let n = UInt64(parts[2])
    else { return nil }
    (self.session, self.id, self.n) = (session, id, n)
    (event, response) = (String(parts[0]), parts[1] == "-" ? nil : String(parts[1]))
    told = parts.count == 4 ? Set(parts[3].split(separator: ",").map(String.init)) : []
  }

  package var field: String { "\(session.qualified) \(id)" }
  package var slot: WebhookSlot { WebhookSlot(of: session) }

  package var value: String {
    let known = "\(event) \(response ?? "-") \(n)"
    return told.isEmpty ? known : "\(known) \(told.sorted().joined(separator: ","))"
  }
}
