/// What a request shows of who sends it: a token, or what the app is asked with (PROTOCOL 3).
package struct Credentials: Sendable, Equatable {
  package struct Header: Sendable, Equatable {
    package var name: String
    package var value: String
  }

  /// Names and values of the headers that the app is asked with, in bytes.
  package static let longestHeaders = 8 << 10

  package var token: String?
  /// Nil: the app is not asked.
  package var headers: [Header]?

  package init(token: String? = nil, headers: [Header]? = nil) { (self.token, self.headers) = (token, headers) }

  /// - Parameter values: the values of a request's header by its name in lower case.
  /// - Throws: `Problem` 401.
  init(
    passingOn names: [String], of values: (String) -> [String], token: String?
  ) throws(Problem) {
    var headers: [Header] = []
    for name in names {
      let all = values(name)
      if !all.isEmpty {
        headers.append(Header(name: name, value: all.joined(separator: name == "cookie" ? "; " : ", ")))
      }
    }
    self.init(headers: headers)
    if let token, values("authorization").isEmpty { try present(token) }
    let bytes = headers.reduce(0) { $0 + $1.name.utf8.count + $1.value.utf8.count }
    guard bytes <= Credentials.longestHeaders else {
      throw .unauthenticated(
        "The cookies and headers to ask the app with are over \(Credentials.longestHeaders) bytes.")
    }
  }

  /// In place of what `Authorization` said.
  mutating func present(_ token: String) throws(Problem) {
    guard token.utf8.allSatisfy({ (0x21...0x7E).contains($0) }), token.utf8.count <= Authenticator.longestToken else {
      throw .unauthenticated(
        "The token holds characters that none may, or more than \(Authenticator.longestToken) bytes.")
    }
    headers?.removeAll { $0.name == "authorization" }
    headers?.append(Header(name: "authorization", value: "Bearer \(token)"))
  }

  /// The same for the same headers only.
  var key: String {
    (headers ?? []).map { "\($0.name):\($0.value.utf8.count):\($0.value)" }.joined(separator: "\n")
  }
}
