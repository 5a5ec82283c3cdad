import BatonProtocol
import NIOConcurrencyHelpers

/// Who can go on with a response whose producer died, before it is ended (PROTOCOL 9).
package final class ResponseRescue: Sendable {
  /// - Returns: whether somebody goes on with it.
  package typealias Attempt = @Sendable (_ session: SessionName, _ response: String) async -> Bool

  private let attempt = NIOLockedValueBox<Attempt?>(nil)

  package init() {}

  /// Nil: nobody can.
  package var current: Attempt? {
    get { attempt.withLockedValue { $0 } }
    set { attempt.withLockedValue { $0 = newValue } }
  }
}
