import BatonProtocol

/// A response's name as OpenAI's clients know it: `resp_<24 hex>~<session>`, or without the session where that has the same
/// name. No look-up is needed, and every node serves it.
struct OpenAIResponseID: CustomStringConvertible {
  let response: String
  let session: SessionName

  init(response: String, session: SessionName) { (self.response, self.session) = (response, session) }

  /// Nil for what no gateway has given out.
  init?(_ text: String) {
    let parts = text.split(separator: "~", maxSplits: 1, omittingEmptySubsequences: false)
    let digits = parts[0].dropFirst("resp_".count)
    guard parts[0].hasPrefix("resp_"), digits.count == 24, digits.allSatisfy({ $0.isHexDigit && !$0.isUppercase }),
      let session = SessionName(String(parts.last ?? ""))
    else { return nil }
    self.init(response: String(parts[0]), session: session)
  }

  var description: String { session.description == response ? response : "\(response)~\(session)" }
}
