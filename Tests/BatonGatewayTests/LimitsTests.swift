import BatonProtocol
import NIOCore
import NIOHTTP1
import Testing

@testable import BatonGateway

@Suite struct LimitsTests {
  private let now = NIODeadline.uptimeNanoseconds(1 << 50)

  private func address(_ text: String) throws -> PeerAddress? {
    PeerAddress(try SocketAddress(ipAddress: text, port: 1))
  }

  @Test("IPv6 hosts are told apart by their network, IPv4 addresses however they are written")
  func addresses() throws {
    #expect(try address("2001:db8:1:2::1") == address("2001:db8:1:2:ffff:ffff:ffff:ffff"))
    #expect(try address("2001:db8:1:2::1") != address("2001:db8:1:3::1"))
    #expect(try address("::ffff:192.0.2.1") == address("192.0.2.1"))
    #expect(try address("192.0.2.1") != address("192.0.2.2"))
    #expect(PeerAddress(try SocketAddress(unixDomainSocketPath: "/x")) == nil)
  }

  @Test(
    "private addresses",
    arguments: [
      ("127.0.0.1", true), ("10.1.2.3", true), ("172.16.0.1", true), ("172.31.255.255", true), ("192.168.1.1", true),
      ("169.254.1.1", true), ("100.64.0.1", true), ("::1", true), ("fd00::1", true), ("fe80::1", true),
      ("::ffff:10.0.0.1", true), ("8.8.8.8", false), ("172.32.0.1", false), ("192.169.0.1", false),
      ("100.128.0.1", false), ("2001:db8::1", false), ("fec0::1", false), ("::ffff:8.8.8.8", false), ("::2", false),
    ])
  func isPrivate(text: String, isPrivate: Bool) throws {
    #expect(try address(text)?.isPrivate == isPrivate)
  }

  @Test("without options public addresses are bounded and private ones are not")
  func standard() throws {
    let limits = AddressLimits()
    let (open, local) = (try address("8.8.8.8"), try address("10.0.0.1"))
    #expect((0..<1001).count { _ in limits.opened(open, now: now) } == 1000)
    #expect((0..<2000).count { _ in limits.opened(local, now: now) } == 2000)
    #expect((0..<2000).count { _ in limits.opened(nil, now: now) } == 2000)
    limits.closed(open, now: now)
    #expect(limits.opened(open, now: now))
    #expect(limits.opened(try address("8.8.4.4"), now: now))
  }

  @Test("handshakes and failures come back with time")
  func rates() throws {
    let limits = AddressLimits(handshakes: 2, failures: 3)
    let address = try address("127.0.0.1")
    for _ in 0..<20 { try limits.attaches(address, now: now) }
    let refusal = #expect(throws: Problem.self) { try limits.attaches(address, now: now) }
    #expect(refusal?.status == .tooManyRequests && refusal?.limit == .handshakesPerAddress)
    #expect(refusal?.headers == [Problem.Header(name: "Retry-After", value: "1")])
    try limits.attaches(address, now: now + .milliseconds(500))
    for _ in 0..<3 {
      try limits.shows(address, now: now)
      limits.failed(address, now: now)
    }
    let other = #expect(throws: Problem.self) { try limits.shows(address, now: now) }
    #expect(other?.headers == [Problem.Header(name: "Retry-After", value: "20")])
    try limits.shows(address, now: now + .seconds(20))
    try limits.shows(try self.address("127.0.0.2"), now: now)
  }

  @Test("addresses that say nothing any more are forgotten, however many came")
  func memory() throws {
    let limits = AddressLimits()
    for n in 0..<140_000 {
      let address = try address("2001:\(String(n >> 16, radix: 16)):\(String(n & 0xFFFF, radix: 16))::1")
      limits.failed(address, now: now)
    }
    #expect(limits.remembered <= 2 * AddressLimits.mostRemembered)
  }

  @Test("places are given back once, and counted by session and subject")
  func places() throws {
    let registry = DeviceRegistry(limits: .init(all: 3, perSession: 2, perSubject: 2), settings: DeviceSettings())
    let places = try (0..<3).map { _ in try registry.reserve() }
    #expect(throws: Problem.tooManyDevices) { _ = try registry.reserve() }
    let (one, two) = (try SessionName(checking: "one"), try SessionName(checking: "two"))
    try places[0].take(one, subject: "ada")
    try places[1].take(one, subject: nil)
    #expect(throws: Problem.tooManyDevicesOfSession) { try places[2].take(one, subject: "eve") }
    try places[2].take(two, subject: "ada")
    places[1].leave()
    places[1].leave()
    #expect(registry.count == 2)
    let place = try registry.reserve()
    #expect(throws: Problem.tooManyDevicesOfSubject) { try place.take(two, subject: "ada") }
    try place.take(one, subject: "eve")
    for place in places + [place] { place.leave() }
    #expect(registry.count == 0)
  }

