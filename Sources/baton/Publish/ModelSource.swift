import AsyncHTTPClient
import BatonProducer
import BatonRelay
import BatonUpstream
import Foundation
import NIOCore
import NIOFoundationCompat
import NIOHTTP1

/// Asks a model at an OpenAI-compatible endpoint and appends its answer as it comes.
struct ModelSource {
  let address: UpstreamAddress
  let model: String
  let prompt: String
  let caFile: String?
  /// How long a server that is connected may take for the first event; nil: as long as it likes.
  let firstLimit: Duration?
  /// How long it may then be silent; nil: as long as it likes.
  let idleLimit: Duration?

  /// After a finish reason usage and the stream's own end are waited for so long.
  private static let grace = Duration.seconds(5)
  /// How long a server may ask to be left alone, all in all.
  private static let maxWait = Duration.seconds(600)
  private static let maxRedirects = 5

  func publish(to target: any PublishTarget) async throws {
    let web = try PublishFailure.of { () throws(WebClient.Invalid) in
      try WebClient(for: address.completions, caFile: caFile) { $0.mergeBodies() }
    }
    var progress = Progress()
    var question = Question(url: address.completions)
    while true {
      let outcome = try await ask(question, over: web, to: target, &progress)
      if let next = try await again(question, after: outcome) {
        question = next
        continue
      }
      let state: ResponseEnd = outcome.end.reason == nil ? .end : .error
      try await target.end(state, outcome.end.data)
      progress.ended(state.rawValue)
      guard state == .error else { return }
      let words =
        [outcome.end.message, outcome.trouble].lazy.compactMap(\.self).first ?? "it did not finish its answer"
      throw PublishFailure(
        status: outcome.head.map {
          $0.status.code / 100 == 2 ? .unavailable : ExitStatus(httpStatus: Int($0.status.code))
        }
          ?? .unavailable,
        description:
          "the model at \(address)\(outcome.head.map { $0.status.code / 100 == 2 ? "" : " answered \($0.status)" } ?? ""): \(words)"
      )
    }
  }

  /// What is asked, and what was learned on the way.
  private struct Question {
    var url: String
    var withUsage = true
    var redirects = 0
    var waited = Duration.zero
  }

  private struct Outcome {
    var end: UpstreamEnd
    /// Nil: it did not come.
    var head: HTTPResponseHead?
    /// What happened to the connection.
    var trouble: String?
  }

  private func ask(
    _ question: Question, over web: WebClient, to target: any PublishTarget, _ progress: inout Progress
  ) async throws -> Outcome {
    let response = UpstreamResponse()
    let watch = UpstreamWatch(response)
    defer { watch.end() }
    watch.expect(within: firstLimit)
    response.execute(try request(question, over: web), on: web.client)
    var head: HTTPResponseHead?
    var answer: UpstreamAnswer?
    var trouble: String?
    var silence: UpstreamWatch.Silence?
    do {
      reading: for try await part in response.parts {
        switch part {
        case .head(let received):
          head = received
          answer = UpstreamAnswer(
            status: Int(received.status.code), contentType: received.headers.first(name: "content-type"))
        case .bytes(let bytes):
          for text in answer?.received(bytes) ?? [] {
            try await target.append(text: text)
            progress.appended()
          }
          response.taken(bytes.readableBytes)
          guard let answer, !answer.isDone else { break reading }
          if answer.isFinished {
            watch.finish(within: Self.grace)
          } else if answer.hasBegun {
            watch.expect(within: idleLimit)
          }
        }
      }
    } catch let error as PublishFailure {
      throw error
    } catch let error as UpstreamWatch.Silence {
      silence = error
    } catch is CancellationError {
      throw CancellationError()
    } catch {
      trouble = WebClient.words(error)
    }
    try Task.checkCancellation()
    guard var answer else {
      if let silence {
        return Outcome(end: UpstreamEnd(reason: .cut, message: "nothing came for \(silence.seconds) s"))
      }
      return Outcome(end: UpstreamEnd(reason: .unreachable), trouble: trouble ?? "it closed the connection")
    }
    var (texts, end) = answer.ended()
    for text in texts {
      try await target.append(text: text)
      progress.appended()
    }
    if let head, head.status.code / 100 == 3, let location = head.headers.first(name: "location") {
      end.message = "it leads to \(UpstreamAddress.masked(location)): give that address"
    }
    if let silence, end.reason == .cut { end.message = end.message ?? "nothing came for \(silence.seconds) s" }
    if let coding = head?.headers.first(name: "content-encoding")?.lowercased(), end.reason != nil,
      !["gzip", "x-gzip", "deflate", "identity"].contains(coding)
    {
      end.message = "the answer has the content coding \(coding), which was not asked for"
    }
    return Outcome(end: end, head: head, trouble: trouble)
  }

