import BatonProtocol

/// A response's name as OpenAI's clients know it: `<response>~<session>`, or without the session where that has the same
/// name. No look-up is needed, and every node serves it. Those that the relay gives out are `resp_<24 hex>`.
struct OpenAIResponseID: CustomStringConvertible {
  let response: String
  let session: SessionName

  init(response: String, session: SessionName) { (self.response, self.session) = (response, session) }

  /// Nil for what is no name; without a session, for what no gateway has given out.
  init?(_ text: String) {
    let parts = text.split(separator: "~", maxSplits: 1, omittingEmptySubsequences: false).map(String.init)
    guard let session = SessionName(parts[parts.count - 1]), SessionName(parts[0]) != nil else { return nil }
    self.init(response: parts[0], session: session)
    if parts.count == 1, !isOfRelay { return nil }
  }

  /// Whether a relay may have made the response.
  var isOfRelay: Bool {
    let digits = response.dropFirst("resp_".count)
    return response.hasPrefix("resp_") && digits.count == 24 && digits.allSatisfy { $0.isHexDigit && !$0.isUppercase }
  }

  var description: String { session.description == response ? response : "\(response)~\(session)" }
}
