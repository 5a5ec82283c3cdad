import BatonProtocol

/// A session's keys, in the script's order.
package struct SessionKeys: Sendable, Equatable {
  package let stream: String
  /// A hash: a field per response (``ResponseRecord``), and the generation of the last deletion.
  package let producers: String
  /// A stream, devices to producers.
  package let inbox: String
  /// A hash of idempotency keys.
  package let keys: String
  /// A hash of what is asked, or waits to be: ``QuestionLine``. None of the script's.
  package let questions: String

  package init(_ session: SessionName, prefix: String) {
    stream = session.key(prefix: prefix)
    producers = stream + ":producers"
    inbox = stream + ":inbox"
    keys = stream + ":keys"
    questions = stream + ":questions"
  }

  package var all: [String] { [stream, producers, inbox, keys] }
}

extension SessionName {
  /// The session's stream: the braces keep all keys of a session in one Redis Cluster slot.
  package func key(prefix: String) -> String { "\(prefix){\(qualified)}" }

  /// The session of a key that holds its entries or what was sent to it; nil for any other key, its state's among them:
  /// of a deleted session a tombstone stays.
  package init?(contentKey key: String, prefix: String) {
    let suffix = [":inbox", ":keys"].first { key.hasSuffix("}" + $0) } ?? ""
    self.init(key: String(key.dropLast(suffix.count)), prefix: prefix)
  }

  /// What keys of sessions match whose qualified names begin so (`SCAN`).
  package static func pattern(of names: String, prefix: String) -> String {
    let special: Set<Character> = ["*", "?", "[", "]", "^", "\\"]
    return prefix.map { special.contains($0) ? "\\\($0)" : "\($0)" }.joined() + "{\(names)*"
  }

  /// The session of a stream's key; nil for any other key.
  package init?(key: String, prefix: String) {
    guard key.hasPrefix(prefix), key.hasSuffix("}") else { return nil }
    let rest = key.dropFirst(prefix.count)
    guard rest.hasPrefix("{") else { return nil }
    self.init(qualified: String(rest.dropFirst().dropLast()))
  }
}
