import Foundation

typealias SubmissionError = SessionAttachment.SubmissionError

/// A frame to the gateway (section 5 of the protocol).
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
