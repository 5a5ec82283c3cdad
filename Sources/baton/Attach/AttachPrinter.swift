import BatonClient
import BatonGateway
import Foundation

/// What `baton attach` writes: text or frames to standard output, the rest to standard error.
struct AttachPrinter {
  /// Why there was no connection, last time.
  private(set) var trouble: String?
  private let json: Bool
  private let isTerminal = isatty(STDOUT_FILENO) == 1
  private var isMidLine = false
  private var wasAttached = false
  private var terminal = TerminalText()
  /// The newest responses of which something was printed.
  private var printed: [(response: String, n: UInt64)] = []

  init(json: Bool) { self.json = json }

  mutating func show(_ event: SessionAttachment.Event) throws(Descriptor.Failure) {
    switch event {
    case .frame(let frame):
      if json { try StandardOutput.write(frame.json + "\n") }
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

  private mutating func show(_ entry: SessionAttachment.Frame.Entry) throws(Descriptor.Failure) {
    if entry.isShownText, let data = entry.data, !data.isEmpty {
      if isRepeated(entry) { return }
      try isTerminal ? StandardOutput.write(terminal.shown(data)) : StandardOutput.write(data)
      isMidLine = data.last != UInt8(ascii: "\n")
    } else if entry.event == "start", let old = superseded(by: entry), printed.contains(where: { $0.response == old }) {
      if isTerminal { try breakLine() }
      LineOutput.standardError.tell("--- what was printed of \(old) is superseded by \(entry.response ?? "") ---\n")
    } else if entry.isEnding {
      if isTerminal { try breakLine() }
      if entry.event != "end" { say("the answer ended with \(entry.event) \(entry.text ?? "")") }
    }
  }

  /// An append that was sent twice (PROTOCOL 2).
  private mutating func isRepeated(_ entry: SessionAttachment.Frame.Entry) -> Bool {
    guard let response = entry.response else { return false }
    let index = printed.firstIndex { $0.response == response }
    let last = index.map { printed[$0].n } ?? 0
    if let n = entry.n, n <= last { return true }
    if let index {
      printed[index].n = entry.n ?? last + 1
    } else {
      printed = printed.suffix(63) + [(response, entry.n ?? 1)]
    }
    return false
  }

  private func superseded(by start: SessionAttachment.Frame.Entry) -> String? {
    struct Words: Decodable { let supersedes: String? }
    return start.data.flatMap { try? JSONDecoder().decode(Words.self, from: $0) }?.supersedes
  }

  /// On a terminal the text that follows begins on a line of its own.
  private mutating func show(_ reset: SessionAttachment.Frame.Reset) throws(Descriptor.Failure) {
    if isTerminal { try breakLine() }
    printed = []
    let from = reset.from == .zero ? "all that was printed" : "what was printed after \(reset.from)"
    LineOutput.standardError.tell(
      "--- reset (\(reset.reason.rawValue)): \(from) is no longer in the session; printing anew ---\n")
  }

  private mutating func welcome(_ attached: SessionAttachment.Frame.Attached) {
    if wasAttached, trouble != nil { say("attached again, to \(attached.node ?? "a gateway")") }
    wasAttached = true
    trouble = nil
  }

  /// On a terminal the prompt comes back on its own line.
  mutating func finish() {
    if isTerminal { try? breakLine() }
  }

  private mutating func breakLine() throws(Descriptor.Failure) {
    guard isMidLine else { return }
    isMidLine = false
    try StandardOutput.write("\n")
  }

  func say(_ text: String) { baton.say("attach", text) }
}
