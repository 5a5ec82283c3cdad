import Dispatch
import Foundation
import NIOConcurrencyHelpers

/// Gives up after a while, unless what is waited for was reached.
final class Patience: Sendable {
  private enum State { case waiting, reached, over }
  private let state = NIOLockedValueBox(State.waiting)

  /// - Parameter seconds: 0 is for ever.
  init(_ seconds: Double, givenUp: @escaping @Sendable () -> Void) {
    guard seconds > 0 else { return }
    DispatchQueue.global().asyncAfter(deadline: .now() + seconds) { [weak self] in
      let isOver = self?.state.withLockedValue { state in
        if state == .waiting { state = .over }
        return state == .over
      }
      if isOver == true { givenUp() }
    }
  }

  var isOver: Bool { state.withLockedValue { $0 == .over } }

  func reached() {
    state.withLockedValue { if $0 == .waiting { $0 = .reached } }
  }
}
