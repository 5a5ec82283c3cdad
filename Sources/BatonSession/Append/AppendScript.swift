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

/// A session's keys, in the script's order.
package struct SessionKeys: Sendable, Equatable {
  package let stream: String
  /// A hash: a field per response (``ResponseRecord``), and the generation of the last deletion.
  package let producers: String
  /// A stream, devices to producers.
  package let inbox: String
  /// A hash of idempotency keys.
  package let keys: String

  package init(_ session: SessionName, prefix: String) {
    stream = session.key(prefix: prefix)
    producers = stream + ":producers"
    inbox = stream + ":inbox"
    keys = stream + ":keys"
  }

  package var all: [String] { [stream, producers, inbox, keys] }
}

/// How long and how much of a session Redis keeps.
package struct Retention: Sendable, Equatable {
  /// All keys of a session vanish so long after its last append; 1 ms and up.
  package var milliseconds: UInt64
  /// The newest entries that a stream keeps; 1 and up.
  package var entries: UInt64

  package init(milliseconds: UInt64 = 24 * 60 * 60 * 1000, entries: UInt64 = 100_000) {
    self.milliseconds = milliseconds
    self.entries = entries
  }
}

/// What became of a response; the raw values are the script's and PROTOCOL 3's.
package enum ResponseState: String, Sendable {
  case open, end, error, cancelled
}

/// What Redis knows of a response: the value of its field in ``SessionKeys/producers``.
package struct ResponseRecord: Sendable, Equatable {
  package let epoch: UInt64
  /// The number of its last delta; 0 before the first.
  package let n: UInt64
  package let state: ResponseState
  /// The lease, `WRITER.COUNT`.
  package let token: String
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
    self.time = time
  }

  /// A writer without a count (an HTTP caller's) holds no lease.
  package var isLeased: Bool { state == .open && token.contains(".") }
}
