/// The status code of a close frame (RFC 6455 section 7.4).
public struct CloseCode: RawRepresentable, Hashable, Sendable, ExpressibleByIntegerLiteral {
  public let rawValue: UInt16

  public init(rawValue: UInt16) { self.rawValue = rawValue }
  public init(integerLiteral value: UInt16) { rawValue = value }

  package static let normal: Self = 1000
  package static let goingAway: Self = 1001
  package static let protocolError: Self = 1002
  package static let unsupportedData: Self = 1003
  package static let invalidData: Self = 1007
  package static let policyViolation: Self = 1008
  package static let tooBig: Self = 1009
  package static let internalError: Self = 1011

  /// Whether the code may stand in a close frame: 1000–1003 and 1007–1014 (IANA's registry), 3000–3999
  /// (registered by libraries) and 4000–4999 (private).
  package var isAllowedOnWire: Bool {
    switch rawValue {
    case 1000...1003, 1007...1014, 3000...4999: true
    default: false
    }
  }
}

extension CloseCode: CustomStringConvertible {
  public var description: String { String(rawValue) }
}

/// What the peer did against RFC 6455 or our limits, and the code to close with.
public struct WebSocketViolation: Error, Equatable, Sendable {
  package let code: CloseCode
  package let reason: String

  package init(_ code: CloseCode, _ reason: String) {
    self.code = code
    self.reason = reason
  }

  package static let tooManyFrames = WebSocketViolation(.policyViolation, "too many frames")
  package static let tooManyPings = WebSocketViolation(.policyViolation, "too many pings")
}
