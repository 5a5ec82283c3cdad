/// What a question does whose session is answering another one (`--on-busy`, PROTOCOL 9).
package struct BusyRule: Sendable {
  package enum Policy: String, Sendable, CaseIterable {
    /// Waits until nothing is answered any more.
    case queue
    /// Is a 409.
    case reject
    /// Ends what is answered as a device's cancel does, and then is asked.
    case cancel
    /// Is asked at once.
    case parallel
  }

  package var policy = Policy.parallel
  /// Whether a question may wait for its turn.
  var waits: Bool { policy == .queue || policy == .cancel }
  /// Questions of one session that may be there: those that are being asked among them.
  package var maxQueued = 16
  /// How long one of them waits.
  package var timeout = Duration.seconds(300)
  /// Questions that wait on this node.
  package var maxWaiting = 1000
  /// Bytes of those whose callers do not wait with them.
  package var maxWaitingBytes = 64 << 20

  /// What has said its end is over within it, and who has read that asks at once.
  static let grace = Duration.milliseconds(500)

  package init() {}
}
