/// What a server says of a failure, in whichever of the usual forms.
package enum UpstreamMessage {
  /// Characters of a message at the most.
  static let limit = 500

  /// Of an answer's body.
  package static func find(inBody body: some Collection<UInt8>) -> String? {
    let (values, _) = LenientJSON.values(body)
    if let found = values.lazy.compactMap(find).first { return found }
    let text = String(decoding: body, as: UTF8.self)
    if let title = text.firstMatch(of: /(?is)<title[^>]*>(.*?)<\/title>/) { return shortened(String(title.1)) }
    return values.isEmpty || !text.hasPrefix("{") ? shortened(text) : nil
  }

  /// Of an object that tells of an error.
  package static func find(_ json: LenientJSON) -> String? {
    switch json {
    case .string: return json.text.flatMap(shortened)
    case .array(let elements): return elements.lazy.compactMap(find).first
    case .object:
      let names = [
        "error", "message", "detail", "msg", "error_description", "error_message", "errors", "title", "reason",
      ]
      return names.lazy.compactMap { json[$0].flatMap(find) }.first
    case .number, .bool, .null: return nil
    }
  }

  /// One line of it.
  package static func shortened(_ text: String) -> String? {
    let words = text.split(whereSeparator: \.isWhitespace).joined(separator: " ")
    return words.isEmpty ? nil : words.count > limit ? words.prefix(limit) + "…" : words
  }

  /// The first 100 bytes of what could not be read.
  package static func excerpt(_ bytes: some Collection<UInt8>) -> String {
    let text = String(decoding: bytes.prefix(100), as: UTF8.self)
    return bytes.count > 100 ? text + "…" : text
  }
}
