import BatonProtocol
import BatonStore
import Foundation
import Logging
import NIOConcurrencyHelpers
import NIOCore

/// What was taken back before its time: a subject's tokens, one token, or those for a session (PROTOCOL 3).
package final class Revocations: Sendable {
  /// One of `subject`, `token` (its `jti`) and `session`. Times are seconds since 1970.
  package struct Order: Codable, Sendable, Equatable {
    package var subject: String?
    package var token: String?
    package var session: String?
    /// Whose tokens; nil where there are no tenants.
    package var tenant: String?
    /// Tokens that were issued before are refused.
    package var before: Double
    /// After it there is no such token any more.
    package var until: Double

    /// - Parameter until: a day from now unless told.
    package init(
      subject: String? = nil, token: String? = nil, session: String? = nil, now: Double, until: Double? = nil
    ) {
      (self.subject, self.token, self.session) = (subject, token, session)
      // Tokens tell whole seconds.
      before = now.rounded(.down) + 1
      self.until = until ?? now + 24 * 60 * 60
    }

    /// What it takes back, for who reads of it.
    var what: (kind: String, name: String) {
      subject.map { ("subject", $0) } ?? token.map { ("token", $0) } ?? ("session", session ?? "")
    }

    fileprivate var key: Key? {
      switch (subject, token, session) {
      case (let name?, nil, nil): Key(tenant, .subject(name))
      case (nil, let name?, nil): Key(tenant, .token(name))
      case (nil, nil, let name?): Key(tenant, .session(name))
      default: nil
      }
    }
  }

  fileprivate struct Key: Hashable {
    enum What: Hashable {
      case subject(String)
      case token(String)
      case session(String)
    }

    let tenant: String?
    let what: What

    init(_ tenant: String?, _ what: What) { (self.tenant, self.what) = (tenant, what) }
  }

  /// Nobody's: where nodes tell each other.
  package static let session = "baton:revocations"
  /// Orders that a node keeps; beyond it those go that end first.
  package static let limit = 10_000
  /// Bytes of a name.
  package static let longestName = 1024

  private let orders = NIOLockedValueBox<[Key: Order]>([:])

  package init() {}

  package var count: Int { orders.withLockedValue { $0.count } }

  /// - Returns: whether it says something new.
  @discardableResult package func take(_ order: Order, now: Double = Date().timeIntervalSince1970) -> Bool {
    guard let key = order.key, order.until > now else { return false }
    return orders.withLockedValue { orders in
      var merged = order
      if let known = orders[key] {
        merged.before = max(known.before, order.before)
        merged.until = max(known.until, order.until)
        guard merged != known else { return false }
      }
      if orders.count >= Revocations.limit, orders[key] == nil {
        orders = orders.filter { $0.value.until > now }
        if orders.count >= Revocations.limit, let first = orders.min(by: { $0.value.until < $1.value.until }) {
          orders[first.key] = nil
        }
      }
      orders[key] = merged
      return true
    }
  }

  /// - Parameter issued: nil is before everything.
  package func refuses(
    subject: String, token: String?, of tenant: String? = nil, issued: Double?,
    now: Double = Date().timeIntervalSince1970
  ) -> Bool {
    orders.withLockedValue { orders in
      if orders.isEmpty { return false }
      func holds(_ what: Key.What) -> Bool {
        orders[Key(tenant, what)].map { (issued ?? -.infinity) < $0.before && now < $0.until } ?? false
      }
      return holds(.subject(subject)) || token.map { holds(.token($0)) } == true
    }
  }

  package func refuses(
    session: SessionName, issued: Double?, now: Double = Date().timeIntervalSince1970
  ) -> Bool {
    orders.withLockedValue { orders in
      if orders.isEmpty { return false }
      let order = orders[Key(session.tenant, .session(session.description))]
      return order.map { (issued ?? -.infinity) < $0.before && now < $0.until } ?? false
    }
  }
}

/// Hears of what other nodes were told, once a second.
struct RevocationWatch: Sendable {
  private static let interval = Duration.seconds(1)

  let store: any SessionOperations
  let revocations: Revocations
  let registry: DeviceRegistry
  let logger: Logger

  /// Until it is cancelled. While the store is away what is known holds.
  func run() async {
    guard let session = SessionName(Revocations.session) else { return }
    var place = Offset.zero
    while !Task.isCancelled {
      var isMore = false
      do {
        let query = try Query("after=\(place)&limit=1000"[...])
        if let page = try await store.history(HistoryRequest(session: session, query: query)) {
          let news = page.entries.filter { take($0) }.count
          if news > 0 {
            logger.notice("tokens were revoked", metadata: ["orders": "\(news)"])
            registry.judgeAgain()
          }
          place = page.entries.last?.offset ?? place
          isMore = page.more
        } else {
          place = .zero
        }
      } catch let problem as Problem where problem.status == .gone {
        place = .zero
        isMore = true
      } catch {}
      if !isMore { try? await Task.sleep(for: Self.interval) }
    }
  }

  private func take(_ entry: Entry) -> Bool {
    guard entry.event == "revoke", case .text(let data) = entry.payload,
      let order = try? JSONDecoder().decode(Revocations.Order.self, from: Data(data.readableBytesView))
    else { return false }
    return revocations.take(order)
  }
}
