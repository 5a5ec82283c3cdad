import BatonRelay
import HTTPTypes
import HummingbirdCore
import NIOHTTP1

extension Response {
  /// What the upstream said, as it is.
  init(_ answer: Relay.Answer, to request: Request) {
    self.init(
      status: .init(code: answer.status, reasonPhrase: HTTPResponseStatus(statusCode: answer.status).reasonPhrase),
      body: ResponseBody(byteBuffer: answer.body))
    headers[.contentType] = answer.contentType ?? MediaType.json.rawValue
    headers[.contentLength] = String(answer.body.readableBytes)
    headers[.cacheControl] = "no-store"
    for (name, value) in answer.headers {
      if let name = HTTPField.Name(name) { headers.append(HTTPField(name: name, value: value)) }
    }
    allow(request.headers[.origin])
  }

  /// What the upstream says, as it comes.
  init(_ stream: PassedStream, to request: Request) {
    self.init(stream.answer, to: request)
    headers[.contentLength] = nil
    if let name = HTTPField.Name("X-Accel-Buffering") { headers[name] = "no" }
    body = ResponseBody { writer in
      try await stream.read { try await writer.write($0) }
      try await writer.finish(nil)
    }
  }
}

extension Routes {
  /// The headers by which an app's own backend knows its people.
  func forwarded(_ request: Request) -> HTTPHeaders {
    var headers = HTTPHeaders()
    for field in request.headers {
      let name = field.name.canonicalName
      guard ["cookie", "authorization", "accept-language"].contains(name) || name.hasPrefix("x-") else { continue }
      headers.add(name: name, value: field.value)
    }
    return headers
  }

  func nothing(_ call: Call) -> Response {
    var response = Response(status: .noContent)
    response.allow(call.request.headers[.origin])
    return response
  }
}

extension Problem {
  init(_ failure: Relay.Failure) {
    switch failure {
    case .badTarget: self = .badEncoding
    case .unreachable(let words):
      self = Problem(
        .badGateway, "model-unreachable", "The model server, or the backend, gave no answer: \(words).")
    case .full:
      self = Problem(
        .serviceUnavailable, "too-many-relays", "This node relays as many answers as --max-relays allows; try again."
      )
      .with(header: "Retry-After", "1").exceeding(.relays)
    case .store(let error):
      if case .refused = error {
        self = Problem(.conflict, "not-relayed", "\(error)")
      } else {
        self = .storeUnavailable
      }
    }
  }
}
