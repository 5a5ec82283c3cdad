import BatonProtocol
import BatonSession

/// Why a response can't go on. It is final: every later append throws it again, but for ``tooLarge(_:)``.
public enum ProducerError: Error, Equatable, Sendable, CustomStringConvertible {
  /// A newer producer of this response has taken over.
  case fenced
  /// The session was deleted after the response was opened.
  case deleted
  /// The response has ended: by this producer, or because it was lost sight of for 15 s, or because the name was used before.
  case ended(ResponseEnd)
  /// Redis was out of reach for longer than the configured patience.
  case unavailable(String)
  /// Redis refuses, and will again: rights, configuration, a key of another type.
  case refused(String)
  /// An entry that no device would be sent. Nothing was appended, and the response goes on.
  case tooLarge(String)
  /// The producer was shut down.
  case stopped

  public var description: String {
    switch self {
    case .fenced: "a newer producer has taken this response over"
    case .deleted: "the session was deleted"
    case .ended(let how): "the response has ended already, by \(how.rawValue)"
    case .unavailable(let why): "Redis is out of reach: \(why)"
    case .refused(let why): "Redis refuses: \(why)"
    case .tooLarge(let what): "the entry is too large: \(what)"
    case .stopped: "the producer was shut down"
    }
  }
}

extension ProducerError {
  /// The response can't go on.
  var isFinal: Bool { if case .tooLarge = self { false } else { true } }
}

/// How a response ends; the raw values are the events of section 2 of the protocol.
public enum ResponseEnd: String, Sendable {
  /// It is whole.
  case end
  /// It broke off.
  case error
  /// A person, or the app, stopped it.
  case cancelled

  init?(_ state: ResponseState) { self.init(rawValue: state.rawValue) }

  var state: ResponseState {
    switch self {
    case .end: .end
    case .error: .error
    case .cancelled: .cancelled
    }
  }
}
