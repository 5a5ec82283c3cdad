import BatonProtocol
import HTTPTypes
import HummingbirdCore
import NIOCore
import NIOHTTP1

extension Response {
  package init(_ problem: Problem) {
    let body = problem.body
    self.init(
      status: .init(code: Int(problem.status.code), reasonPhrase: problem.status.reasonPhrase),
      body: ResponseBody(byteBuffer: body))
    headers[.contentType] = Problem.contentType
    headers[.contentLength] = String(body.readableBytes)
    headers[.cacheControl] = "no-store"
    for header in problem.headers {
      if let name = HTTPField.Name(header.name) { headers[name] = header.value }
    }
  }

  package static func json(_ json: ByteBuffer, status: HTTPResponse.Status = .ok, to request: Request) -> Response {
    var response = Response(status: status, body: ResponseBody(byteBuffer: json))
    response.headers[.contentType] = MediaType.json.rawValue
    response.headers[.contentLength] = String(json.readableBytes)
    response.headers[.cacheControl] = "no-store"
    response.allow(request.headers[.origin])
    return response
  }

  package static func text(
    _ text: String, status: HTTPResponse.Status = .ok, type: String = "text/plain; charset=utf-8"
  ) -> Response {
    let bytes = ByteBuffer(string: text)
    var response = Response(status: status, body: ResponseBody(byteBuffer: bytes))
    response.headers[.contentType] = type
    response.headers[.contentLength] = String(bytes.readableBytes)
    response.headers[.cacheControl] = "no-store"
    return response
  }

  /// Which session and response the answer is about (PROTOCOL 8).
  func of(_ session: SessionName, _ response: String? = nil) -> Response {
    var answer = self
    if let name = HTTPField.Name("Baton-Session") { answer.headers[name] = session.description }
    if let response, let name = HTTPField.Name("Baton-Response") { answer.headers[name] = response }
    return answer
  }

  /// Its idempotency key came before.
  mutating func isReplay() {
    if let name = HTTPField.Name("Idempotent-Replayed") { headers[name] = "true" }
  }

  /// To a page whose origin was accepted.
  package mutating func allow(_ origin: String?) {
    headers[.vary] = "Origin"
    if let origin {
      headers[.accessControlAllowOrigin] = origin
      headers[.accessControlExposeHeaders] = OriginRule.exposedHeaders
    }
  }
}
