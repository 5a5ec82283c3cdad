import NIOHTTP1

/// How an answer is had again from an upstream that goes on with it alone, and how it is ended there.
package enum Resumption: Sendable, Equatable {
  /// llama.cpp's server goes on under a name, whoever reads it.
  case conversation(String)
  /// The upstream keeps its responses, and was asked for this one in the background.
  case response(String)

  /// All of it, as an event stream; below the upstream's address.
  var target: String {
    switch self {
    case .conversation(let name): "stream?conv_id=\(name)&from=0"
    case .response(let id): "responses/\(id)?stream=true"
    }
  }

  /// Nobody wants the rest of it.
  var end: (method: HTTPMethod, target: String) {
    switch self {
    case .conversation(let name): (.DELETE, "stream?conv_id=\(name)")
    case .response(let id): (.POST, "responses/\(id)/cancel")
    }
  }
}

/// Where it is known which answers another node could go on with.
package protocol AnswerRegister: Sendable {
  func began(_ response: String, in session: String) async
  func ended(_ response: String, in session: String) async
  /// - Returns: whether it is known; then another node goes on with it.
  func handsOver(_ response: String, in session: String) async -> Bool
}
