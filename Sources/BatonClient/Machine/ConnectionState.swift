/// Where an attachment stands.
public enum ConnectionState: String, Sendable {
  case connecting
  /// Attached, and being caught up.
  case behind
  /// Attached, with everything that the stream holds.
  case live
  /// Attached to a gateway that has lost its store.
  case stalled
  /// Between two attempts to connect.
  case waiting
  /// Waiting for a new token.
  case unauthorized
  case suspended
  case ended
}
