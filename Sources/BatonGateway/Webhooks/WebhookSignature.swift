import Crypto
import Foundation
import NIOCore

/// A secret of Standard Webhooks: `whsec_` and 24 to 64 bytes in base64.
package struct WebhookSecret: Sendable {
  private let key: SymmetricKey

  /// Nil for anything else.
  package init?(_ text: some StringProtocol) {
    guard text.hasPrefix("whsec_"), let bytes = Data(base64Encoded: String(text.dropFirst(6))),
      (24...64).contains(bytes.count)
    else { return nil }
    key = SymmetricKey(data: bytes)
  }

  fileprivate func signature(of content: [UInt8]) -> String {
    "v1," + Data(HMAC<SHA256>.authenticationCode(for: content, using: key)).base64EncodedString()
  }

  /// `webhook-signature`: one for each secret.
  ///
  /// - Parameter timestamp: of the attempt, in seconds since 1970.
  package static func header(_ secrets: [WebhookSecret], id: String, timestamp: Int, body: ByteBuffer) -> String {
    let content = Array("\(id).\(timestamp).".utf8) + Array(body.readableBytesView)
    return secrets.map { $0.signature(of: content) }.joined(separator: " ")
  }
}

package enum WebhookID {
  /// The same for the same entry, whoever sends it and however often.
  package static func of(_ field: String) -> String { "msg_" + hex(field, 16) }

  /// By which a record is marked that an address has been told.
  package static func target(_ url: String) -> String { hex(url, 4) }

  private static func hex(_ text: String, _ bytes: Int) -> String {
    SHA256.hash(data: Array(text.utf8)).prefix(bytes).map { byte in
      let digits = String(byte, radix: 16)
      return digits.utf8.count < 2 ? "0" + digits : digits
    }.joined()
  }
}
