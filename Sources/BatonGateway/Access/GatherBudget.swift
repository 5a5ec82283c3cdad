import NIOConcurrencyHelpers
import NIOCore

/// Memory for what has to be put together before it can be used: bodies, lines and events of uploads, events that come in
/// several entries, answers that are told as a whole. One for the node (`--gather-bytes`).
package final class GatherBudget: Sendable {
  /// Bytes that each may hold beside it, as a part of what a connection costs.
  static let free = 16 << 10
  /// Whoever has held something for so long without getting on gives way to others.
  private static let idleness = TimeAmount.seconds(2)

  private struct Holder {
    var bytes: Int
    var since: NIODeadline
    var givesWay = false
    let gathered: Unowned
  }

  /// The budget is asked by its holders, who drop out before they go.
  private struct Unowned: @unchecked Sendable { weak var gathered: Gathered? }

  private struct State {
    var used = 0
    var holders: [ObjectIdentifier: Holder] = [:]
  }

  package let limit: Int
  private let state = NIOLockedValueBox(State())

  package init(limit: Int) { self.limit = limit }

  package var used: Int { state.withLockedValue { $0.used } }

  /// - Parameter bytes: all that it holds now.
  /// - Returns: false where there is no room for more: it holds what it held before.
  fileprivate func take(_ bytes: Int, _ gathered: Gathered, now: NIODeadline) -> Bool {
    let bytes = bytes > Self.free ? bytes : 0
    let id = ObjectIdentifier(gathered)
    return state.withLockedValue { state in
      let before = state.holders[id]?.bytes ?? 0
      guard bytes <= before || state.used - before + bytes <= limit else { return false }
      state.used += bytes - before
      state.holders[id] = bytes > 0 ? Holder(bytes: bytes, since: now, gathered: Unowned(gathered: gathered)) : nil
      return true
    }
  }

  /// Somebody needs room: the one who has not got on for longest is asked to let go.
  fileprivate func askToGiveWay(now: NIODeadline) {
    let idle = state.withLockedValue { state -> Gathered? in
      guard
        let (id, holder) = state.holders.lazy.filter({ !$0.value.givesWay }).min(by: { $0.value.since < $1.value.since }
        ),
        now - holder.since >= Self.idleness
      else { return nil }
      state.holders[id]?.givesWay = true
      return holder.gathered.gathered
    }
    idle?.giveWay()
  }
}

/// What one request holds of it, until it goes.
package final class Gathered: Sendable {
  private struct State {
    var bytes = 0
    var givesWay = false
    var onGivingWay: (@Sendable () -> Void)?
  }

  /// How long somebody waits for room.
  private static let patience = TimeAmount.seconds(5)

  private let budget: GatherBudget
  private let state = NIOLockedValueBox(State())

  package init(_ budget: GatherBudget) { self.budget = budget }

  deinit { if state.withLockedValue({ $0.bytes }) > 0 { _ = budget.take(0, self, now: .now()) } }

  /// Others need the memory: what is gathered is to be given up, by ``Problem/shortOfMemory``.
  var givesWay: Bool { state.withLockedValue { $0.givesWay } }

  /// - Parameter action: called once, from anywhere.
  func onGivingWay(_ action: @escaping @Sendable () -> Void) {
    state.withLockedValue { $0.onGivingWay = action }
  }

  fileprivate func giveWay() {
    let action = state.withLockedValue { state in
      state.givesWay = true
      return state.onGivingWay.take()
    }
    action?()
  }

  /// - Parameter bytes: all that is held from now on.
  /// - Throws: ``Problem/shortOfMemory`` where there is no room for them for 5 s, or others need it.
  package func hold(_ bytes: Int) async throws(Problem) {
    let before = state.withLockedValue { $0.bytes }
    if max(before, bytes) <= GatherBudget.free {
      state.withLockedValue { $0.bytes = bytes }
      return
    }
    let deadline = NIODeadline.now() + Self.patience
    while !budget.take(bytes, self, now: .now()) {
      if NIODeadline.now() >= deadline || givesWay { throw .shortOfMemory }
      budget.askToGiveWay(now: .now())
      do { try await Task.sleep(for: .milliseconds(20)) } catch { throw .shortOfMemory }
    }
    state.withLockedValue { $0.bytes = bytes }
    if givesWay, bytes > GatherBudget.free { throw .shortOfMemory }
  }
}

extension Problem {
  package static let shortOfMemory = Problem(
    .serviceUnavailable, "short-of-memory",
    "This node puts together as much in memory as --gather-bytes allows; try another one, or again shortly."
  ).with(header: "Retry-After", "1").exceeding(.gatherBytes)
}
