import BatonProtocol

/// One broken promise of section 10. It names places and numbers, never text.
package struct Finding: Sendable, Equatable {
  package enum Kind: String, Sendable, CaseIterable {
    /// Acknowledged and not in the stream, or in the stream and passed over before a device.
    case lost
    /// More than once in the stream, or shown more than once.
    case doubled
    /// After something that it comes before.
    case reordered
    /// Nobody meant it, it is another session's, or its check is wrong.
    case foreign
    /// A hole or another history without a `reset` or `skipped` that says so.
    case undisclosed
    /// Later than was allowed, on a device that was live.
    case late
  }

  package var kind: Kind
  package var session: String
  /// The device that it was seen on, as its recording names it; nil for the stream itself.
  package var device: String?
  package var offset: Offset?
  package var response: String?
  /// The number of the delta, or of the last one of a frame.
  package var n: UInt64?
  /// What is wrong.
  package var detail: String
}

extension Finding: CustomStringConvertible {
  package var description: String {
    var words = [kind.rawValue, "session=\(session)", device.map { "device=\($0)" } ?? "stream"]
    if let offset { words.append("offset=\(offset)") }
    if let response { words.append("response=\(response)") }
    if let n { words.append("n=\(n)") }
    return words.joined(separator: " ") + ": " + detail
  }
}
