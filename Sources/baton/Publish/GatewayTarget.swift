import AsyncHTTPClient
import BatonProducer
import BatonProtocol
import BatonRelay
import BatonSession
import BatonUpstream
import Foundation
import NIOCore
import NIOFoundationCompat

/// Appends through a gateway, as numbered lines of JSON: what gathers while a request is on its way goes with the next.
actor GatewayTarget: PublishTarget {
  /// Bytes of lines that wait; beyond that the source waits.
  static let pendingLimit = 1 << 20
  /// The gateway waits for 15 s between two requests (PROTOCOL 8).
  private static let renewal = Duration.seconds(5)

  nonisolated let response: String
  private let gateway: GatewayLink
  private let epoch: Int
  private var n: Int
  private var end: (how: ResponseEnd, data: String?)?
  private var pending = ByteBuffer()
  private var hasFailed = false
  private var isRefusalTold = false
  private var acknowledged: (@Sendable (OpenResponse.Acknowledgement) -> Void)?
  private var sending: Task<Result<Void, PublishFailure>, Never>?
  private var posted = ContinuousClock.now
  private var renewing: Task<Void, Never>?

  /// Returns when the response is open.
  init(url: String, _ opening: Opening, token: String?, caFile: String?) async throws(PublishFailure) {
    let gateway = try GatewayLink(url: url, session: opening.session, token: token, caFile: caFile)
    self.gateway = gateway
    let known = try await gateway.openState(of: opening.response)
    // As the next writer of a response that is known.
    epoch = (known?.epoch ?? 0) + 1
    var body = ByteBuffer()
    try Line(event: "start", response: opening.response).write(to: &body)
    _ = try await gateway.append(body, epoch: epoch)
    // What the stream has of a response may be known only now.
    n = try await gateway.openState(of: opening.response)?.n ?? 0
    guard n > 0, !opening.isResumable else {
      response = opening.response
      renewing = Task { await renew() }
      return
    }
    let successor = opening.successor
    (response, n) = (successor.name, 0)
    // The new one first, so that nobody takes the session for finished in between.
    body.clear()
    try Line(event: "start", response: successor.name, data: successor.start).write(to: &body)
    try Line(event: "error", response: opening.response, data: successor.end).write(to: &body)
    _ = try await gateway.append(body, epoch: epoch)
    opening.tellSuperseded(by: successor.name)
    renewing = Task { await renew() }
  }

  func append(_ delta: ByteBuffer) async throws(PublishFailure) {
    if let end { throw .unavailable("the response has ended already, by \(end.how.rawValue)") }
    n += 1
    let text = String(utf8: delta.readableBytesView)
    try await add(Line(response: response, n: n, data: text, data64: text == nil ? Data(buffer: delta) : nil))
  }

  /// Says that somebody is there while the source is silent.
  private func renew() async {
    while !Task.isCancelled, !hasFailed {
      let pause = Self.renewal - (ContinuousClock.now - posted)
      if pause > .zero {
        try? await Task.sleep(for: pause)
      } else if sending == nil, end == nil {
        try? await add(Line(event: "start", response: response))
      } else {
        try? await Task.sleep(for: .seconds(1))
      }
    }
  }

  nonisolated var messages: AsyncStream<DeviceMessage> { gateway.messages(of: response) }

  func onAcknowledgement(_ told: @escaping @Sendable (OpenResponse.Acknowledgement) -> Void) async -> UInt64 {
    acknowledged = told
    return UInt64(n)
  }

  func end(_ how: ResponseEnd, _ data: String?) async throws(PublishFailure) {
    renewing?.cancel()
    if end == nil {
      end = (how, data)
      if !hasFailed { try? await add(Line(event: how.rawValue, response: response, data: data)) }
    }
    while let sending {
      guard case .failure(let failure) = await sending.value else { continue }
      if failure.status == .usage, !isRefusalTold {
        // A line was refused, and with it what came after it.
        isRefusalTold = true
        var body = ByteBuffer()
        let told = UpstreamEnd(reason: .producer, message: failure.description).data
        try Line(event: "error", response: response, data: told).write(to: &body)
        _ = try? await gateway.append(body, epoch: epoch)
      }
      throw failure
    }
  }

  private struct Line: Encodable {
    var event: String?
    var response: String
    var n: Int?
    var data: String?
    var data64: Data?

    func write(to body: inout ByteBuffer) throws(PublishFailure) {
      do {
        try body.writeJSONEncodable(self)
      } catch {
        throw .fault("a line could not be encoded")
      }
      body.writeStaticString("\n")
    }
  }

  private func add(_ line: Line) async throws(PublishFailure) {
    if hasFailed { try await sending?.value.get() }
    try line.write(to: &pending)
    if sending == nil {
      sending = Task { await send() }
    } else if pending.readableBytes > Self.pendingLimit {
      try await sending?.value.get()
    }
  }

  /// Until nothing is pending or it failed; a failed task stays, so that whoever comes next is told.
  private func send() async -> Result<Void, PublishFailure> {
    while pending.readableBytes > 0 {
      let body = pending
      pending = ByteBuffer()
      posted = .now
      let (n, end) = (UInt64(n), end?.how)
      do throws(PublishFailure) {
        let id = try await gateway.append(body, epoch: epoch)
        acknowledged?(OpenResponse.Acknowledgement(n: n, end: end, id: id))
      } catch {
        hasFailed = true
        return .failure(error)
      }
    }
    sending = nil
    return .success(())
  }
}

/// One session's resources at a gateway, asked again and again while it is out of reach.
private struct GatewayLink: Sendable {
  private static let patience = Duration.seconds(30)

