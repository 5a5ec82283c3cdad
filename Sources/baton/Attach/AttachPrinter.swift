import BatonClient
import Foundation

/// What `baton attach` writes: text or frames to standard output, the rest to standard error.
struct AttachPrinter {
  /// Standard output was closed at its other end.
  struct NobodyReads: Error {}

  /// Why there was no connection, last time.
  private(set) var trouble: String?
  private let json: Bool
  private let isTerminal = isatty(STDOUT_FILENO) == 1
  private var isMidLine = false
  private var wasAttached = false

  init(json: Bool) { self.json = json }

  /// - Throws: `NobodyReads`.
  mutating func show(_ event: Event) throws {
    switch event {
    case .frame(let frame):
      if json { try write(Data(frame.json.utf8) + [UInt8(ascii: "\n")]) }
      switch frame.kind {
      case .entry(let entry): if !json { try show(entry) }
      case .reset(let reset): if !json { try show(reset) }
      case .attached(let attached): welcome(attached)
      case .skipped(let skipped): say("an entry of \(skipped.bytes ?? 0) bytes was left out")
      case .stalled: say("the gateway has lost its store; waiting")
      case .error(let code, let message, _): say("\(code): \(message ?? "")")
      default: break
      }
    case .state(let state, let detail):
      guard state == .waiting || state == .unauthorized else { return }
      if detail != trouble { say("trying again: \(detail ?? "the connection was lost")") }
      trouble = detail
    }
  }

  private mutating func show(_ entry: Frame.Entry) throws {
    if entry.event == "token", let data = entry.data, !data.isEmpty {
      try write(data)
      isMidLine = data.last != UInt8(ascii: "\n")
    } else if entry.isEnding {
      if isTerminal { try breakLine() }
      if entry.event != "end" { say("the answer ended with \(entry.event) \(entry.text ?? "")") }
    }
  }

  /// On a terminal the text that follows begins on a line of its own.
  private mutating func show(_ reset: Frame.Reset) throws {
    if isTerminal { try breakLine() }
    let from = reset.from == .zero ? "all that was printed" : "what was printed after \(reset.from)"
    note("--- reset (\(reset.reason)): \(from) is no longer in the session; printing anew ---")
  }

  private mutating func welcome(_ attached: Frame.Attached) {
    if wasAttached, trouble != nil { say("attached again, to \(attached.node ?? "a gateway")") }
    wasAttached = true
    trouble = nil
  }

  /// On a terminal the prompt comes back on its own line.
  mutating func finish() {
    if isTerminal { try? breakLine() }
  }

  private mutating func breakLine() throws {
    guard isMidLine else { return }
    isMidLine = false
    try write(Data("\n".utf8))
  }

  func say(_ text: String) { note("baton attach: \(text)") }

  private func note(_ line: String) {
    FileHandle.standardError.write(Data("\(line)\n".utf8))
  }

  private func write(_ data: Data) throws {
    do {
      try FileHandle.standardOutput.write(contentsOf: data)
    } catch {
      throw NobodyReads()
    }
  }
}
