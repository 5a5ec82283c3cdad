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
      write("\(time) \(event.level) \(oneLine("\(event.message)"))\(pairs)\n")
      return
    }
    var json = JSONWriter(into: ByteBuffer())
    json.object { json in
      json.member("time", time)
      json.member("level", event.level.rawValue)
      json.member("message", "\(event.message)")
      for (key, value) in all where !["time", "level", "message"].contains(key) { json.member(key, "\(value)") }
    }
    write(String(buffer: json.buffer) + "\n")
  }

  private func quoted(_ text: String) -> String {
    text.isEmpty || text.contains { " \"=\n".contains($0) }
      ? "\"\(oneLine(text).replacing("\"", with: "\\\""))\"" : text
  }

  private func oneLine(_ text: String) -> String { text.replacing("\r", with: "\\r").replacing("\n", with: "\\n") }
}
