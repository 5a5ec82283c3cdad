import AsyncHTTPClient
import BatonRelay
import Foundation
import NIOCore

/// One address that is told, over connections of its own.
struct WebhookClient: Sendable {
  /// Bytes of an answer that are taken, so that its connection can be used again; they are looked at by nobody.
  private static let answerLimit = 16 << 10

  let url: String
  /// Scheme, host and port: a path may hold what is a secret.
  let name: String
  private let web: WebClient
  private let timeout: Duration

  /// - Throws: ``WebClient/Invalid``.
  init(_ url: String, caFile: String?, timeout: Duration) throws(WebClient.Invalid) {
    (self.url, self.timeout) = (url, timeout)
    name = GatewayConfiguration.origin(of: url) ?? "an address"
    web = try WebClient(for: url, caFile: caFile) {
      $0.decompression = .disabled
      $0.timeout.connect = .seconds(5)
      $0.connectionPool.concurrentHTTP1ConnectionsPerHostSoftLimit = WebhookQueue.concurrency
    }
  }

  struct TimedOut: Error {}

  typealias Answer = (status: UInt, retryAfter: Duration?)

  /// Redirects are not followed.
  func post(_ body: ByteBuffer, _ headers: [(String, String)]) async throws -> Answer {
    var request = HTTPClientRequest(url: web.target(url))
    request.method = .POST
    for (name, value) in headers { request.headers.add(name: name, value: value) }
    request.body = .bytes(body)
    return try await within(timeout, or: TimedOut()) { [request, timeout, web] in
      let response = try await web.client.execute(request, timeout: .nanoseconds(timeout.nanoseconds))
      var bytes = 0
      for try await piece in response.body {
        bytes += piece.readableBytes
        if bytes > Self.answerLimit { break }
      }
      let after = response.headers.first(name: "retry-after")
      return (response.status.code, after.flatMap { Self.time($0, now: Date()) })
    }
  }

  /// A Retry-After (RFC 9110 section 10.2.3), of an hour at the most.
  static func time(_ retryAfter: String, now: Date) -> Duration? {
    let seconds: Double
    if let number = Double(retryAfter) {
      seconds = number
    } else {
      let formatter = DateFormatter()
      formatter.locale = Locale(identifier: "en_US_POSIX")
      formatter.timeZone = TimeZone(identifier: "UTC")
      formatter.dateFormat = "EEE, dd MMM yyyy HH:mm:ss 'GMT'"
      guard let date = formatter.date(from: retryAfter) else { return nil }
      seconds = date.timeIntervalSince(now)
    }
    return seconds >= 0 ? .seconds(min(seconds, 3600)) : nil
  }

  static func words(_ error: any Error) -> String {
    error is TimedOut ? "no answer within --webhook-timeout" : WebClient.words(error)
  }
}

extension Duration {
  fileprivate var nanoseconds: Int64 { components.seconds * 1_000_000_000 + components.attoseconds / 1_000_000_000 }
}
