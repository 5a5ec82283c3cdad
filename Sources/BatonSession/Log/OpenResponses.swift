import BatonProtocol

/// Which responses of the retained history have begun and not ended (PROTOCOL 3, `until=end`).
package struct OpenResponses: Sendable {
  private var open: Set<String> = []
  private var ended: Set<String> = []

  package init() {}

  package var isEmpty: Bool { open.isEmpty }

  /// A response is open from its first retained entry to its end; entries without `response` open nothing.
  package mutating func note(_ entry: Entry) {
    guard let response = entry.response else { return }
    if entry.endsResponse {
      open.remove(response)
      ended.insert(response)
    } else if !ended.contains(response) {
      open.insert(response)
    }
  }
}
