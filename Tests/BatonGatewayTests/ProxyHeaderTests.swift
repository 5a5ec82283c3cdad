import NIOCore
import Testing

@testable import BatonGateway

struct ProxyHeaderTests {
  private static let signature: [UInt8] = [13, 10, 13, 10, 0, 13, 10, 0x51, 0x55, 0x49, 0x54, 10]
  private static let rest = "GET / HTTP/1.1"

  private static func binary(_ command: UInt8, _ family: UInt8, _ body: [UInt8]) -> [UInt8] {
    signature + [command, family, UInt8(body.count >> 8), UInt8(body.count & 0xFF)] + body
  }

  private static let ipv4: [UInt8] = [198, 51, 100, 7, 127, 0, 0, 1, 1, 2, 3, 4]
  private static let tlv: [UInt8] = [4, 0, 2, 0, 0]
  private static let ipv6: [UInt8] =
    [0x20, 1, 0x0D, 0xB8] + [UInt8](repeating: 0, count: 11) + [7] + [UInt8](repeating: 9, count: 16) + [1, 2, 3, 4]

  private static let whole: [(bytes: [UInt8], client: String?)] = [
    (Array("PROXY TCP4 198.51.100.7 127.0.0.1 258 443\r\n".utf8), "198.51.100.7"),
    (Array("PROXY TCP6 2001:db8::7 ::1 258 443\r\n".utf8), "2001:db8::7"),
    (Array("PROXY UNKNOWN\r\n".utf8), nil),
    (Array("PROXY UNKNOWN \(String(repeating: "f", count: 91))\r\n".utf8), nil),
    (binary(0x21, 0x11, ipv4), "198.51.100.7"), (binary(0x21, 0x21, ipv6), "2001:db8::7"),
    (binary(0x21, 0x11, ipv4 + tlv), "198.51.100.7"), (binary(0x20, 0x11, ipv4), nil),
    (binary(0x20, 0, []), nil), (binary(0x21, 0, [1, 2, 3]), nil),
    (binary(0x21, 0x31, [UInt8](repeating: 0, count: 216)), nil),
    (binary(0x21, 0x11, ipv4 + [UInt8](repeating: 0, count: 4068)), "198.51.100.7"),
  ]

  @Test(arguments: whole.indices)
  func wholeOnesAreTakenWhereverTheyAreCut(_ index: Int) throws {
    let (bytes, client) = Self.whole[index]
    var cuts = Array(0..<min(bytes.count, 120))
    if bytes.count > 120 { cuts.append(bytes.count - 1) }
    for cut in cuts {
      var buffer = ByteBuffer(bytes: bytes.prefix(cut))
      #expect(try ProxyHeader(taking: &buffer) == nil)
      #expect(buffer.readableBytes == cut)
    }
    var buffer = ByteBuffer(bytes: bytes + Self.rest.utf8)
    let header = try #require(try ProxyHeader(taking: &buffer))
    #expect(header.client?.ipAddress == client)
    if client != nil { #expect(header.client?.port == 258) }
    #expect(String(buffer: buffer) == Self.rest, "what follows is left")
  }

  private static let wrongLines: [String] = [
    "GET / HTTP/1.1\r\n", "PROXY TCP4 198.51.100.7 127.0.0.1 1\r\n", "PROXY TCP4 198.51.100.7 127.0.0.1 1 65536\r\n",
    "PROXY TCP4 198.51.100.7 127.0.0.1 -1 1\r\n", "PROXY TCP4 ::1 ::1 1 2\r\n", "PROXY TCP6 1.2.3.4 1.2.3.4 1 2\r\n",
    "PROXY TCP4 a 127.0.0.1 1 2\r\n", "PROXY TCP4 1.2.3.4 127.0.0.1 1 2 3\r\n", "PROXY TCP4  1.2.3.4 127.0.0.1 1 2\r\n",
    "PROXY TCP4 1.2.3.4 127.0.0.1 1 2\n", "PROXY UNKNOWN\n", "PROXY\r\n", "PROXY " + String(repeating: "x", count: 101),
    "\r\n\r\u{B}",
  ]

  @Test(arguments: wrongLines)
  func noOtherLineIsTaken(_ line: String) { refuses(Array(line.utf8)) }

  private static let wrongBinaries: [[UInt8]] = [
    binary(0x11, 0x11, ipv4), binary(0x22, 0x11, ipv4), binary(0x21, 0x41, ipv4), binary(0x21, 0x13, ipv4),
    binary(0x21, 0x11, Array(ipv4.dropLast())), binary(0x21, 0x21, ipv4), binary(0x21, 0x31, [1]),
    binary(0x20, 0, [UInt8](repeating: 0, count: 4081)),
  ]

  @Test(arguments: wrongBinaries)
  func noOtherBinaryIsTaken(_ bytes: [UInt8]) { refuses(bytes) }

  private func refuses(_ bytes: [UInt8]) {
    #expect(throws: ProxyHeader.Problem.self) {
      var buffer = ByteBuffer(bytes: bytes)
      _ = try ProxyHeader(taking: &buffer)
    }
  }
}
