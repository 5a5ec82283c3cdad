import BatonProtocol
import BatonSession
import Foundation
import Logging
import NIOCore

/// Writes each record as one line, text or JSON, on standard error.
package struct LogLines: LogHandler {
  package var logLevel: Logger.Level
  package var metadata: Logger.Metadata = [:]
  private let isJSON: Bool
  private let label: String
  private let write: @Sendable (String) -> Void

  package init(
    label: String, level: Logger.Level, isJSON: Bool,
    write: @escaping @Sendable (String) -> Void = { LineOutput.standardError.write($0) }
  ) {
    self.label = label
    logLevel = level
    self.isJSON = isJSON
    self.write = write
  }

  package subscript(metadataKey key: String) -> Logger.Metadata.Value? {
    get { metadata[key] }
    set { metadata[key] = newValue }
  }

  package func log(event: LogEvent) {
    let all = metadata.merging(event.metadata ?? [:]) { _, new in new }.sorted { $0.key < $1.key }
    let time = Date.now.ISO8601Format(.init(includingFractionalSeconds: true))
    guard isJSON else {
      let pairs = all.map { " \($0.key)=\(quoted("\($0.value)"))" }.joined()
      write("\(time) \(event.level) \(shown("\(event.message)"))\(pairs)\n")
      return
    }
    var json = JSONWriter(into: ByteBuffer())
    json.object { json in
      json.member("time", time)
      json.member("level", event.level.rawValue)
      json.member("message", shown("\(event.message)"))
      for (key, value) in all where !["time", "level", "message"].contains(key) { json.member(key, shown("\(value)")) }
    }
    write(String(buffer: json.buffer) + "\n")
  }

  private func quoted(_ text: String) -> String {
    let text = shown(text)
    return text.isEmpty || text.contains { " \"=".contains($0) }
      ? "\"\(text.replacing("\"", with: "\\\""))\"" : text
  }

  /// Characters of a message or a value.
  private static let most = 1000

  /// Others' words, Redis' among them: cut, and without what would be obeyed by a terminal, or make another line.
  private func shown(_ text: String) -> String {
    guard text.utf8.count > LogLines.most || !text.utf8.allSatisfy({ (0x20...0x7E).contains($0) }) else { return text }
    let scalars = text.unicodeScalars
    var shown = ""
    for scalar in scalars.prefix(LogLines.most) {
      switch scalar.properties.generalCategory {
      case .control, .format, .lineSeparator, .paragraphSeparator, .privateUse, .surrogate, .unassigned:
        shown += scalar == "\n" ? "\\n" : scalar == "\r" ? "\\r" : "\\u{\(String(scalar.value, radix: 16))}"
      case .spaceSeparator: shown += " "
      default: shown.unicodeScalars.append(scalar)
      }
    }
    let left = scalars.count - LogLines.most
    return left > 0 ? "\(shown)… (\(left) more)" : shown
  }
}
