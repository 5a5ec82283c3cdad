import NIOCore

/// What is bounded so that whoever exceeds it harms nobody else: each by the name of its option.
package enum Limit: String, CaseIterable, Sendable {
  case connections = "max-connections"
  case connectionsPerAddress = "max-connections-per-address"
  case handshakesPerAddress = "max-handshakes-per-address"
  case failuresPerAddress = "max-auth-failures-per-address"
  case authAsks = "max-auth-asks"
  case requests = "max-requests"
  case gatherBytes = "gather-bytes"
  case bodyTime = "max-body-time"
  case bodyRate = "min-body-rate"
  case uploadTime = "max-upload-time"
  case uploadBytes = "max-upload-bytes"
  case devices = "max-devices"
  case devicesPerSession = "max-devices-per-session"
  case devicesPerSubject = "max-devices-per-subject"
  case devicesPerTenant = "max-devices-per-tenant"
  case sessionsPerTenant = "max-sessions-per-tenant"
  case entriesPerTenant = "max-entries-per-tenant"
  case bytesPerTenant = "max-bytes-per-tenant"
  case messages = "max-messages-per-second"
  case pings = "max-pings-per-second"
  case frames = "max-frames-per-second"
  case queued = "max-queued"
  case relays = "max-relays"
}

extension Problem {
  func exceeding(_ limit: Limit) -> Problem {
    var problem = self
    problem.limit = limit
    return problem
  }

  private static func tooMany(_ name: String, _ detail: String, _ limit: Limit, wait: TimeAmount) -> Problem {
    Problem(.tooManyRequests, name, detail).with(header: "Retry-After", String(wait.wholeSeconds)).exceeding(limit)
  }

  static func tooManyHandshakes(wait: TimeAmount) -> Problem {
    tooMany(
      "too-many-handshakes",
      "Your address attaches more often than --max-handshakes-per-address allows; attach again a little later.",
      .handshakesPerAddress, wait: wait)
  }

  static func tooManyFailures(wait: TimeAmount) -> Problem {
    tooMany(
      "too-many-failures",
      "Your address has sent more invalid tokens than --max-auth-failures-per-address allows; try again later.",
      .failuresPerAddress, wait: wait)
  }

  static let tooManyDevicesOfSession = tooMany(
    "too-many-devices-of-session",
    "This session has as many devices on this node as --max-devices-per-session allows; try again when one has left.",
    .devicesPerSession, wait: .seconds(5))

  static let tooManyDevicesOfSubject = tooMany(
    "too-many-devices-of-subject",
    "The token's subject has as many devices on this node as --max-devices-per-subject allows; close some.",
    .devicesPerSubject, wait: .seconds(5))

  static let tooManyDevicesOfTenant = tooMany(
    "too-many-devices-of-tenant",
    "The token's tenant has as many devices on this node as --max-devices-per-tenant allows; close some.",
    .devicesPerTenant, wait: .seconds(5))

  static let tooManySessionsOfTenant = tooMany(
    "too-many-sessions-of-tenant",
    "The token's tenant has as many sessions as --max-sessions-per-tenant allows; delete some, or wait until they expire.",
    .sessionsPerTenant, wait: .seconds(60))

  static func tooMuch(of limit: Limit, wait: TimeAmount) -> Problem {
    tooMany(
      "too-much-of-tenant",
      "The token's tenant appends more on this node than --\(limit.rawValue) allows; try again later.", limit,
      wait: wait)
  }

  static let tooManyRequests = Problem(
    .serviceUnavailable, "too-many-requests",
    "This node works on as many requests as --max-requests allows; try another one, or again shortly."
  ).with(header: "Retry-After", "1").exceeding(.requests)
}

extension TimeAmount {
  /// Rounded up, at least 1.
  var wholeSeconds: Int64 { max(1, (nanoseconds + 999_999_999) / 1_000_000_000) }
}
