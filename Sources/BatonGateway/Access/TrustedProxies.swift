import NIOCore

/// Proxies that are believed when they say whose request it is: by `X-Forwarded-For`, or by `Forwarded` (RFC 7239) where
/// there is none.
package struct TrustedProxies: Sendable, Equatable {
  /// An address, or the network around it (RFC 4632): `10.0.0.0/8`, `fd00::/8`, `192.0.2.7`.
  package struct Block: Sendable, Equatable {
    private let address: Bits
    private let length: Int

    /// Nil for what is none.
    package init?(_ text: String) {
      let parts = text.split(separator: "/", maxSplits: 1, omittingEmptySubsequences: false)
      guard let first = parts.first, let host = try? SocketAddress(ipAddress: String(first), port: 0),
        let address = Bits(host)
      else { return nil }
      let most = address.bytes.count * 8
      var length = most
      if parts.count == 2 {
        guard let given = Int(parts[1]), (0...most).contains(given) else { return nil }
        length = given
      }
      (self.address, self.length) = (address, length)
    }

    fileprivate func contains(_ other: Bits) -> Bool {
      guard address.bytes.count == other.bytes.count else { return false }
      let (whole, rest) = length.quotientAndRemainder(dividingBy: 8)
      return address.bytes[..<whole] == other.bytes[..<whole]
        && (rest == 0 || (address.bytes[whole] ^ other.bytes[whole]) >> (8 - rest) == 0)
    }
  }

  fileprivate struct Bits: Sendable, Equatable {
    /// 4 or 16.
    var bytes: [UInt8]

    private static let mapped = [UInt8](repeating: 0, count: 10) + [0xFF, 0xFF]

    init?(_ address: SocketAddress?) {
      switch address {
      case .v4(let address):
        bytes = withUnsafeBytes(of: address.address.sin_addr) { Array($0) }
      case .v6(let address):
        let host = withUnsafeBytes(of: address.address.sin6_addr) { Array($0) }
        // ::ffff:0:0/96 holds IPv4 addresses.
        bytes = host.starts(with: Self.mapped) ? Array(host.suffix(4)) : host
      case .unixDomainSocket, nil: return nil
      }
    }
  }

  /// Hops of one request that are looked at.
  package static let maxHops = 32

  private let blocks: [Block]

  package init(_ blocks: [Block] = []) { self.blocks = blocks }

  /// Whether a connection comes from one.
  package func contains(_ address: SocketAddress?) -> Bool {
    guard !blocks.isEmpty, let bits = Bits(address) else { return false }
    return blocks.contains { $0.contains(bits) }
  }

  /// Whose request it is: from the right, the first hop that is no proxy of ours. What stands left of it anybody may have
  /// written; a hop that is no address is the one before it.
  /// - Parameter values: of a header by its name in lower case.
  package func client(_ remote: SocketAddress?, _ values: (String) -> [String]) -> PeerAddress? {
    guard contains(remote) else { return PeerAddress(remote) }
    let forwarded = values("x-forwarded-for")
    let hops = forwarded.isEmpty ? values("forwarded").map(Self.forwarded) : forwarded
    var client = remote
    for hop in hops.joined(separator: ",").split(separator: ",").suffix(Self.maxHops).reversed() {
      guard let address = Self.address(hop) else { break }
      client = address
      if !contains(address) { break }
    }
    return PeerAddress(client)
  }

  /// `for` of each element, where it has one.
  private static func forwarded(_ value: String) -> String {
    value.split(separator: ",").map { element in
      let pairs = element.split(separator: ";").map { $0.trimmingBlanks }
      return pairs.first { $0.lowercased().hasPrefix("for=") }.map { String($0.dropFirst(4)) } ?? "unknown"
    }.joined(separator: ",")
  }

  /// Perhaps with a port: `192.0.2.7:80`, `[2001:db8::1]:80`, `"[2001:db8::1]"`.
  private static func address(_ hop: Substring) -> SocketAddress? {
    var host = hop.trimmingBlanks.filter { $0 != "\"" }[...]
    if host.hasPrefix("["), let end = host.firstIndex(of: "]") {
      host = host[host.index(after: host.startIndex)..<end]
    } else if host.count(where: { $0 == ":" }) == 1, let colon = host.firstIndex(of: ":") {
      host = host[..<colon]
    }
    guard !host.isEmpty, host.utf8.count <= 64 else { return nil }
    return try? SocketAddress(ipAddress: String(host), port: 0)
  }
}

extension StringProtocol {
  fileprivate var trimmingBlanks: String {
    var text = Substring(self)
    while let first = text.first, first == " " || first == "\t" { text.removeFirst() }
    while let last = text.last, last == " " || last == "\t" { text.removeLast() }
    return String(text)
  }
}
