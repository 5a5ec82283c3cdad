import BatonProtocol
import NIOCore

/// How a model's answer ends in its session (PROTOCOL 2).
package struct UpstreamEnd: Sendable, Equatable {
  /// Why it is not whole; the raw values are `reason` in the response's `error`.
  package enum Reason: String, Sendable {
    /// The server refused, or told of an error.
    case error = "model_error"
    /// The answer broke off.
    case cut = "model_cut"
    /// There was no connection.
    case unreachable = "model_unreachable"
    /// What published it failed.
    case producer = "producer_error"
  }

  /// Nil: it is whole.
  package var reason: Reason?
  package var message: String?
  /// The HTTP status of a refusal.
  package var status: Int?
  package var finishReason: String?
  package var usage: LenientJSON?
  /// Kinds of content that came and are no text.
  package var notShown: [String] = []

  /// Bytes of a usage that is passed on.
  static let usageLimit = 16 << 10

  package init(reason: Reason? = nil, message: String? = nil) { (self.reason, self.message) = (reason, message) }

  /// The ending entry's `data`; names in their order.
  package var data: String {
    var json = JSONWriter(into: ByteBuffer())
    json.object { json in
      if let finishReason { json.member("finish_reason", finishReason) }
      if let message { json.member("message", message) }
      if !notShown.isEmpty {
        json.name("not_shown")
        json.array { json in for kind in notShown { json.value(kind) } }
      }
      if let reason { json.member("reason", reason.rawValue) }
      if let status { json.member("status", status) }
      if let usage = usage?.json, usage.utf8.count <= Self.usageLimit {
        json.name("usage")
        json.value(json: ByteBuffer(string: usage))
      }
    }
    return String(buffer: json.buffer)
  }
}
