import BatonWebSocket
import NIOConcurrencyHelpers
import NIOCore

/// What each address may do at a time, or in a time.
package final class AddressLimits: Sendable {
  package struct Bounds: Sendable, Equatable {
    package var connections: Int
    /// Attaches a second; those of ten seconds may come at once.
    package var handshakes: Int
    /// Invalid tokens a minute.
    package var failures: Int

    package static let standard = Bounds(connections: 1000, handshakes: 50, failures: 60)
    static let none = Bounds(connections: .max, handshakes: .max, failures: .max)
  }

  private struct Account {
    var connections = 0
    var handshakes = RateMeter()
    var failures = RateMeter()

    func isEmpty(at now: NIODeadline) -> Bool {
      connections == 0 && handshakes.isIdle(now: now) && failures.isIdle(now: now)
    }
  }

  private struct State {
    var accounts: [PeerAddress: Account] = [:]
    /// Accounts at which those that say nothing any more are looked for.
    var sweep = AddressLimits.leastSweep
  }

  private static let leastSweep = 4096
  /// Addresses without connections that are remembered.
  static let mostRemembered = 65_536

  /// Those of private addresses are bounded where the operator says so: behind them there may be a proxy.
  private let publicBounds: Bounds
  private let privateBounds: Bounds
  private let state = NIOLockedValueBox(State())
  /// Their connections are not counted, and they say whose requests they pass on.
  package let proxies: TrustedProxies

  package init(
    connections: Int? = nil, handshakes: Int? = nil, failures: Int? = nil, proxies: TrustedProxies = TrustedProxies()
  ) {
    self.proxies = proxies
    func bounds(_ standard: Bounds) -> Bounds {
      Bounds(
        connections: connections ?? standard.connections, handshakes: handshakes ?? standard.handshakes,
        failures: failures ?? standard.failures)
    }
    publicBounds = bounds(.standard)
    privateBounds = bounds(.none)
  }

  /// Addresses that something is known of.
  package var remembered: Int { state.withLockedValue { $0.accounts.count } }

  private func bounds(_ address: PeerAddress) -> Bounds { address.isPrivate ? privateBounds : publicBounds }

  private func withAccount<T>(_ address: PeerAddress, at now: NIODeadline, _ body: (inout Account) -> T) -> T {
    state.withLockedValue { state in
      let result = body(&state.accounts[address, default: Account()])
      if state.accounts.count >= state.sweep { AddressLimits.sweep(&state, at: now) }
      return result
    }
  }

  private static func sweep(_ state: inout State, at now: NIODeadline) {
    state.accounts = state.accounts.filter { !$0.value.isEmpty(at: now) }
    if state.accounts.count > mostRemembered { state.accounts = state.accounts.filter { $0.value.connections > 0 } }
    state.sweep = max(leastSweep, state.accounts.count * 2)
  }

  /// False: the address has all the connections that it may have; else `closed` gives it back.
  package func opened(_ address: PeerAddress?, now: NIODeadline = .now()) -> Bool {
    guard let address else { return true }
    return withAccount(address, at: now) { account in
      guard account.connections < bounds(address).connections else { return false }
      account.connections += 1
      return true
    }
  }

  package func closed(_ address: PeerAddress?, now: NIODeadline = .now()) {
    guard let address else { return }
    state.withLockedValue { state in
      guard var account = state.accounts[address] else { return }
      account.connections = max(0, account.connections - 1)
      state.accounts[address] = account.isEmpty(at: now) ? nil : account
    }
  }

  /// - Throws: `Problem` 429 where the address attaches too often.
  package func attaches(_ address: PeerAddress?, now: NIODeadline = .now()) throws(Problem) {
    guard let address, case let most = bounds(address).handshakes, most < .max else { return }
    let rate = Rate(most)
    let wait = withAccount(address, at: now) {
      $0.handshakes.take(rate, now: now) ? .zero : $0.handshakes.wait(rate, now: now)
    }
    if wait > .zero { throw .tooManyHandshakes(wait: wait) }
  }

  /// - Throws: `Problem` 429 where too many tokens of the address were invalid.
  package func shows(_ address: PeerAddress?, now: NIODeadline = .now()) throws(Problem) {
    guard let address, let rate = failureRate(address) else { return }
    let wait = state.withLockedValue { $0.accounts[address]?.failures.wait(rate, now: now) ?? .zero }
    if wait > .zero { throw .tooManyFailures(wait: wait) }
  }

  /// Its token was invalid.
  package func failed(_ address: PeerAddress?, now: NIODeadline = .now()) {
    guard let address, let rate = failureRate(address) else { return }
    withAccount(address, at: now) { _ = $0.failures.take(rate, now: now) }
  }

  private func failureRate(_ address: PeerAddress) -> Rate? {
    let most = bounds(address).failures
    return most == .max ? nil : Rate(most, per: .minutes(1), burst: .minutes(1))
  }
}
