import BatonProtocol
import NIOConcurrencyHelpers
import NIOCore

/// Who asks, and ends the answer by going away (`Baton-Detach: off`), whether it waits, is asked or is told. To send nothing
/// more is to go away: what else a closed side means only writing would tell.
final class Caller: Sendable {
  private let channel: any Channel
  private let who: Identity?
  private let session: SessionName
  private let hasAll = NIOLockedValueBox(false)

  init(_ channel: any Channel, _ who: Identity?, _ session: SessionName) {
    (self.channel, self.who, self.session) = (channel, who, session)
  }

  /// It has all that there is: its connection may carry other requests.
  func isServed() { hasAll.withLockedValue { $0 = true } }

  /// - Parameter leave: called at most once. A token's end is no going away.
  func onLeaving(_ leave: @escaping @Sendable () async -> Void) {
    channel.eventLoop.execute { [self] in
      guard let gate = try? channel.pipeline.syncOperations.handler(type: Gate.self) else { return left(leave) }
      gate.onLeaving { [self] in left(leave) }
    }
  }

  private func left(_ leave: @escaping @Sendable () async -> Void) {
    guard !hasAll.withLockedValue({ $0 }), who?.hasLost(session) != true else { return }
    Task { await leave() }
  }
}
