import BatonProtocol
import BatonRelay
import BatonSession
import BatonStore
import BatonUpstream
import BatonWebSocket
import Foundation
import HTTPTypes
import HummingbirdCore
import NIOCore
import NIOHTTP1

extension Routes {
  /// What OpenAI's clients ask of the model server, with answers that outlive their connections (the article Relay).
  func openAI(_ call: Call, _ path: Substring, _ relay: Relay) async -> Response {
    let request = call.request
    do {
      try origins.check(request.headers[values: .origin])
      if request.method == .options { return preflight(request, allow: "GET, POST, DELETE, OPTIONS") }
      let target = Target.originForm(request.head.path ?? "/")
      let query = try Query(target.firstIndex(of: "?").map { target[target.index(after: $0)...] })
      let steps = path.split(separator: "/", omittingEmptySubsequences: false).dropFirst(2).map(String.init)
      switch (request.method, steps.first, steps.count) {
      case (.post, "responses", 1): return try await ask(call, query, relay, .responses)
      case (.post, "chat", 2) where steps[1] == "completions": return try await ask(call, query, relay, .chat)
      // `input_tokens`, `compact`: of no response.
      case (.post, "responses", 2): return try await pass(call, String(target.dropFirst("/v1/".count)), query, relay)
      case (_, "responses", 2...3):
        guard let name = Query.percentDecoded(Substring(steps[1])), let id = OpenAIResponseID(name) else {
          throw Problem(.notFound, "no-such-response", "No response with this id was given out.")
        }
        return try await response(id, steps.count == 3 ? steps[2] : nil, call, query, relay)
      default: return try await pass(call, String(target.dropFirst("/v1/".count)), query, relay)
      }
    } catch {
      let problem = problem(for: error, request)
      note(problem, call)
      var response = Response(openAI: problem)
      if origins.allows(request.headers[values: .origin]) { response.allow(request.headers[.origin]) }
      return response
    }
  }

  enum OpenAIWire {
    case responses, chat

    var path: String { self == .responses ? "responses" : "chat/completions" }
  }

  /// Where no session is named: the scope alone counts.
  func identity(_ call: Call, _ query: Query, _ scope: Identity.Scope) async throws -> Identity? {
    guard let identity = try await identity(call, query) else { return nil }
    guard identity.scopes.contains(scope) else {
      throw Problem(.forbidden, "not-allowed", "The token's scope does not hold \(scope.rawValue).")
        .refusing(identity)
    }
    return identity
  }
}

extension Response {
  /// A problem in OpenAI's words.
  fileprivate init(openAI problem: Problem) {
    self.init(problem)
    let kind =
      switch problem.status.code {
      case 401: "authentication_error"
      case 403: "permission_error"
      case 404: "not_found_error"
      case 429: "rate_limit_error"
      case 500...: "server_error"
      default: "invalid_request_error"
      }
    var json = JSONWriter(into: ByteBuffer())
    json.object { json in
      json.name("error")
      json.object { json in
        json.member("message", problem.detail)
        json.member("type", kind)
        json.member("param", problem.param)
        json.member("code", problem.name.replacing("-", with: "_"))
      }
    }
    body = ResponseBody(byteBuffer: json.buffer)
    headers[.contentType] = MediaType.json.rawValue
    headers[.contentLength] = String(json.buffer.readableBytes)
  }
}

extension Problem {
  fileprivate var param: String? {
    if case .text(let name)? = members.first(where: { $0.name == "param" })?.value { name } else { nil }
  }
}
