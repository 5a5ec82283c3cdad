/// What a node does for others (`--roles`).
package struct NodeRoles: OptionSet, Sendable {
  package let rawValue: UInt8

  package init(rawValue: UInt8) { self.rawValue = rawValue }

  /// Devices attach.
  package static let attach = NodeRoles(rawValue: 1)
  /// Model servers and backends are asked, and their answers appended.
  package static let relay = NodeRoles(rawValue: 2)
  package static let all: NodeRoles = [.attach, .relay]

  package static let words: KeyValuePairs = ["attach": attach, "relay": relay]

  /// Nil for any other word.
  package init?(_ word: String) {
    guard let role = Self.words.first(where: { $0.key == word })?.value else { return nil }
    self = role
  }
}

extension Problem {
  static let attachesNobody = Problem(
    .misdirectedRequest, "wrong-role",
    "This node relays, and nobody attaches to it (--roles relay): attach to another one. Whatever balances between nodes should know."
  )

  static let relaysNothing = Problem(
    .misdirectedRequest, "wrong-role",
    "This node asks no model server and no backend (--roles attach): ask another one. Whatever balances between nodes should know."
  )
}
