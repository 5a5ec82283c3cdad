import NIOCore
import Testing

@testable import BatonGateway

struct TrustedProxiesTests {
  private let proxies = TrustedProxies(
    ["10.0.0.0/8", "127.0.0.1", "fd00::/8", "203.0.113.128/25"].compactMap(TrustedProxies.Block.init))

  private func address(_ text: String) throws -> SocketAddress { try SocketAddress(ipAddress: text, port: 1) }

  private func client(_ remote: String, _ headers: [String: [String]]) throws -> PeerAddress? {
    proxies.client(try address(remote)) { headers[$0] ?? [] }
  }

  @Test(arguments: [
    ("10.255.0.1", true), ("11.0.0.1", false), ("127.0.0.1", true), ("127.0.0.2", false), ("::ffff:10.1.2.3", true),
    ("fd12::1", true), ("fe80::1", false), ("203.0.113.127", false), ("203.0.113.128", true), ("::1", false),
  ])
  func blocksHold(_ text: String, _ isIn: Bool) throws { #expect(proxies.contains(try address(text)) == isIn) }

  @Test(arguments: [
    "", "10.0.0.0/33", "10.0.0.0/-1", "10.0.0/8", "fd00::/129", "proxy.example", "10.0.0.0/8/8", "10.0.0.0/",
  ])
  func isNoBlock(_ text: String) { #expect(TrustedProxies.Block(text) == nil) }

  @Test func everythingIsABlock() throws {
    let all = TrustedProxies([
      try #require(TrustedProxies.Block("0.0.0.0/0")), try #require(TrustedProxies.Block("::/0")),
    ])
    for text in ["198.51.100.7", "2001:db8::1"] { #expect(all.contains(try address(text))) }
  }

  @Test(arguments: [
    (["198.51.100.7"], "198.51.100.7"), (["198.51.100.7, 10.0.0.2"], "198.51.100.7"),
    (["192.0.2.66, 198.51.100.7,10.0.0.2", " 203.0.113.200"], "198.51.100.7"), (["198.51.100.7:4711"], "198.51.100.7"),
    (["[2001:db8::1]:80"], "2001:db8::1"), (["2001:db8::1"], "2001:db8::1"), (["10.0.0.3"], "10.0.0.3"),
    (["198.51.100.7, nonsense, 10.0.0.2"], "10.0.0.2"), ([""], "10.0.0.1"), ([",,"], "10.0.0.1"),
    (["unknown"], "10.0.0.1"),
  ])
  func theFirstThatIsNoProxyCounts(_ values: [String], _ expected: String) throws {
    let told = try client("10.0.0.1", ["x-forwarded-for": values])
    #expect(told == PeerAddress(try address(expected)))
  }

  @Test(arguments: [
    (["for=198.51.100.7;proto=https;by=10.0.0.2"], "198.51.100.7"),
    (["for=192.0.2.66, For=\"[2001:db8::1]:4711\"", "proto=http;for=10.0.0.2"], "2001:db8::1"),
    (["for=_hidden"], "10.0.0.1"), (["proto=https"], "10.0.0.1"),
  ])
  func forwardedIsRead(_ values: [String], _ expected: String) throws {
    let told = try client("10.0.0.1", ["forwarded": values])
    #expect(told == PeerAddress(try address(expected)))
  }

  @Test func nobodyElseIsBelieved() throws {
    let told = try client("198.51.100.1", ["x-forwarded-for": ["192.0.2.66"], "forwarded": ["for=192.0.2.66"]])
    #expect(told == PeerAddress(try address("198.51.100.1")))
  }

  @Test func hopsAreBounded() throws {
    let long = Array(repeating: "10.0.0.2", count: 10_000).joined(separator: ",")
    let told = try client("10.0.0.1", ["x-forwarded-for": ["192.0.2.66," + long]])
    #expect(told == PeerAddress(try address("10.0.0.2")))
  }
}