  private let resource: String
  private let shown: String
  private let token: String?
  private let web: WebClient

  init(url: String, session: SessionName, token: String?, caFile: String?) throws(PublishFailure) {
    let url = url.trimmingCharacters(in: .whitespacesAndNewlines)
    resource = "\(url.hasSuffix("/") ? String(url.dropLast()) : url)/v1/sessions/\(session)"
    shown = UpstreamAddress.masked(resource)
    self.token = token
    web = try PublishFailure.of { [resource] () throws(WebClient.Invalid) in
      try WebClient(for: resource, caFile: caFile)
    }
  }

  struct State: Decodable {
    let epoch: Int
    let n: Int
    let state: String
  }

  /// Nil: nothing is known of it.
  /// - Throws: also where it has ended.
  func openState(of response: String) async throws(PublishFailure) -> State? {
    let known = try await attempt(request("/responses/\(response)"))
    if known.status == 404 { return nil }
    guard known.status == 200 else { throw known.failure }
    guard let state = try? JSONDecoder().decode(State.self, from: known.body) else {
      throw .fault("the gateway answered \(shown)/responses/\(response) in an unknown shape")
    }
    guard state.state == "open" else {
      throw .unavailable("the response \(response) has ended already, by \(state.state)")
    }
    return state
  }

  /// Appends lines; one that is there is not appended twice.
  /// - Returns: the last entry's id.
  func append(_ lines: ByteBuffer, epoch: Int) async throws(PublishFailure) -> EntryID? {
    var request = request("?epoch=\(epoch)&lease=keep")
    request.method = .POST
    request.headers.add(name: "content-type", value: "application/x-ndjson")
    request.body = .bytes(lines)
    let reply = try await attempt(request)
    guard reply.status / 100 == 2 else { throw reply.failure }
    return (try? JSONDecoder().decode([String: [String]].self, from: reply.body))?["ids"]?.last.flatMap { EntryID($0) }
  }

  /// What people do on devices while the response is open, over an event stream that is opened anew whenever it breaks.
  /// Ends with the response.
  func messages(of response: String) -> AsyncStream<DeviceMessage> {
    let (messages, continuation) = AsyncStream.makeStream(of: DeviceMessage.self, bufferingPolicy: .bufferingNewest(64))
    let following = Task {
      var last: EntryID?
      var pause = 250
      while !Task.isCancelled {
        var heard = false
        let isOver = try? await follow(response, after: &last) {
          heard = true
          continuation.yield($0)
        }
        if isOver == true { break }
        pause = heard ? 250 : min(pause * 2, 5000)
        try? await Task.sleep(for: .milliseconds(Int.random(in: pause / 2...pause)))
      }
      continuation.finish()
    }
    continuation.onTermination = { _ in following.cancel() }
    return messages
  }

  /// - Returns: whether nothing more can come.
  private func follow(
    _ response: String, after last: inout EntryID?, told: (DeviceMessage) -> Void
  ) async throws -> Bool {
    var request = request("/responses/\(response)/controls")
    request.headers.add(name: "accept", value: "text/event-stream")
    if let last { request.headers.add(name: "last-event-id", value: "\(last)") }
    let answer = try await web.client.execute(request, deadline: .distantFuture)
    // A gateway of another version has no such resource; what may pass is another status.
    if [400, 404, 405, 406, 410].contains(answer.status.code) {
      while !Task.isCancelled { try await Task.sleep(for: .seconds(3600)) }
    }
    guard answer.status == .ok else { return answer.status == .noContent }
    struct Control: Decodable {
      let id: String
      let event: String
      let data: String?
      let device: String?
      let subject: String?
    }
    var decoder = EventStreamDecoder(limit: 1 << 20)
    for try await bytes in answer.body {
      for case .event(_, let data) in decoder.received(bytes) {
        guard let control = try? JSONDecoder().decode(Control.self, from: Data(data)) else { continue }
        if ["end", "error", "cancelled"].contains(control.event) { return true }
        guard let id = EntryID(control.id) else { continue }
        last = id
        guard control.event == "cancel" || control.event == "input" else { continue }
        told(
          DeviceMessage(
            kind: control.event == "cancel" ? .cancel : .input, id: id, data: control.data ?? "",
            device: control.device,
            subject: control.subject))
      }
    }
    return false
  }

  private func request(_ path: String) -> HTTPClientRequest {
    var request = HTTPClientRequest(url: web.target(resource + path))
    if let token { request.headers.add(name: "authorization", value: "Bearer \(token)") }
    return request
  }

  struct Reply {
    let status: Int
    let body: Data

    var failure: PublishFailure {
      let words = UpstreamMessage.find(inBody: body) ?? "without words"
      return PublishFailure(
        status: ExitStatus(httpStatus: status), description: "the gateway answered \(status): \(words)")
    }
  }

  private func attempt(_ request: HTTPClientRequest) async throws(PublishFailure) -> Reply {
    let end = ContinuousClock.now + Self.patience
    var ceiling = 100
    while true {
      var failure: PublishFailure
      do {
        let response = try await web.client.execute(request, timeout: .seconds(10))
        let reply = Reply(
          status: Int(response.status.code), body: Data(buffer: try await response.body.collect(upTo: 1 << 20)))
        if reply.status < 500, reply.status != 429 { return reply }
        failure = reply.failure
      } catch {
        failure = .unavailable("no answer from \(shown): \(WebClient.words(error))")
      }
      guard ContinuousClock.now < end, (try? await Task.sleep(for: .milliseconds(Int.random(in: 0...ceiling)))) != nil
      else {
        throw failure
      }
      ceiling = min(ceiling * 2, 2000)
    }
  }
}
