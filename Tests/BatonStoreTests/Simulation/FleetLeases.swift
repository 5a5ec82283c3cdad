import BatonProtocol
import TestSupport

@testable import BatonSession
@testable import BatonStore

/// A response whose producer renews its lease, as the library does, until it ends it or dies.
final class LeasedResponse: @unchecked Sendable {
  let session: SessionName
  let name: String
  var renewals = 0
  /// When its token last changed in Redis.
  var renewedAt: Int64
  /// When its producer died.
  var diedAt: Int64?

  init(_ session: SessionName, _ name: String, at now: Int64) {
    (self.session, self.name, renewedAt) = (session, name, now)
  }
}

extension Fleet {
  /// Begins one response after the other in a session.
  func lease(_ session: SessionName) {
    plan(after: dice.roll(1000...20_000)) { [self] in
      if quietSince != nil { return }
      lease(session)
      if isCalm || redis.writeRefusal != nil || holder(of: key(session)).keys[key(session)] == nil { return }
      let response = LeasedResponse(session, "\(session).leased\(serial)", at: now)
      append(session, [("event", "start"), ("response", response.name)])
      leased[response.name] = response
      record(response)
      renew(response)
    }
  }

  private func record(_ response: LeasedResponse, state: String = "open") {
    response.renewals += 1
    response.renewedAt = now
    note(response.session, "\(response.name) has the token p.\(response.renewals)")
    holder(of: key(response.session) + ":producers").setField(
      key(response.session) + ":producers", response.name, "1 0 \(state) p.\(response.renewals) - \(now)")
  }

  /// Nil where it was lost with its session.
  func state(_ response: LeasedResponse) -> String? {
    let key = key(response.session) + ":producers"
    return holder(of: key).hash(key)?[response.name].map { String(buffer: $0) }
      .flatMap { ResponseRecord($0) }.map(\.state.rawValue)
  }

  private func renew(_ response: LeasedResponse) {
    plan(after: 5_000) { [self] in
      guard state(response) == "open" else {
        leased[response.name] = nil
        return
      }
      if redis.writeRefusal == nil, now >= network.pausedUntil {
        switch dice.roll(0...9) {
        case 0:
          note(response.session, "the producer of \(response.name) dies")
          response.diedAt = now
          return
        case 1:
          append(response.session, [("event", "end"), ("response", response.name)])
          record(response, state: "end")
          leased[response.name] = nil
          return
        default: record(response)
        }
      }
      renew(response)
    }
  }

  /// A gateway has ended a response.
  func producerLost(_ session: SessionName, _ name: String) {
    tally.lost += 1
    guard let response = leased.removeValue(forKey: name) else { return }
    let age = now - response.renewedAt
    // Writes that are refused for longer than a lease is good for would have kept the producer from renewing it.
    if response.diedAt == nil { complain("\(name) was ended, and its producer renewed it \(age) ms ago", in: session) }
    if age < 14_000 { complain("\(name) was ended \(age) ms after its last renewal", in: session) }
  }

  /// Whose producers have been dead for longer than a lease is good for.
  func overdueLeases(of session: SessionName) -> Set<String> {
    let limit = now - 15_000
    let dead = leased.values.filter {
      $0.session == session && $0.diedAt != nil && $0.renewedAt < limit && state($0) == "open"
    }.map(\.name)
    return Set(
      dead
        + produced.values.filter { $0.session == session && $0.isDead && $0.renewedAt < limit && isOpen($0) }.map(
          \.name))
  }

  /// With somebody attached, whoever died long ago has been noticed.
  func judgeLeases() {
    for response in leased.values {
      guard let diedAt = response.diedAt, now - diedAt > 60_000, state(response) == "open",
        devices.contains(where: { $0.session == response.session && $0.node != nil })
      else { continue }
      complain(
        "\(response.name) of \(response.session) is open, and its producer died at \(diedAt)", in: response.session)
    }
  }
}
