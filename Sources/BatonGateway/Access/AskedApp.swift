import DequeModule
import Foundation
import HTTPTypes
import Logging
import NIOConcurrencyHelpers
import NIOCore

/// Asks the app behind `--auth-url` who sends a request, once at a time for the same headers, and keeps what it says until
/// its `exp` (PROTOCOL 3).
package final class AskedApp: Sendable {
  package struct Options: Sendable, Equatable {
    package var url: String
    /// The headers that are passed on, in lower case.
    package var headers: [String]
    package var timeout: TimeAmount
    package var cacheBytes: Int
    /// Asks at a time.
    package var mostAsks: Int
    /// Which claim names the tenant; nil: there are none.
    package var tenantClaim: String?
  }

  package static let standardHeaders = ["cookie", "authorization", "origin", "user-agent"]

  /// Not what belongs to one connection or one body (RFC 9110 section 7.6.1), nor what is set here.
  package static func mayPassOn(_ name: String) -> Bool {
    let kept = [
      "connection", "upgrade", "host", "content-length", "transfer-encoding", "te", "trailer", "expect", "accept",
    ]
    return HTTPField.Name(name) != nil && !kept.contains(name) && !name.hasPrefix("sec-websocket-")
      && !name.hasPrefix("proxy-") && name != "keep-alive"
  }

  enum Outcome: String, CaseIterable { case allowed, unauthenticated, forbidden, failed, remembered }

  /// Bytes of an answer.
  static let longestAnswer = 64 << 10

  private typealias Flight = Task<Authenticator.Claims, any Error>

  private struct State {
    var cache: ClaimsCache
    var flights: [String: Flight] = [:]
  }

  package let options: Options
  private let client: AuthClient
  private let metrics: GatewayMetrics
  private let troubles: TroubleLog
  private let state: NIOLockedValueBox<State>

  init(_ options: Options, client: AuthClient, metrics: GatewayMetrics, logger: Logger) {
    self.options = options
    self.client = client
    self.metrics = metrics
    troubles = TroubleLog(logger)
    state = NIOLockedValueBox(State(cache: ClaimsCache(bytes: options.cacheBytes)))
  }

  /// - Parameter latest: only claims that end after it are of use; others are asked for anew.
  /// - Throws: `Problem` 401 and 403 as the app says, 503 where it says nothing that can be used.
  func claims(
    _ credentials: Credentials, after latest: Double = 0, now: Double = Date().timeIntervalSince1970
  ) async throws -> Authenticator.Claims {
    enum Step {
      case known(Authenticator.Claims)
      case wait(Flight)
      case full
    }
    let key = credentials.key
    let step: Step = state.withLockedValue { state in
      if let claims = state.cache.claims(of: key, now: now), claims.exp > latest { return .known(claims) }
      if let flight = state.flights[key] { return .wait(flight) }
      if state.flights.count >= options.mostAsks { return .full }
      let flight = Flight { try await self.ask(credentials, key) }
      state.flights[key] = flight
      return .wait(flight)
    }
    switch step {
    case .known(let claims):
      metrics.asked(.remembered)
      return claims
    case .wait(let flight): return try await flight.value
    case .full: throw Problem.tooManyAsks
    }
  }

  private func ask(_ credentials: Credentials, _ key: String) async throws -> Authenticator.Claims {
    var claims: Authenticator.Claims?
    defer {
      state.withLockedValue { state in
        state.flights[key] = nil
        state.cache.keep(claims, of: key)
      }
    }
    let answer: AuthClient.Answer
    do {
      answer = try await client.get(
        options.url, credentials.headers ?? [], within: options.timeout, upTo: AskedApp.longestAnswer)
    } catch {
      throw failed(AuthClient.words(error))
    }
    switch answer.status {
    case 200...299:
      guard
        let given = try? Authenticator.Claims(
          json: Data(answer.body.readableBytesView), tenantClaim: options.tenantClaim)
      else { throw failed("status \(answer.status) without the claims sub, exp, sessions, scope as JSON") }
      claims = given
      metrics.asked(.allowed)
      answered()
      return given
    case 401:
      metrics.asked(.unauthenticated)
      answered()
      throw Problem.unauthenticated("The app does not know who asks (401); sign in there, then try again.")
    case 403:
      metrics.asked(.forbidden)
      answered()
      throw Problem(.forbidden, "not-allowed", "The app does not let in who asks (403).")
    default: throw failed("status \(answer.status)")
    }
  }

  private func failed(_ why: String) -> Problem {
    metrics.asked(.failed)
    troubles.occurred(
      "auth-url", .error, "--auth-url gives no verdict: nobody is let in by it", metadata: ["error": "\(why)"])
    return .authUnavailable
  }

  private func answered() { troubles.ended("auth-url", "--auth-url gives verdicts again") }
}

/// Claims until their `exp`, bounded in bytes; the oldest go first.
struct ClaimsCache {
  /// Of what an entry takes beside its texts.
  private static let overhead = 256

  private struct Kept {
    let claims: Authenticator.Claims
    let bytes: Int
    let turn: Int
  }

  private let limit: Int
  private var kept: [String: Kept] = [:]
  private var order: Deque<(key: String, turn: Int)> = []
  private var turn = 0
  private(set) var bytes = 0

  init(bytes limit: Int) { self.limit = limit }

  var count: Int { kept.count }

  func claims(of key: String, now: Double) -> Authenticator.Claims? {
    guard let claims = kept[key]?.claims, claims.exp > now else { return nil }
    return claims
  }

  /// - Parameter claims: nil: those of the key are forgotten.
  mutating func keep(_ claims: Authenticator.Claims?, of key: String) {
    remove(key)
    guard let claims else { return }
    let texts =
      claims.sessions + claims.scope + [claims.sub, claims.iss ?? "", claims.tenant ?? ""] + (claims.aud?.names ?? [])
    let size = key.utf8.count + texts.reduce(ClaimsCache.overhead) { $0 + $1.utf8.count + 16 }
    guard size <= limit else { return }
    turn += 1
    kept[key] = Kept(claims: claims, bytes: size, turn: turn)
    order.append((key, turn))
    bytes += size
    while bytes > limit, let oldest = order.popFirst() {
      if kept[oldest.key]?.turn == oldest.turn { remove(oldest.key) }
    }
    // What was replaced leaves its place in the order.
    if order.count > 2 * kept.count + 16 { order.removeAll { [kept] in kept[$0.key]?.turn != $0.turn } }
  }

  private mutating func remove(_ key: String) {
    if let old = kept.removeValue(forKey: key) { bytes -= old.bytes }
  }
}

extension Problem {
  static let authUnavailable = Problem(
    .serviceUnavailable, "auth-unavailable",
    "The gateway can't learn who asks: what says so does not answer, or not as it should. Try again shortly."
  ).with(header: "Retry-After", "2")

  static let tooManyAsks = Problem(
    .serviceUnavailable, "auth-unavailable",
    "This node asks the app about as many as --max-auth-asks allows; try another one, or again shortly."
  ).with(header: "Retry-After", "2").exceeding(.authAsks)
}
