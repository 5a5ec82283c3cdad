import Foundation
import NIOHTTP1

/// The client's side of the opening handshake (RFC 6455 section 4.1). No extension is ever offered.
package struct ClientHandshake: Sendable {
  package let request: HTTPRequestHead
  private let key: String
  private let subprotocols: [String]

  package enum Failure: Error, Equatable, Sendable {
    /// The server answered with another status than 101.
    case refused(HTTPResponseStatus)
    /// The server's 101 is not that of a WebSocket server; the text says why.
    case invalid(String)
  }

  /// - Parameters:
  ///   - host: the value of `Host`, with the port where it is not the scheme's own.
  ///   - target: path and query.
  ///   - headers: more headers, such as `Authorization`.
  ///   - random: where the key comes from.
  package init(
    host: String, target: String, subprotocols: [String] = [], headers: HTTPHeaders = [:],
    random: inout some RandomNumberGenerator
  ) {
    key = Data((0..<16).map { _ in UInt8.random(in: .min ... .max, using: &random) }).base64EncodedString()
    self.subprotocols = subprotocols
    var all: HTTPHeaders = [
      "Host": host, "Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13",
      "Sec-WebSocket-Key": key,
    ]
    if !subprotocols.isEmpty {
      all.add(name: "Sec-WebSocket-Protocol", value: subprotocols.joined(separator: ", "))
    }
    all.add(contentsOf: headers)
    request = HTTPRequestHead(version: .http1_1, method: .GET, uri: target, headers: all)
  }

  /// The subprotocol that the server chose, if any.
  package func check(_ answer: HTTPResponseHead) throws(Failure) -> String? {
    guard answer.status == .switchingProtocols else { throw .refused(answer.status) }
    let headers = answer.headers
    guard headers.hasMember("Upgrade", "websocket"), headers.hasMember("Connection", "upgrade") else {
      throw .invalid("the answer does not upgrade to websocket")
    }
    guard headers["Sec-WebSocket-Accept"] == [Handshake.accept(forKey: key)] else {
      throw .invalid("Sec-WebSocket-Accept does not fit the key")
    }
    guard headers["Sec-WebSocket-Extensions"].isEmpty else {
      throw .invalid("the server uses an extension that was not offered")
    }
    let chosen = headers["Sec-WebSocket-Protocol"]
    guard chosen.count <= 1, chosen.allSatisfy(subprotocols.contains) else {
      throw .invalid("the server chose a subprotocol that was not offered")
    }
    return chosen.first
  }
}
