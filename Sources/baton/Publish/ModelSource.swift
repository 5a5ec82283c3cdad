import AsyncHTTPClient
import BatonProducer
import Foundation
import NIOCore
import NIOFoundationCompat
import NIOHTTP1

/// Asks a model at an OpenAI-compatible endpoint and appends its answer as it comes.
struct ModelSource {
  let endpoint: String
  let model: String
  let prompt: String

  /// No byte for so long is a model that hangs; the first may take long on a small machine.
  private static let patience = TimeAmount.seconds(120)

  func publish(to target: any PublishTarget) async throws {
    var configuration = HTTPClient.Configuration(
      timeout: .init(connect: .seconds(10), read: Self.patience))
    configuration.connectionPool.retryConnectionEstablishment = false
    configuration.mergeBodies()
    let client = HTTPClient(configuration: configuration)
    do {
      try await publish(to: target, from: client)
    } catch {
      try? await client.shutdown()
      throw error
    }
    try? await client.shutdown()
  }

  private func publish(to target: any PublishTarget, from client: HTTPClient) async throws {
    var progress = Progress()
    var answer = ChatAnswer()
    var failure: PublishFailure?
    do {
      let response = ModelResponse()
      response.execute(try request(), on: client)
      var events = ServerSentEvents()
      var refusal: (status: HTTPResponseStatus, body: ByteBuffer)?
      reading: for try await part in response.parts {
        switch part {
        case .head(.ok): break
        case .head(let status): refusal = (status, ByteBuffer())
        case .bytes(let bytes) where refusal != nil:
          refusal?.body.writeImmutableBuffer(bytes)
          response.taken(bytes.readableBytes)
          if refusal?.body.readableBytes ?? 0 > 16 << 10 { break reading }
        case .bytes(let bytes):
          for data in try events.received(bytes) {
            for delta in answer.received(data) {
              try await target.append(ByteBuffer(string: delta))
              progress.appended()
            }
            if answer.isDone { break reading }
          }
          response.taken(bytes.readableBytes)
        }
      }
      try Task.checkCancellation()
      if let (status, body) = refusal {
        answer.refused(status: Int(status.code))
        throw PublishFailure(
          status: ExitStatus(httpStatus: Int(status.code)),
          description: "the model at \(endpoint) answered \(status): \(String(buffer: body).prefix(500))")
      }
    } catch let error as PublishFailure {
      if answer.outcome == nil { throw error }
      failure = error
    } catch is CancellationError {
      throw CancellationError()
    } catch {
      answer.failed(reached: progress.hasBegun)
      failure = .unavailable("the model at \(endpoint): \(error)")
    }
    let (state, data) = answer.ended()
    try await target.end(state, data)
    progress.ended(state.rawValue)
    if let failure { throw failure }
    if state != .end { throw PublishFailure.unavailable("the model at \(endpoint) did not finish its answer: \(data)") }
  }

  private func request() throws -> HTTPClient.Request {
    var request = try HTTPClient.Request(url: Self.completions(endpoint), method: .POST)
    request.headers.add(name: "content-type", value: "application/json")
    request.headers.add(name: "accept", value: "text/event-stream")
    if let key = ProcessInfo.processInfo.environment["OPENAI_API_KEY"], !key.isEmpty {
      request.headers.add(name: "authorization", value: "Bearer \(key)")
    }
    let body: [String: Any] = [
      "model": model, "stream": true, "stream_options": ["include_usage": true],
      "messages": [["role": "user", "content": prompt]],
    ]
    request.body = .byteBuffer(ByteBuffer(data: try JSONSerialization.data(withJSONObject: body)))
    return request
  }

  static func completions(_ endpoint: String) -> String {
    let base = endpoint.hasSuffix("/") ? String(endpoint.dropLast()) : endpoint
    if base.hasSuffix("/chat/completions") { return base }
    return base + (base.hasSuffix("/v1") ? "/chat/completions" : "/v1/chat/completions")
  }
}

/// What a stream of chat completion chunks comes to.
struct ChatAnswer {
  private(set) var outcome: (ResponseEnd, [String: Any])?
  private(set) var isDone = false
  private var finishReason: String?
  private var usage: Any?

  /// The deltas of one chunk, `[DONE]` among them.
  mutating func received(_ data: String) -> [String] {
    if isDone { return [] }
    if data == "[DONE]" {
      isDone = true
      return []
    }
    guard let chunk = try? JSONSerialization.jsonObject(with: Data(data.utf8)) as? [String: Any] else {
      return stop(["reason": "model_error", "message": "a chunk is not a JSON object"])
    }
    if let error = chunk["error"], !(error is NSNull) {
      let message = (error as? [String: Any])?["message"] as? String ?? error as? String ?? "unknown"
      return stop(["reason": "model_error", "message": message])
    }
    if let usage = chunk["usage"] as? [String: Any] { self.usage = usage }
    var deltas: [String] = []
    for case let choice as [String: Any] in chunk["choices"] as? [Any] ?? [] {
      if let text = (choice["delta"] as? [String: Any])?["content"] as? String, !text.isEmpty { deltas.append(text) }
      if let reason = choice["finish_reason"] as? String { finishReason = reason }
    }
    return deltas
  }

  mutating func refused(status: Int) { outcome = (.error, ["reason": "model_error", "status": status]) }

  /// The connection failed; before it was there, or while the answer came.
  mutating func failed(reached: Bool) {
    if finishReason == nil, outcome == nil {
      outcome = (.error, ["reason": reached ? "model_cut" : "model_unreachable"])
    }
  }

  /// The stream is over: an answer without a finish reason was cut.
  func ended() -> (ResponseEnd, String) {
    var (state, data) = outcome ?? (.end, [:])
    if outcome == nil, finishReason == nil { (state, data) = (.error, ["reason": "model_cut"]) }
    if state == .end, let finishReason { data["finish_reason"] = finishReason }
    if let usage { data["usage"] = usage }
    let json = try? JSONSerialization.data(withJSONObject: data, options: [.sortedKeys, .withoutEscapingSlashes])
    return (state, json.map { String(decoding: $0, as: UTF8.self) } ?? "{}")
  }

  private mutating func stop(_ data: [String: Any]) -> [String] {
    outcome = (.error, data)
    isDone = true
    return []
  }
}

/// The data of server-sent events (WHATWG HTML, section 9.2.6), from bytes that are cut anywhere.
struct ServerSentEvents {
  /// Bytes of one event.
  static let limit = 1 << 20
  private var line: [UInt8] = []
  private var data: [UInt8]?
  private var afterCR = false

  mutating func received(_ bytes: ByteBuffer) throws(PublishFailure) -> [String] {
    var events: [String] = []
    for byte in bytes.readableBytesView {
      let follows = afterCR
      afterCR = byte == UInt8(ascii: "\r")
      if byte == UInt8(ascii: "\n"), follows { continue }
      if byte != UInt8(ascii: "\n"), byte != UInt8(ascii: "\r") {
        line.append(byte)
      } else if line.isEmpty {
        if let data { events.append(String(decoding: data, as: UTF8.self)) }
        data = nil
      } else {
        take()
      }
      guard line.count + (data?.count ?? 0) <= Self.limit else {
        throw .unavailable("the model sent an event over 1 MiB")
      }
    }
    return events
  }

  private mutating func take() {
    defer { line.removeAll(keepingCapacity: true) }
    guard line.starts(with: "data:".utf8) else { return }
    let value = line.dropFirst(5)
    data =
      (data.map { $0 + [UInt8(ascii: "\n")] } ?? []) + (value.first == UInt8(ascii: " ") ? value.dropFirst() : value)
  }
}
