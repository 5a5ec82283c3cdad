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
    var members: [(String, String)] = []
    if let finishReason { members.append(("finish_reason", LenientJSON.quoted(finishReason))) }
    if let message { members.append(("message", LenientJSON.quoted(message))) }
    if !notShown.isEmpty {
      members.append(("not_shown", "[\(notShown.map(LenientJSON.quoted).joined(separator: ","))]"))
    }
    if let reason { members.append(("reason", LenientJSON.quoted(reason.rawValue))) }
    if let status { members.append(("status", "\(status)")) }
    if let usage = usage?.json, usage.utf8.count <= Self.usageLimit { members.append(("usage", usage)) }
    return "{\(members.map { LenientJSON.quoted($0) + ":" + $1 }.joined(separator: ","))}"
  }
}
