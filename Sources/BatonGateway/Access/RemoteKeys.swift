import Foundation
import Logging
import NIOConcurrencyHelpers
import NIOCore

/// The keys at `--auth-jwks-url`: fetched once at a time, kept while the URL fails (PROTOCOL 3).
final class RemoteKeys: Sendable {
  /// Between two fetches.
  static let pause = TimeAmount.seconds(30)
  /// While there are none.
  static let firstPause = TimeAmount.seconds(1)
  /// After it they are fetched again.
  static let freshness = TimeAmount.minutes(10)
  /// In bytes.
  static let longestSet = 1 << 20

  private struct State {
    var keys: TokenKeys?
    var asked: NIODeadline?
    var flight: Task<Void, Never>?
  }

  private let url: String
  private let timeout: TimeAmount
  private let client: AuthClient
  private let logger: Logger
  private let troubles: TroubleLog
  private let state = NIOLockedValueBox(State())

  init(_ url: String, timeout: TimeAmount, client: AuthClient, logger: Logger) {
    (self.url, self.timeout, self.client, self.logger) = (url, timeout, client, logger)
    troubles = TroubleLog(logger)
  }

  /// Nil: none were fetched yet. Old ones are fetched again meanwhile.
  func current(now: NIODeadline = .now()) -> TokenKeys? {
    let (keys, asked) = state.withLockedValue { ($0.keys, $0.asked) }
    if let asked, now - asked > Self.freshness { _ = flight(now: now) }
    return keys
  }

  /// Fetches them unless that was done within `pause`; returns when it is done.
  func refresh(always: Bool = false, now: NIODeadline = .now()) async { await flight(always: always, now: now)?.value }

  private func flight(always: Bool = false, now: NIODeadline) -> Task<Void, Never>? {
    state.withLockedValue { state in
      if let flight = state.flight { return flight }
      let pause = state.keys == nil ? Self.firstPause : Self.pause
      if !always, let asked = state.asked, now - asked < pause { return nil }
      state.asked = now
      let flight = Task { await self.fetch() }
      state.flight = flight
      return flight
    }
  }

  private func fetch() async {
    var keys = TokenKeys()
    var objection: String?
    do {
      let answer = try await client.get(url, within: timeout, upTo: Self.longestSet)
      objection =
        answer.status == 200 ? await keys.add(jwks: Data(answer.body.readableBytesView)) : "has status \(answer.status)"
    } catch {
      objection = AuthClient.words(error)
    }
    state.withLockedValue { [keys, objection] state in
      state.flight = nil
      if objection == nil { state.keys = keys }
    }
    if let objection {
      troubles.occurred(
        "auth-jwks-url", .error, "no keys from --auth-jwks-url; those of before stay",
        metadata: ["error": "\(objection)"])
    } else {
      troubles.ended("auth-jwks-url", "--auth-jwks-url gives keys again")
      logger.debug("keys were fetched", metadata: ["for": "\(keys.known.joined(separator: " "))"])
    }
  }
}