  @Test("a tenant's devices and subjects are its own")
  func tenantsPlaces() throws {
    let registry = DeviceRegistry(limits: .init(perSubject: 1, perTenant: 2), settings: DeviceSettings())
    let one = try SessionName(checking: "one")
    let places = try (0..<4).map { _ in try registry.reserve() }
    try places[0].take(one.of("a"), subject: "ada")
    try places[1].take(one.of("b"), subject: "ada")
    #expect(throws: Problem.tooManyDevicesOfSubject) { try places[2].take(one.of("a"), subject: "ada") }
    try places[2].take(one.of("a"), subject: nil)
    #expect(throws: Problem.tooManyDevicesOfTenant) { try places[3].take(one.of("a"), subject: "eve") }
    places[0].leave()
    try places[3].take(one.of("a"), subject: "eve")
  }

  @Test("what a tenant appends: ten seconds of it at once, whatever is larger once, and back with time")
  func quotas() throws {
    let quotas = TenantQuotas(.init(entries: 2, bytes: 100))
    let (a, b) = (try SessionName(checking: "s").of("a"), try SessionName(checking: "s").of("b"))
    for _ in 0..<20 { try quotas.take(a, bytes: 1, now: now) }
    let refusal = #expect(throws: Problem.self) { try quotas.take(a, bytes: 1, now: now) }
    #expect(refusal?.limit == .entriesPerTenant && refusal?.status == .tooManyRequests)
    #expect(quotas.wait(a, bytes: 1, now: now) > .zero)
    try quotas.take(a, bytes: 1, now: now + .milliseconds(500))
    try quotas.take(b, bytes: 1 << 40, now: now)
    let other = #expect(throws: Problem.self) { try quotas.take(b, bytes: 1, now: now + .seconds(60)) }
    #expect(other?.limit == .bytesPerTenant)
    for n in 0..<5000 {
      try quotas.take(try SessionName(checking: "s").of("t\(n)"), bytes: 1, now: now + .seconds(Int64(n)))
    }
    #expect(quotas.remembered < 3000)
    for _ in 0..<99 { try quotas.take(try SessionName(checking: "s"), bytes: 1 << 40, now: now) }
  }

  private func head(_ uri: String = "/", _ hosts: String..., version: HTTPVersion = .http1_1) -> HTTPRequestHead {
    HTTPRequestHead(version: version, method: .GET, uri: uri, headers: HTTPHeaders(hosts.map { ("Host", $0) }))
  }

  @Test("hosts: the ports and cases of a name, labels, and targets in absolute form")
  func hosts() throws {
    let rule = HostRule(
      allowed: ["Chat.example", "*.chat.example:8443", "[2001:db8::1]"], publicHost: "baton.example:443")
    for host in [
      "chat.example", "CHAT.example:1", "chat.example.", "a.chat.example:8443", "[2001:DB8::1]:80", "baton.example",
      "localhost:1",
    ] { try rule.check(head("/", host)) }
    for host in ["a.chat.example", "a.b.chat.example:8443", "192.168.0.1", "xchat.example"] {
      #expect(throws: Problem.self) { try rule.check(head("/", host)) }
    }
    try rule.check(head("http://chat.example/x", "chat.example"))
    #expect(throws: Problem.hostNotAllowed) { try rule.check(head("http://evil.example/x", "chat.example")) }
    try HostRule(allowed: ["*"], publicHost: nil).check(head("/", "any.example"))
    try HostRule.any.check(head("/", "any.example"))
    for hosts in [[], ["a", "a"], [""], ["a b"], ["u@a"], ["a/b"], ["a:99999"], ["a:"], ["[::1"]] {
      let head = HTTPRequestHead(
        version: .http1_1, method: .GET, uri: "/", headers: HTTPHeaders(hosts.map { ("Host", $0) }))
      #expect(throws: Problem.badHost, "\(hosts)") { try HostRule.any.check(head) }
    }
    try HostRule.any.check(HTTPRequestHead(version: .http1_0, method: .GET, uri: "/"))
  }

  @Test("a line that comes byte by byte is looked through once")
  func splitter() throws {
    var splitter = LineSplitter(limit: 100)
    var lines: [String] = []
    for byte in "ab\n\nc \n  \nd".utf8 {
      lines += try splitter.take(ByteBuffer(bytes: [byte])).map { String(buffer: $0) }
    }
    #expect(lines == ["ab", "c "])
    #expect(try splitter.take(ByteBuffer(string: "e\nf\ng")).map { String(buffer: $0) } == ["de", "f"])
    #expect(splitter.finish().map { String(buffer: $0) } == "g")
  }
}
