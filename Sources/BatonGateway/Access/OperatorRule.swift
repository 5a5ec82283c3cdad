import HTTPTypes

/// Who may read /metrics: whoever knows the secret; without one, who asks directly from a private address.
package struct OperatorRule: Sendable {
  package var secret: [UInt8]?

  package init(secret: [UInt8]? = nil) { self.secret = secret }

  /// - Throws: `Problem` 401, 403.
  package func check(_ headers: HTTPFields, from address: PeerAddress?) throws(Problem) {
    if let secret {
      let token = try Authenticator.token(authorization: headers[.authorization], query: Query(nil))
      guard let token, OperatorRule.isEqual(Array(token.utf8), secret) else {
        throw .unauthenticated(
          "Metrics are for who knows the content of --metrics-secret-file: Authorization: Bearer SECRET.")
      }
      return
    }
    let isForwarded = headers.contains {
      ["forwarded", "x-forwarded-for", "via"].contains($0.name.canonicalName)
    }
    guard !isForwarded, address?.isPrivate ?? true else {
      throw Problem(
        .forbidden, "metrics-not-allowed",
        "Metrics are for who asks the gateway directly from a private address; give --metrics-secret-file for others.")
    }
  }

  /// Takes as long wherever they differ.
  private static func isEqual(_ a: [UInt8], _ b: [UInt8]) -> Bool {
    guard a.count == b.count else { return false }
    return zip(a, b).reduce(0) { $0 | ($1.0 ^ $1.1) } == 0
  }
}
