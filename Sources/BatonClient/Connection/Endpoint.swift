import Foundation
import NIOHTTP1

/// Where a gateway is: `http`, `https`, `ws` or `wss`, a host, a port, and the path that the gateway is mounted at.
struct Endpoint: Equatable, Sendable {
  let isSecure: Bool
  let host: String
  let port: Int
  private let path: String

  init?(_ text: String) {
    guard let url = URLComponents(string: text), let scheme = url.scheme?.lowercased(),
      ["http", "https", "ws", "wss"].contains(scheme), let host = url.host, !host.isEmpty,
      url.query == nil, url.fragment == nil, url.user == nil
    else { return nil }
    isSecure = scheme == "https" || scheme == "wss"
    let port = url.port ?? (isSecure ? 443 : 80)
    guard (1...65535).contains(port) else { return nil }
    self.port = port
    self.host = host.hasPrefix("[") ? String(host.dropFirst().dropLast()) : host
    path = url.percentEncodedPath.hasSuffix("/") ? String(url.percentEncodedPath.dropLast()) : url.percentEncodedPath
  }

  /// The value of the header `Host`.
  var authority: String {
    let name = host.contains(":") ? "[\(host)]" : host
    return port == (isSecure ? 443 : 80) ? name : "\(name):\(port)"
  }

  /// Path and query of an attach.
  func target(session: String, query: [ClientMachine.Parameter]) -> String {
    var unreserved = CharacterSet.alphanumerics
    unreserved.insert(charactersIn: "-._~:@$")
    func encoded(_ text: String) -> String { text.addingPercentEncoding(withAllowedCharacters: unreserved) ?? "" }
    let parameters = query.map { "\(encoded($0.name))=\(encoded($0.value))" }.joined(separator: "&")
    return "\(path)/v1/sessions/\(encoded(session))?\(parameters)"
  }
}
