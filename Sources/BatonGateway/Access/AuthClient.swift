import AsyncHTTPClient
import BatonRelay
import Foundation
import NIOCore

/// Asks the URLs of `--auth-url` and `--auth-jwks-url`: no redirect is followed, nothing is tried twice.
final class AuthClient: Sendable {
  struct Answer: Sendable {
    var status: UInt
    var body: ByteBuffer
  }

  enum Failure: Error { case timeout, tooLong }

  /// Connections to one of the URLs.
  private static let connections = 32

  private let client: HTTPClient

  init(on group: any EventLoopGroup) {
    var configuration = HTTPClient.Configuration(
      redirectConfiguration: .disallow, timeout: .init(connect: .seconds(5)))
    configuration.connectionPool.retryConnectionEstablishment = false
    configuration.connectionPool.concurrentHTTP1ConnectionsPerHostSoftLimit = Self.connections
    configuration.httpVersion = .http1Only
    client = HTTPClient(eventLoopGroupProvider: .shared(group), configuration: configuration)
  }

  deinit { client.shutdown { _ in } }

  /// - Parameters:
  ///   - time: for all of it, the waiting for a connection included.
  ///   - bytes: of the body, at the most.
  func get(
    _ url: String, _ headers: [Credentials.Header] = [], within time: TimeAmount, upTo bytes: Int
  ) async throws -> Answer {
    var request = HTTPClientRequest(url: url)
    request.headers.add(name: "accept", value: "application/json")
    for header in headers { request.headers.add(name: header.name, value: header.value) }
    return try await within(.nanoseconds(time.nanoseconds), or: Failure.timeout) { [client, request] in
      let response = try await client.execute(request, deadline: .now() + time)
      var body = ByteBuffer()
      for try await piece in response.body {
        guard body.readableBytes + piece.readableBytes <= bytes else { throw Failure.tooLong }
        body.writeImmutableBuffer(piece)
      }
      return Answer(status: response.status.code, body: body)
    }
  }

  /// Without what was asked or answered.
  static func words(_ error: any Error) -> String {
    switch error {
    case Failure.timeout: "no answer within --auth-timeout"
    case Failure.tooLong: "the answer is too long"
    default: WebClient.words(error)
    }
  }

  /// - Returns: what is wrong with the URL of an option; nil where nothing is.
  static func objection(to url: String) -> String? {
    guard let parts = URLComponents(string: url), ["http", "https"].contains(parts.scheme?.lowercased() ?? ""),
      let host = parts.host, !host.isEmpty, parts.user == nil, parts.password == nil, parts.fragment == nil
    else { return "must be an http:// or https:// URL with a host, without a login and a fragment" }
    return nil
  }
}
