import BatonProtocol
import BatonStore
import Foundation
import NIOCore

/// What a webhook's body says (PROTOCOL 12).
package struct WebhookMessage: Sendable {
  package let record: WebhookRecord
  /// Nil where it was trimmed.
  package var entry: Entry?
  /// All of the answer's text; nil where it is too long, or not there any more.
  package var text: ByteBuffer?

  init(record: WebhookRecord) { self.record = record }

  /// - Parameter publicURL: before the paths of the gateways; nil where it is not known.
  func json(publicURL: String?) -> ByteBuffer {
    var json = JSONWriter(into: ByteBuffer())
    json.object { json in
      json.member("type", record.event)
      json.member("timestamp", timestamp)
      json.name("data")
      json.object { json in
        if let tenant = record.session.tenant { json.member("tenant", tenant) }
        json.member("session", record.session.description)
        if let response = record.response { json.member("response", response) }
        json.member("offset", entry?.offset.description ?? record.id.description)
        if let reason { json.member("reason", reason) }
        if let text {
          json.name("text")
          json.value(utf8: text)
        }
        json.member("url", url(publicURL))
        if let entry {
          json.name("entry")
          EntryFrames.write(entry, into: &json)
        }
      }
    }
    return json.buffer
  }

  /// When the entry was appended (RFC 3339).
  private var timestamp: String {
    let (seconds, milliseconds) = record.id.milliseconds.quotientAndRemainder(dividingBy: 1000)
    let text = Date(timeIntervalSince1970: Double(seconds)).ISO8601Format().dropLast()
    return "\(text).\(String(milliseconds + 1000).dropFirst())Z"
  }

  /// What the end's data, where it is JSON, says of why.
  private var reason: String? {
    guard record.event != "input", case .text(let data) = entry?.payload, let members = JSONValue(data)?.members else {
      return nil
    }
    return members["reason"]?.text ?? members["finish_reason"]?.text ?? members["finishReason"]?.text
  }

  /// The characters of both names stand for themselves in a URL.
  private func url(_ publicURL: String?) -> String {
    let base = publicURL.map { $0.hasSuffix("/") ? String($0.dropLast()) : $0 } ?? ""
    return "\(base)/v1/sessions/\(record.session)" + (record.response.map { "?response=\($0)" } ?? "")
  }
}
