import BatonProtocol
import Foundation
import JWTKit
import NIOCore

/// The keys that tokens may be signed with. Each is for one algorithm, which the configuration says and no token.
package struct TokenKeys: Sendable {
  private struct Key: Sendable {
    /// Nil: for tokens with any `kid`, and without.
    let id: String?
    let algorithm: any JWTAlgorithm
  }

  /// What of RFC 7518 section 3.1 and RFC 8037 is known; the HMAC ones first.
  package static let algorithms = ["HS256", "HS384", "HS512", "RS256", "PS256", "ES256", "ES384", "EdDSA"]

  private var keys: [Key] = []

  package init() {}

  package var isEmpty: Bool { keys.isEmpty }

  func joined(_ others: TokenKeys?) -> TokenKeys {
    var all = self
    all.keys += others?.keys ?? []
    return all
  }

  /// - Parameters:
  ///   - secret: at least `leastSecretBytes`; the library traps in debug builds on shorter ones.
  ///   - algorithm: `HS256`, `HS384` or `HS512`.
  package mutating func add(secret: [UInt8], algorithm: String = "HS256", id: String? = nil) async throws {
    let digest: DigestAlgorithm =
      switch algorithm {
      case "HS384": .sha384
      case "HS512": .sha512
      default: .sha256
      }
    let collection = JWTKeyCollection()
    await collection.add(hmac: HMACKey(from: secret), digestAlgorithm: digest)
    keys.append(Key(id: id, algorithm: try await collection.getKey()))
  }

  /// As many as the digest has (RFC 7518 section 3.2).
  package static func leastSecretBytes(_ algorithm: String) -> Int {
    ["HS384": 48, "HS512": 64][algorithm] ?? 32
  }

  /// Adds the keys of a JWK set (RFC 7517); those of another use, type or algorithm are left out.
  ///
  /// - Returns: why there are none; nil where there are some.
  package mutating func add(jwks: Data) async -> String? {
    guard let set = (try? JSONSerialization.jsonObject(with: jwks)) as? [String: Any], let all = set["keys"] as? [Any]
    else { return "is no JWK set: a JSON object whose member keys is an array (RFC 7517 section 5)" }
    let before = keys.count
    var objections: [String] = []
    for case let one as [String: Any] in all {
      let id = one["kid"] as? String
      do {
        if let objection = try await add(one, id) { objections.append(objection) }
      } catch {
        objections.append("the key \(id ?? "without kid") can't be read: \(error)")
      }
    }
    if keys.count > before { return nil }
    return "holds no key that can be used" + (objections.first.map { ": \($0)" } ?? "")
  }

  /// - Returns: why it is left out.
  private mutating func add(_ one: [String: Any], _ id: String?) async throws -> String? {
    let name = id ?? "without kid"
    if let use = one["use"] as? String, use != "sig" { return "the key \(name) is not for signatures" }
    let curve = one["crv"] as? String
    let implied =
      switch one["kty"] as? String {
      case "oct": "HS256"
      case "RSA": "RS256"
      case "EC": curve == "P-384" ? "ES384" : "ES256"
      case "OKP": "EdDSA"
      default: ""
      }
    let algorithm = one["alg"] as? String ?? implied
    guard TokenKeys.algorithms.contains(algorithm) else {
      return "the key \(name) is for \(algorithm.isEmpty ? "an unknown type" : algorithm); known are "
        + TokenKeys.algorithms.joined(separator: ", ")
    }
    if one["kty"] as? String == "oct" {
      guard let text = one["k"] as? String, let bytes = Data(base64URL: text[...]), algorithm.hasPrefix("HS"),
        bytes.count >= TokenKeys.leastSecretBytes(algorithm)
      else {
        return "the key \(name) needs k with \(TokenKeys.leastSecretBytes(algorithm)) bytes or more in base64url"
      }
      try await add(secret: Array(bytes), algorithm: algorithm, id: id)
      return nil
    }
    var json = one
    json["alg"] = algorithm
    json["kid"] = id ?? ""
    // Only what verifies: the set may hold private keys.
    for member in ["d", "p", "q", "dp", "dq", "qi", "oth"] { json[member] = nil }
    let key = try JSONDecoder().decode(JWK.self, from: JSONSerialization.data(withJSONObject: json))
    let collection = JWTKeyCollection()
    try await collection.add(jwk: key)
    let verifier = try await collection.getKey(for: key.keyIdentifier, alg: algorithm)
    guard verifier.name == algorithm else { return "the key \(name) is not for \(algorithm)" }
    keys.append(Key(id: id, algorithm: verifier))
    return nil
  }

  /// Whether some key could have signed it, as the header says, and which of these has.
  package enum Verdict { case signed, forged, noKey }

  package func verify(_ signature: Data, of text: Data, algorithm: String, id: String?) -> Verdict {
    let fitting = keys.filter { $0.algorithm.name == algorithm && ($0.id == nil || id == nil || $0.id == id) }
    if fitting.isEmpty { return .noKey }
    return fitting.contains { (try? $0.algorithm.verify(signature, signs: text)) == true } ? .signed : .forged
  }

  /// For what the operator and the caller are told.
  package var known: [String] { Set(keys.map(\.algorithm.name)).sorted() }
}

extension Data {
  /// RFC 4648 section 5, without padding.
  init?(base64URL text: Substring) {
    let isWellFormed = text.utf8.allSatisfy { byte in
      switch byte {
      case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"),
        UInt8(ascii: "0")...UInt8(ascii: "9"), UInt8(ascii: "-"), UInt8(ascii: "_"):
        true
      default: false
      }
    }
    guard isWellFormed else { return nil }
    let standard = String(text.map { $0 == "-" ? "+" : $0 == "_" ? "/" : $0 })
    self.init(base64Encoded: standard + String(repeating: "=", count: (4 - standard.utf8.count % 4) % 4))
  }
}

/// Where the keys come from.
package struct TokenKeySources: Sendable, Equatable {
  package var secretPath: String?
  /// The secret itself, where it has no path.
  package var secret: [UInt8]?
  package var algorithm = "HS256"
  package var jwksPath: String?

  package var isEmpty: Bool { secretPath == nil && secret == nil && jwksPath == nil }

  package struct Objection: Error, Equatable {
    /// The option that is to be mended.
    package let option: String
    package let text: String
  }

  /// - Throws: `Objection`.
  package func read() async throws -> TokenKeys {
    var keys = TokenKeys()
    let least = TokenKeys.leastSecretBytes(algorithm)
    func objection(_ text: String) -> Objection { Objection(option: "auth-secret-file", text: text) }
    if let secretPath {
      let secret = try SecretFile.read(secretPath, atLeast: least, objection: objection)
      try await keys.add(secret: secret, algorithm: algorithm)
    } else if let secret {
      let key = try SecretFile.read(secret, of: "or \(SecretFile.variable)", atLeast: least, objection: objection)
      try await keys.add(secret: key, algorithm: algorithm)
    }
    if let jwksPath {
      guard let data = FileManager.default.contents(atPath: jwksPath) else {
        throw Objection(option: "auth-jwks", text: "\(jwksPath) can't be read")
      }
      if let objection = await keys.add(jwks: data) {
        throw Objection(option: "auth-jwks", text: "\(jwksPath) \(objection)")
      }
    }
    return keys
  }
}
