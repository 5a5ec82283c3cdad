import Foundation
import NIOHTTP1

/// Rules that both ends of the opening handshake share (RFC 6455 section 4).
enum Handshake {
  /// `Sec-WebSocket-Accept` for a `Sec-WebSocket-Key`.
  static func accept(forKey key: String) -> String {
    Data(SHA1.hash((key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11").utf8)).base64EncodedString()
  }

  /// Whether the text is a token (RFC 9110 section 5.6.2).
  static func isToken(_ text: some StringProtocol) -> Bool {
    !text.isEmpty
      && text.utf8.allSatisfy { byte in
        switch byte {
        case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"),
          UInt8(ascii: "0")...UInt8(ascii: "9"):
          true
        default:
          "!#$%&'*+-.^_`|~".utf8.contains(byte)
        }
      }
  }
}

extension HTTPHeaders {
  /// The members of a comma list, over all fields of that name (RFC 9110 section 5.6.1).
  func members(_ name: String) -> [String] {
    var members: [String] = []
    for field in self[name] {
      for member in field.utf8.split(separator: UInt8(ascii: ",")) {
        let trimmed = member.drop(while: Self.isSpace)
        guard let last = trimmed.lastIndex(where: { !Self.isSpace($0) }) else { continue }
        members.append(String(Substring(trimmed[...last])))
      }
    }
    return members
  }

  /// RFC 9110 section 5.6.3.
  private static func isSpace(_ byte: UInt8) -> Bool { byte == UInt8(ascii: " ") || byte == UInt8(ascii: "\t") }

  /// - Parameter member: in lower case; whatever the case of the header's.
  func hasMember(_ name: String, _ member: String) -> Bool {
    members(name).contains { $0.utf8.count == member.utf8.count && $0.lowercased() == member }
  }
}
