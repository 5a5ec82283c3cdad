import Foundation

/// A frame to the gateway (PROTOCOL 5).
enum ClientFrame: Equatable, Sendable {
  case ping
  case auth(token: String)
  case submission(Submission)

  var json: Data {
    let members: [String: String] =
      switch self {
      case .ping: ["type": "ping"]
      case .auth(let token): ["type": "auth", "token": token]
      case .submission(let submission): submission.members
      }
    let encoder = JSONEncoder()
    encoder.outputFormatting = [.sortedKeys, .withoutEscapingSlashes]
    return (try? encoder.encode(members)) ?? Data("{}".utf8)
  }
}

/// What a person does: the `key` makes it safe to send it again until it is answered.
struct Submission: Equatable, Sendable {
  enum Kind: Equatable, Sendable {
    case input(data: String)
    case cancel(response: String)
  }

  let key: String
  let kind: Kind

  fileprivate var members: [String: String] {
    switch kind {
    case .input(let data): ["type": "input", "key": key, "data": data]
    case .cancel(let response): ["type": "cancel", "key": key, "response": response]
    }
  }
}

/// Why an input or a cancel was not accepted.
public struct SubmissionError: Error, Equatable, Sendable {
  /// The gateway's code (`forbidden`, `key_conflict`, `rate_limited`, …), or ours: `too_many` (64 wait for their answer),
  /// `too_big` (over 64 KiB), `key_in_use`, `ended` (the attachment ended before an answer came).
  public let code: String
  public let message: String?

  init(_ code: String, _ message: String? = nil) {
    self.code = code
    self.message = message
  }
}
