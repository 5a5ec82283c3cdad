import BatonProtocol
import NIOConcurrencyHelpers
import NIOCore

/// What each tenant may append on this node in a time.
package final class TenantQuotas: Sendable {
  package struct Bounds: Sendable, Equatable {
    /// A second, those of ten seconds at once; nil: as many as come.
    package var entries: Int?
    package var bytes: Int?

    package init(entries: Int? = nil, bytes: Int? = nil) { (self.entries, self.bytes) = (entries, bytes) }
  }

  /// What has come, as the time at which the rate allows it.
  private struct Meter {
    private var due = NIODeadline.uptimeNanoseconds(0)

    /// Nothing as long as less than ten seconds' worth is owed: so what is larger than that passes, too, and is waited for
    /// afterwards.
    func wait(_ now: NIODeadline) -> TimeAmount { max(.zero, due - now - .seconds(10) + .nanoseconds(1)) }

    mutating func take(_ count: Int, perSecond rate: Int, _ now: NIODeadline) {
      let (nanoseconds, isTooMuch) = Int64(count).multipliedReportingOverflow(by: 1_000_000_000)
      due = max(due, now) + .nanoseconds(isTooMuch ? .max / 4 : nanoseconds / Int64(rate))
    }

    func isIdle(_ now: NIODeadline) -> Bool { due <= now }
  }

  private struct Account {
    var entries = Meter()
    var bytes = Meter()
  }

  private struct State {
    var accounts: [String: Account] = [:]
    /// Accounts at which those that owe nothing any more are looked for.
    var sweep = TenantQuotas.leastSweep
  }

  private static let leastSweep = 1024

  private let bounds: Bounds
  private let state = NIOLockedValueBox(State())

  package init(_ bounds: Bounds) { self.bounds = bounds }

  /// Tenants that something is known of.
  package var remembered: Int { state.withLockedValue { $0.accounts.count } }

  /// - Throws: `Problem` 429 where the tenant has appended more than it may; else it is counted.
  package func take(
    _ session: SessionName, entries: Int = 1, bytes: Int, now: NIODeadline = .now()
  ) throws(Problem) {
    if let (limit, wait) = taken(session, entries, bytes, now) { throw .tooMuch(of: limit, wait: wait).about(session) }
  }

  /// Why it may not; nil: it is counted.
  package func problem(_ session: SessionName, bytes: Int) -> Problem? {
    do throws(Problem) { try take(session, bytes: bytes) } catch { return error }
    return nil
  }

  /// How long to wait before it is tried again; zero: it is counted.
  package func wait(
    _ session: SessionName, entries: Int = 1, bytes: Int, now: NIODeadline = .now()
  ) -> TimeAmount {
    taken(session, entries, bytes, now)?.wait ?? .zero
  }

  private func taken(
    _ session: SessionName, _ entries: Int, _ bytes: Int, _ now: NIODeadline
  ) -> (limit: Limit, wait: TimeAmount)? {
    guard bounds != Bounds(), let tenant = session.tenant else { return nil }
    return state.withLockedValue { state in
      var account = state.accounts[tenant] ?? Account()
      let waits = [(Limit.entriesPerTenant, account.entries.wait(now)), (.bytesPerTenant, account.bytes.wait(now))]
      if let longest = waits.max(by: { $0.1 < $1.1 }), longest.1 > .zero { return (longest.0, longest.1) }
      if let rate = bounds.entries { account.entries.take(entries, perSecond: rate, now) }
      if let rate = bounds.bytes { account.bytes.take(bytes, perSecond: rate, now) }
      state.accounts[tenant] = account
      if state.accounts.count >= state.sweep {
        state.accounts = state.accounts.filter { !$0.value.entries.isIdle(now) || !$0.value.bytes.isIdle(now) }
        state.sweep = max(TenantQuotas.leastSweep, state.accounts.count * 2)
      }
      return nil
    }
  }
}
