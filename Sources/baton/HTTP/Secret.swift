import Foundation

/// A key or token as it stands in a file or variable, for a header: without the white space around it.
enum Secret {
  /// - Throws: `PublishFailure` that does not show it. Nil where nothing is left.
  static func header(_ text: String?, from source: String) throws(PublishFailure) -> String? {
    guard let trimmed = text?.trimmingCharacters(in: .whitespacesAndNewlines), !trimmed.isEmpty else { return nil }
    guard trimmed.utf8.allSatisfy({ (0x20...0x7E).contains($0) }) else {
      throw .configuration("\(source) has a character in it that no key has, such as a line break")
    }
    return trimmed
  }
}
