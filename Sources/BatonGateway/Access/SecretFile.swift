import Foundation

/// The key of the tokens.
package enum SecretFile {
  /// In bytes: HS256 asks for as many as its digest has (RFC 7518 section 3.2).
  package static let leastBytes = 32
  /// Of a secret that is only compared.
  static let leastWordBytes = 16

  /// The file's content without the line end that editors add.
  package static func read<E: Error>(
    _ path: String, atLeast leastBytes: Int = leastBytes, objection: (String) -> E
  ) throws(E) -> [UInt8] {
    guard let data = FileManager.default.contents(atPath: path) else { throw objection("\(path) can't be read") }
    var bytes = [UInt8](data)
    while let last = bytes.last, last == 10 || last == 13 { bytes.removeLast() }
    guard bytes.count >= leastBytes else {
      throw objection("\(path) must hold at least \(leastBytes) bytes; for example from: openssl rand -base64 48")
    }
    return bytes
  }
}
