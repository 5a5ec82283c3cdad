import NIOCore

/// The atomic step, a Lua script for Redis 6.2 to 8 and Valkey. Its contract is the article AppendScript.
package enum AppendScript {
  package static let source = String(decoding: PackageResources.append_lua, as: UTF8.self)
}

/// An argument of the script: bytes for Redis.
package enum AppendArgument: Sendable, Equatable {
  case string(String)
  case bytes(ByteBuffer)

  static func number(_ value: some BinaryInteger) -> AppendArgument { .string(String(value)) }
}

/// How long and how much of a session Redis keeps.
package struct Retention: Sendable, Equatable {
  /// All keys of a session vanish so long after its last append; 1 ms and up.
  package var milliseconds: UInt64
  /// The newest entries that a stream keeps; 1 and up.
  package var entries: UInt64

  /// True for a gateway's: it counts only for sessions whose stream the gateway creates. Else the producer's own counts.
  package var isGuests: Bool

  package init(milliseconds: UInt64 = 24 * 60 * 60 * 1000, entries: UInt64 = 100_000, isGuests: Bool = false) {
    self.milliseconds = milliseconds
    self.entries = entries
    self.isGuests = isGuests
  }
}
