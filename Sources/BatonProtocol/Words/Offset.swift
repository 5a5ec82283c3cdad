/// A place in the stream: an entry's id and, where it is known, the entry's check. "From an offset" always means *after* it.
public struct Offset: Hashable, Sendable {
  public var id: EntryID
  /// CRC-32 over the entry (PROTOCOL 1); nil where only the id is known, which proves nothing.
  public var check: UInt32?

  /// The start: before the first entry.
  public static let zero = Offset(id: .zero, check: nil)

  public init(id: EntryID, check: UInt32? = nil) {
    self.id = id
    self.check = check
  }

  /// Reads `0`, `<ms>-<seq>` or `<ms>-<seq>.<check>` (8 hex digits, either case); `0-0` is `0`. Nil for anything else.
  public init?(_ text: some StringProtocol) {
    if text == "0" {
      self = .zero
      return
    }
    let parts = text.split(separator: ".", maxSplits: 1, omittingEmptySubsequences: false)
    guard let id = EntryID(parts[0]) else { return nil }
    guard parts.count == 2 else {
      self.init(id: id)
      return
    }
    guard parts[1].utf8.count == 8, parts[1].utf8.allSatisfy({ Character(UnicodeScalar($0)).isHexDigit }),
      let check = UInt32(parts[1], radix: 16)
    else { return nil }
    self = id == .zero ? .zero : Offset(id: id, check: check)
  }

  /// Whether an entry here and one there can be the same: the ids are equal and no known check contradicts.
  package func matches(_ other: Offset) -> Bool {
    guard id == other.id else { return false }
    guard let check, let theirs = other.check else { return true }
    return check == theirs
  }
}

extension Offset: CustomStringConvertible {
  public var description: String {
    if id == .zero { return "0" }
    guard let check else { return id.description }
    return "\(id).\(String(check, radix: 16).leftPadded(to: 8))"
  }
}

extension String {
  fileprivate func leftPadded(to width: Int) -> String {
    String(repeating: "0", count: Swift.max(0, width - utf8.count)) + self
  }
}
