import BatonCheck
import BatonProducer
import NIOConcurrencyHelpers
import NIOCore

/// What `baton publish --record` writes. What is meant is written before it is appended, so that nothing can be in the stream
/// of which the recording knows nothing.
struct PublishRecorder {
  fileprivate let file: RecordingFile

  private let session: String

  init(_ path: String, session: String) throws(CannotRecord) {
    file = try RecordingFile(path, by: "publish")
    self.session = session
  }

  fileprivate func begin(_ response: String) {
    file.write { [session] in
      RecordingLines.header(RecordingHeader(.producer(response: response), session: session, at: $0))
    }
  }
}

extension OpenResponse.Acknowledgement? {
  /// Whether that is another one.
  fileprivate mutating func replace(by other: OpenResponse.Acknowledgement) -> Bool {
    defer { self = other }
    return self != other
  }
}

/// A target of which everything is recorded.
final class RecordedTarget: PublishTarget {
  private let target: any PublishTarget
  private let file: RecordingFile
  /// The number of the last delta.
  private let n: NIOLockedValueBox<UInt64>

  init(_ target: any PublishTarget, _ recorder: PublishRecorder) async {
    (self.target, file) = (target, recorder.file)
    recorder.begin(target.response)
    let last = NIOLockedValueBox<OpenResponse.Acknowledgement?>(nil)
    let after = await target.onAcknowledgement { [file = recorder.file] acknowledged in
      // A producer that has nothing to say asks again and again whether all is there.
      guard last.withLockedValue({ $0.replace(by: acknowledged) }) else { return }
      file.write { at in
        RecordingLines.acknowledged(n: acknowledged.n, end: acknowledged.end?.rawValue, id: acknowledged.id, at: at)
      }
    }
    n = NIOLockedValueBox(after)
    file.write { RecordingLines.opened(after: after, at: $0) }
  }

  var response: String { target.response }
  var messages: AsyncStream<DeviceMessage> { target.messages }

  func onAcknowledgement(_ told: @escaping @Sendable (OpenResponse.Acknowledgement) -> Void) async -> UInt64 {
    await target.onAcknowledgement(told)
  }

  func append(_ delta: ByteBuffer) async throws(PublishFailure) {
    let n = n.withLockedValue { n in
      n += 1
      return n
    }
    file.write { RecordingLines.delta(n: n, delta, at: $0) }
    try await target.append(delta)
  }

  func end(_ how: ResponseEnd, _ data: String?) async throws(PublishFailure) {
    file.write { RecordingLines.end(how.rawValue, data: data, at: $0) }
    try await target.end(how, data)
  }
}
