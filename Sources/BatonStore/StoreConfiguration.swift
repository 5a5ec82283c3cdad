import NIOCore

/// What a store is told.
package struct StoreConfiguration: Sendable {
  /// Names the connections in `CLIENT LIST`: `baton-NODE-tail` and so on.
  package var node = "node"
  package var keyPrefix = "baton:"
  package var wakeup = Wakeup.auto
  /// Bytes of names and values of one entry; a larger one is `skipped`. 1024 and up.
  package var maxEntryBytes = 256 << 10
  /// Bytes of history in memory, from the reply until the last device has written them. 1 MiB and up.
  package var historyBytes = 32 << 20
  /// Every followed session is read once in this time, notice or not.
  package var sweep = TimeAmount.seconds(30)
  /// Polling: the pause between two reads of an active session.
  package var pollInterval = TimeAmount.milliseconds(20)
  package var retention = Retention(isGuests: true)
  package var rescue = ResponseRescue()
  /// Who hears what is recorded for webhooks; nil where none are sent.
  package var webhooks: WebhookNotices?
  /// Gateways keep a set of each tenant's sessions.
  package var countsSessions = false

  package init() {}

  /// No string longer than this is taken in from Redis.
  var maxStringBytes: Int { max(1 << 20, maxEntryBytes) }
}

/// How the tail learns that a session has changed.
package enum Wakeup: String, Sendable {
  /// Notices where they are seen to come, else polling.
  case auto
  /// Notices of `CLIENT TRACKING` and nothing else.
  case tracking
  case poll
}
