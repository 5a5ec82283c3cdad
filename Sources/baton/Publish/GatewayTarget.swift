import AsyncHTTPClient
import BatonProducer
import BatonProtocol
import BatonSession
import Foundation
import NIOCore
import NIOFoundationCompat

/// Appends through a gateway, as numbered lines of JSON: what gathers while a request is on its way goes with the next.
actor GatewayTarget: PublishTarget {
  /// Bytes of lines that wait; beyond that the source waits.
  static let pendingLimit = 1 << 20
  private static let patience = Duration.seconds(30)

  private let resource: String
  private let response: String
  private let token: String?
  private var epoch = 1
  private var n = 0
  private var end: ResponseEnd?
  private var pending = ByteBuffer()
  private var acknowledged: (@Sendable (OpenResponse.Acknowledgement) -> Void)?
  private var sending: Task<Result<Void, PublishFailure>, Never>?

  init(url: String, session: SessionName, response: String, token: String?) async throws(PublishFailure) {
    resource = "\(url.hasSuffix("/") ? String(url.dropLast()) : url)/v1/sessions/\(session)"
    (self.response, self.token) = (response, token)
    try await open()
  }

  /// Goes on with a response that is known, as its next writer.
  private func open() async throws(PublishFailure) {
    let known = try await attempt(HTTPClientRequest(url: "\(resource)/responses/\(response)"))
    if let body = known.status == 200 ? known.body : nil {
      let state = try? JSONDecoder().decode(State.self, from: body)
      guard let state else {
        throw .fault("the gateway answered \(resource)/responses/\(response) in an unknown shape")
      }
      (epoch, n) = (state.epoch + 1, state.n)
    } else if known.status != 404 {
      throw known.failure
    }
    try await add(Line(event: "start"))
  }

  func append(_ delta: ByteBuffer) async throws(PublishFailure) {
    n += 1
    let text = String(validating: delta.readableBytesView, as: UTF8.self)
    try await add(Line(n: n, data: text, data64: text == nil ? Data(buffer: delta) : nil))
  }

  /// Cancels reach only who reads the inbox.
  nonisolated var messages: AsyncStream<DeviceMessage> { AsyncStream { _ in } }

  func onAcknowledgement(_ told: @escaping @Sendable (OpenResponse.Acknowledgement) -> Void) -> UInt64 {
    acknowledged = told
    return UInt64(n)
  }

  func end(_ how: ResponseEnd, _ data: String?) async throws(PublishFailure) {
    end = end ?? how
    try await add(Line(event: how.rawValue, data: data))
    while let sending { try await sending.value.get() }
  }

  private struct State: Decodable {
    let epoch: Int
    let n: Int
  }

  private struct Line: Encodable {
    var event: String?
    var response = ""
    var n: Int?
    var data: String?
    var data64: Data?
  }

  private func add(_ line: Line) async throws(PublishFailure) {
    var line = line
    line.response = response
    do {
      try pending.writeJSONEncodable(line)
    } catch {
      throw .fault("a line could not be encoded: \(error)")
    }
    pending.writeStaticString("\n")
    if sending == nil {
      sending = Task { await send() }
    } else if pending.readableBytes > Self.pendingLimit {
      try await sending?.value.get()
    }
  }

  /// Until nothing is pending or it failed; a failed task stays, so that whoever comes next is told.
  private func send() async -> Result<Void, PublishFailure> {
    while pending.readableBytes > 0 {
      var request = HTTPClientRequest(url: "\(resource)?epoch=\(epoch)")
      request.method = .POST
      request.headers.add(name: "content-type", value: "application/x-ndjson")
      request.body = .bytes(pending)
      pending = ByteBuffer()
      let (n, end) = (UInt64(n), end)
      do throws(PublishFailure) {
        let reply = try await attempt(request)
        guard reply.status / 100 == 2 else { throw reply.failure }
        acknowledged?(OpenResponse.Acknowledgement(n: n, end: end, id: reply.id))
      } catch {
        return .failure(error)
      }
    }
    sending = nil
    return .success(())
  }

  private struct Reply {
    let status: Int
    let body: Data

    /// The last entry's.
    var id: EntryID? {
      (try? JSONDecoder().decode([String: [String]].self, from: body))?["ids"]?.last.flatMap { EntryID($0) }
    }

    var failure: PublishFailure {
      let words = "the gateway answered \(status): \(String(decoding: body.prefix(500), as: UTF8.self))"
      return PublishFailure(status: ExitStatus(httpStatus: status), description: words)
    }
  }

  /// Again and again while the gateway is out of reach or says so: a line that is there is not appended twice.
  private func attempt(_ request: HTTPClientRequest) async throws(PublishFailure) -> Reply {
    var request = request
    if let token { request.headers.add(name: "authorization", value: "Bearer \(token)") }
    let end = ContinuousClock.now + Self.patience
    var ceiling = 100
    while true {
      var failure: PublishFailure
      do {
        let response = try await HTTPClient.shared.execute(request, timeout: .seconds(10))
        let reply = Reply(
          status: Int(response.status.code), body: Data(buffer: try await response.body.collect(upTo: 1 << 20)))
        if reply.status < 500, reply.status != 429 { return reply }
        failure = reply.failure
      } catch {
        failure = .unavailable("no answer from \(resource): \(error)")
      }
      guard ContinuousClock.now < end, (try? await Task.sleep(for: .milliseconds(Int.random(in: 0...ceiling)))) != nil
      else {
        throw failure
      }
      ceiling = min(ceiling * 2, 2000)
    }
  }
}
