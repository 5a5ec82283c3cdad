import BatonProducer
import BatonProtocol
import BatonRelay
import BatonSession
import HTTPTypes
import HummingbirdCore
import NIOConcurrencyHelpers
import NIOCore

extension Routes {
  /// A UI message stream that an app's own route uploads as it makes it (PROTOCOL 8).
  func upload(
    _ call: Call, to session: SessionName, by identity: Identity?, _ query: Query
  ) async throws -> Response {
    let gathered = call.gathered
    guard let response = try query.one("response"), Shape.name(response.utf8, upTo: 128) else {
      throw Problem.badResponse
    }
    guard let producer = relays.producer else { throw Problem.storeUnavailable }
    if let seconds = state.drainingFor { throw Problem.draining(retryAfter: seconds) }
    guard try await store.response(response, in: session) == nil else {
      throw Problem(
        .conflict, "response-exists", "A response of this name was begun before; each stream is one of its own."
      )
      .with(member: "response", response)
    }
    try front.quotas.take(session, bytes: 0)
    try await store.admit(session)
    let how: ResponseEnd
    let pace = NIOLockedValueBox(UploadPace())
    let refusal = NIOLockedValueBox<Problem?>(nil)
    do {
      let upload = try await RelayUpload(
        session: session.qualified, response: response, codec: UIMessageCodec(response: response),
        producer: try producer.current())
      let pieces = call.body.map { bytes in
        pace.withLockedValue { $0.heard(bytes.readableBytes) }
        return bytes
      }
      how = try await upload.run(pieces) { bytes in
        do throws(Problem) {
          try await gathered.hold(bytes)
        } catch {
          refusal.withLockedValue { $0 = error }
          throw error
        }
      } until: { [limits, state] in
        while !state.endsUploads, pace.withLockedValue({ $0.problem(limits) }) == nil {
          if let problem = identity?.objection(to: .publish, session) {
            return refusal.withLockedValue { $0 = problem }
          }
          if gathered.givesWay { return refusal.withLockedValue { $0 = .shortOfMemory } }
          do { try await Task.sleep(for: .milliseconds(250)) } catch { return }
        }
      }
    } catch let error as ProducerError {
      throw Problem(Relay.Failure.store(error))
    }
    if let problem = refusal.withLockedValue({ $0 }) { throw problem.with(member: "response", response) }
    if let problem = pace.withLockedValue({ $0.exceeded }) { throw problem.with(member: "response", response) }
    var json = JSONWriter(into: ByteBuffer())
    json.object { json in
      json.member("response", response)
      json.member("state", how.rawValue)
    }
    return .json(json.buffer, status: .created, to: call.request).of(session, response)
  }
}

/// How much of an upload has come, and when.
private struct UploadPace {
  private let began = ContinuousClock.now
  private var last = ContinuousClock.now
  private var bytes = 0
  private(set) var exceeded: Problem?

  mutating func heard(_ count: Int) { (last, bytes) = (.now, bytes + count) }

  /// Why it is given up; nil: it is not.
  mutating func problem(_ limits: HTTPLimits) -> Problem? {
    let silence = Duration.nanoseconds(limits.uploadTimeout.nanoseconds)
    let most = Duration.nanoseconds(limits.maxUploadTime.nanoseconds)
    if bytes > limits.maxUploadBytes {
      exceeded = Problem(
        .payloadTooLarge, "upload-too-large", "An upload may have \(limits.maxUploadBytes) bytes (--max-upload-bytes)."
      ).exceeding(.uploadBytes)
    } else if .now - last >= silence {
      exceeded = .bodyTimeout(silence, "--upload-timeout; a comment line is heard, too")
    } else if .now - began >= most {
      exceeded = .bodyTime(most, "--max-upload-time", .uploadTime)
    }
    return exceeded
  }
}
