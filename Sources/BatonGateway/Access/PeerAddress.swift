import NIOCore

/// Who connects, as limits tell them apart: an IPv4 address, or the network that an IPv6 host chooses its address in
/// (RFC 4291 section 2.5.1).
package struct PeerAddress: Hashable, Sendable, CustomStringConvertible {
  /// IPv4: the address. IPv6: its first 64 bits.
  private let bits: UInt64
  private let isIPv6: Bool

  /// Nil where the peer has no IP address: it is a process of this machine.
  package init?(_ address: SocketAddress?) {
    switch address {
    case .v4(let address):
      self.init(ipv4: UInt32(bigEndian: address.address.sin_addr.s_addr))
    case .v6(let address):
      var host = address.address.sin6_addr
      let (high, low) = withUnsafeBytes(of: &host) { bytes in
        (
          UInt64(bigEndian: bytes.loadUnaligned(as: UInt64.self)),
          UInt64(bigEndian: bytes.loadUnaligned(fromByteOffset: 8, as: UInt64.self))
        )
      }
      // ::ffff:0:0/96 holds IPv4 addresses, ::1 is loopback.
      if high == 0, low >> 32 == 0xFFFF {
        self.init(ipv4: UInt32(truncatingIfNeeded: low))
      } else if high == 0, low == 1 {
        self.init(ipv4: 0x7F00_0001)
      } else {
        self.init(bits: high, isIPv6: true)
      }
    case .unixDomainSocket, nil: return nil
    }
  }

  private init(ipv4: UInt32) { self.init(bits: UInt64(ipv4), isIPv6: false) }

  private init(bits: UInt64, isIPv6: Bool) { (self.bits, self.isIPv6) = (bits, isIPv6) }

  /// `198.51.100.7`, or `2001:db8:0:1::/64`.
  package var description: String {
    if !isIPv6 { return [24, 16, 8, 0].map { "\(bits >> UInt64($0) & 0xFF)" }.joined(separator: ".") }
    return [48, 32, 16, 0].map { String(bits >> UInt64($0) & 0xFFFF, radix: 16) }.joined(separator: ":") + "::/64"
  }

  /// Not of the public internet: loopback, private and link-local addresses (RFC 1918, 3927, 4193, 6598), where
  /// proxies and operators are.
  package var isPrivate: Bool {
    if isIPv6 { return bits >> 57 == 0xFC >> 1 || bits >> 54 == 0xFE80 >> 6 }
    return switch bits >> 24 {
    case 10, 127: true
    case 100: bits >> 22 & 3 == 1
    case 169: bits >> 16 & 0xFF == 254
    case 172: bits >> 20 & 0xF == 1
    case 192: bits >> 16 & 0xFF == 168
    default: false
    }
  }
}
