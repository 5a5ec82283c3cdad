import Foundation

/// The key of the tokens.
package enum SecretFile {
  /// Of the environment: the key itself, where there is no file. No option, so that no flag and no table shows it.
  package static let variable = "BATON_AUTH_SECRET"

  /// The variable's content; nil where there is none.
  package static func fromEnvironment() -> [UInt8]? {
    ProcessInfo.processInfo.environment[variable].flatMap { $0.isEmpty ? nil : Array($0.utf8) }
  }

  /// In bytes: HS256 asks for as many as its digest has (RFC 7518 section 3.2).
  package static let leastBytes = 32
  /// Of a secret that is only compared.
  static let leastWordBytes = 16

  /// The file's content without the line end that editors add.
  package static func read<E: Error>(
    _ path: String, atLeast leastBytes: Int = leastBytes, objection: (String) -> E
  ) throws(E) -> [UInt8] {
    guard let data = FileManager.default.contents(atPath: path) else { throw objection("\(path) can't be read") }
    return try read([UInt8](data), of: path, atLeast: leastBytes, objection: objection)
  }

  /// - Parameter name: of what holds it.
  package static func read<E: Error>(
    _ content: [UInt8], of name: String, atLeast leastBytes: Int = leastBytes, objection: (String) -> E
  ) throws(E) -> [UInt8] {
    var bytes = content
    while let last = bytes.last, last == 10 || last == 13 { bytes.removeLast() }
    guard bytes.count >= leastBytes else {
      throw objection("\(name) must hold at least \(leastBytes) bytes; for example from: openssl rand -base64 48")
    }
    return bytes
  }
}
