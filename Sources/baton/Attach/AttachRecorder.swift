import BatonCheck
import BatonClient

/// What `baton attach --record` writes: every frame, and what became of connections.
struct AttachRecorder {
  private let file: RecordingFile

  init(_ path: String, _ session: String, _ asked: RecordingHeader.Asked) throws(CannotRecord) {
    let file = try RecordingFile(path, by: "attach")
    file.write { RecordingLines.header(RecordingHeader(.device(asked), session: session, at: $0)) }
    self.file = file
  }

  func record(_ event: SessionAttachment.Event) {
    switch event {
    case .frame(let frame) where frame.json.isEmpty: break
    case .frame(let frame): file.write { RecordingLines.frame(frame.json, at: $0) }
    case .state(.connecting, _): file.write { RecordingLines.plain("connecting", at: $0) }
    case .state(.waiting, let detail), .state(.unauthorized, let detail):
      file.write { RecordingLines.plain("lost", detail: detail, at: $0) }
    case .state: break
    }
  }

  /// - Parameter how: `finished`, `closed` or `rejected`.
  func ended(_ how: String) { file.write { RecordingLines.plain(how, at: $0) } }
}
