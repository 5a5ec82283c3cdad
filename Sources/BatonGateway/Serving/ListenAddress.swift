import BatonProtocol
import Foundation
import NIOCore

/// Where a gateway listens: `HOST:PORT`, `[::1]:8080`, or `unix:/run/baton.sock`.
package enum ListenAddress: Sendable, Equatable, CustomStringConvertible {
  /// Port 0 picks a free one.
  case tcp(host: String, port: Int)
  case unix(path: String)

  /// Nil where the text has neither form.
  package init?(_ text: String) {
    if text.hasPrefix("unix:") {
      let path = String(text.dropFirst(text.hasPrefix("unix://") ? 7 : 5))
      guard path.hasPrefix("/"), path.utf8.count <= ListenAddress.maxPathBytes else { return nil }
      self = .unix(path: path)
      return
    }
    guard let colon = text.lastIndex(of: ":"), let port = UInt16(text[text.index(after: colon)...]) else { return nil }
    let host = text[..<colon].trimmingCharacters(in: ["[", "]"])
    self = .tcp(host: host.isEmpty ? "0.0.0.0" : host, port: Int(port))
  }

  /// Of a socket's path: 107 bytes and a zero (unix(7)).
  static let maxPathBytes = 107

  package var description: String {
    switch self {
    case .tcp(let host, let port): "\(host.contains(":") ? "[\(host)]" : host):\(port)"
    case .unix(let path): "unix:\(path)"
    }
  }

  /// Only programs on this machine reach it.
  package var isLocal: Bool {
    switch self {
    case .tcp(let host, _): ListenAddress.isLoopback(host)
    case .unix: true
    }
  }

  package static func isLoopback(_ host: String) -> Bool {
    host == "localhost" || host == "::1" || (try? SocketAddress(ipAddress: host, port: 0)).map(\.isIPv4Loopback) == true
  }

  /// A socket that nobody listens on any more is taken over; one that is in use, or a file of another kind, is not.
  package var isTaken: Bool {
    guard case .unix(let path) = self else { return false }
    var status = stat()
    guard lstat(path, &status) == 0 else { return false }
    guard status.st_mode & S_IFMT == S_IFSOCK else { return true }
    return UnixSocket.accepts(path)
  }
}

extension SocketAddress {
  fileprivate var isIPv4Loopback: Bool {
    guard case .v4(let address) = self else { return false }
    return UInt32(bigEndian: address.address.sin_addr.s_addr) >> 24 == 127
  }
}