  /// What to ask next: where the server has said so, and nothing was appended yet.
  private func again(_ question: Question, after outcome: Outcome) async throws -> Question? {
    guard let head = outcome.head, head.status.code / 100 != 2 else { return nil }
    var next = question
    switch head.status.code {
    case 301, 302, 307, 308:
      guard question.redirects < Self.maxRedirects, let url = redirected(head, from: question.url) else { return nil }
      next.redirects += 1
      next.url = url
      return next
    case 400 where outcome.end.message?.contains("stream_options") == true, 422:
      guard question.withUsage else { return nil }
      next.withUsage = false
      return next
    case 408, 425, 429, 500...599:
      guard let wait = Self.retryAfter(head.headers), question.waited + wait <= Self.maxWait else { return nil }
      say(
        "publish",
        "the model at \(address) answered \(head.status): \(outcome.end.message ?? "busy"); it is asked again in \(wait)"
      )
      try await Task.sleep(for: wait)
      // Without a pause of its own a server that says 0 is not asked without end.
      next.waited += max(wait, .milliseconds(500))
      return next
    default: return nil
    }
  }

  /// Where the same server has the resource; nobody else is shown the key.
  private func redirected(_ head: HTTPResponseHead, from url: String) -> String? {
    guard let location = head.headers.first(name: "location"), let old = URL(string: url),
      let new = URL(string: location, relativeTo: old)?.absoluteURL, new.host?.lowercased() == old.host?.lowercased(),
      new.port == old.port && new.scheme == old.scheme || new.scheme == "https" && old.scheme == "http",
      [307, 308].contains(head.status.code) || new.path.hasSuffix("/completions")
    else { return nil }
    return new.absoluteString
  }

  /// RFC 9110 section 10.2.3, and OpenAI's header in milliseconds.
  private static func retryAfter(_ headers: HTTPHeaders) -> Duration? {
    if let text = headers.first(name: "retry-after-ms"), let milliseconds = Double(text), milliseconds >= 0 {
      return .milliseconds(min(milliseconds, 1e9))
    }
    guard let text = headers.first(name: "retry-after") else { return nil }
    if let seconds = Double(text), seconds >= 0 { return .seconds(min(seconds, 1e6)) }
    let formatter = DateFormatter()
    formatter.locale = Locale(identifier: "en_US_POSIX")
    formatter.timeZone = TimeZone(identifier: "UTC")
    formatter.dateFormat = "EEE, dd MMM yyyy HH:mm:ss 'GMT'"
    return formatter.date(from: text).map { .seconds(max($0.timeIntervalSinceNow, 0)) }
  }

  private func request(_ question: Question, over web: WebClient) throws -> HTTPClient.Request {
    var request = try HTTPClient.Request(url: web.target(question.url), method: .POST)
    request.headers.add(name: "content-type", value: "application/json")
    request.headers.add(name: "accept", value: "text/event-stream")
    request.headers.add(name: "accept-encoding", value: "gzip, deflate")
    request.headers.add(contentsOf: try Self.credentials(address))
    var body: [String: Any] = ["model": model, "stream": true, "messages": [["role": "user", "content": prompt]]]
    if question.withUsage { body["stream_options"] = ["include_usage": true] }
    request.body = .byteBuffer(ByteBuffer(data: try JSONSerialization.data(withJSONObject: body)))
    return request
  }

  /// The key in the headers that servers know, or else what stands in the address.
  static func credentials(_ address: UpstreamAddress) throws(PublishFailure) -> HTTPHeaders {
    let key = ProcessInfo.processInfo.environment["OPENAI_API_KEY"]
    if let key = try Secret.header(key, from: "OPENAI_API_KEY") {
      return ["authorization": "Bearer \(key)", "api-key": key]
    }
    guard let login = address.login else { return [:] }
    return ["authorization": "Basic \(Data(login.utf8).base64EncodedString())"]
  }
}
