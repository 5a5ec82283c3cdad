/// What a device asked for when it attached (PROTOCOL 3).
package struct AttachRequest: Sendable, Equatable {
  package enum Start: Sendable, Equatable {
    /// After this entry; `.zero` is all that is retained.
    case after(Offset)
    /// `$` or `live`: only what comes from now on.
    case end
    /// The newest N entries, 1 to 10,000.
    case newest(Int)
    /// From the start of one response, and nothing but that response.
    case response(String)
  }

  package enum Rollup: Sendable, Equatable {
    /// Join while behind, one by one when live.
    case auto
    case off
    /// Join over this many milliseconds also when live: 20, 50, 100, 250 or 1000.
    case window(Int)

    /// 1 to 1000 milliseconds, rounded up to a window that devices can share; nil outside that range.
    package init?(milliseconds: Int) {
      guard milliseconds >= 1, let window = Rollup.windows.first(where: { milliseconds <= $0 }) else { return nil }
      self = .window(window)
    }

    package static let windows = [20, 50, 100, 250, 1000]
  }

  package var session: SessionName
  package var start: Start
  package var rollup: Rollup
  package var untilEnd: Bool
  package var device: String
  /// The one response whose entries are delivered, also where it goes on after an offset; nil: all.
  package var onlyResponse: String?

  /// - Parameter onlyResponse: not needed beside the start of that response.
  package init(
    session: SessionName, start: Start = .after(.zero), rollup: Rollup = .auto, untilEnd: Bool = false,
    device: String, onlyResponse: String? = nil
  ) {
    self.session = session
    self.start = start
    self.rollup = rollup
    self.untilEnd = untilEnd
    self.device = device
    self.onlyResponse = if case .response(let name) = start { name } else { onlyResponse }
  }
}
