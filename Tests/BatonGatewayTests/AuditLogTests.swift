import BatonProtocol
import Foundation
import NIOConcurrencyHelpers
import NIOCore
import Testing

@testable import BatonGateway

struct AuditLogTests {
  private let now = NIODeadline.uptimeNanoseconds(1 << 50)

  /// The lines that were written.
  private final class Lines: Sendable {
    let all = NIOLockedValueBox<[[String: JSONValue]]>([])

    func log() -> AuditLog {
      AuditLog(node: "gw") { line in
        self.all.withLockedValue { $0.append(JSONValue(ByteBuffer(string: line))?.members ?? [:]) }
      }
    }

    var count: Int { all.withLockedValue { $0.count } }
    var last: [String: JSONValue]? { all.withLockedValue { $0.last } }
  }

  private func address(_ text: String) throws -> PeerAddress? {
    PeerAddress(try SocketAddress(ipAddress: text, port: 1))
  }

  @Test func aLineHasWhatIsKnown() throws {
    let lines = Lines()
    let log = lines.log()
    var identity = Identity(subject: "ada\n" + String(repeating: "x", count: 999), sessions: [], scopes: [], expires: 1)
    identity.tenant = "a"
    let session = try SessionName(checking: "s").of("a")
    let facts = AuditLog.Facts(address: try address("2001:db8::7"), session: session, identity)
    log.refused(.notAllowed(.read, session), facts, now: now)
    let line = try #require(lines.last)
    #expect(line["event"]?.text == "refused" && line["reason"]?.text == "not-allowed" && line["node"]?.text == "gw")
    #expect(line["tenant"]?.text == "a" && line["session"]?.text == "s" && line["subject"]?.text?.count == 256)
    #expect(line["address"]?.text == "2001:db8:0:0::/64")
    log.refused(.noSuchPath, facts, now: now)
    #expect(lines.count == 1, "what is merely wrong concerns no auditor")
    #expect(try address("198.51.100.7")?.description == "198.51.100.7")
  }

  @Test func whoIsSentAwayAgainAndAgainIsCountedByTheCode() throws {
    let lines = Lines()
    let log = lines.log()
    for _ in 0..<20 { log.closed(4401, "revoked", .init(address: try address("198.51.100.1")), now: now) }
    log.settle(now: now + .seconds(5))
    let line = try #require(lines.last)
    #expect(line["event"]?.text == "repeated" && line["code"] == .number("4401") && line["status"] == nil)
  }

  @Test func whatIsRepeatedIsCounted() throws {
    let lines = Lines()
    let log = lines.log()
    let (one, other) = (try address("198.51.100.1"), try address("198.51.100.2"))
    for _ in 0..<100 { log.refused(.unauthenticated("x"), .init(address: one), now: now) }
    log.refused(.unauthenticated("x"), .init(address: other), now: now)
    log.closed(4401, "revoked", .init(address: one), now: now)
    #expect(lines.count == 7)
    log.settle(now: now + .seconds(5))
    #expect(lines.count == 8)
    let line = try #require(lines.last)
    guard case .number("95")? = line["unlogged"] else {
      Issue.record("\(line)")
      return
    }
    #expect(line["event"]?.text == "repeated" && line["address"]?.text == "198.51.100.1")
    log.settle(now: now + .seconds(10))
    #expect(lines.count == 8, "once")
  }

  @Test func addressesAreBounded() throws {
    let lines = Lines()
    let log = lines.log()
    let most = AuditLog.mostRepeated
    for n in 0..<most + 1000 {
      let address = try address("10.\(n >> 16).\(n >> 8 & 255).\(n & 255)")
      log.refused(.unauthenticated("x"), .init(address: address), now: now)
    }
    #expect(lines.count == most + 5, "of more, the reason alone is told apart")
    log.settle(now: now + .seconds(61))
    log.refused(.unauthenticated("x"), .init(address: try address("10.255.0.1")), now: now + .seconds(62))
    #expect(lines.last?["address"]?.text == "10.255.0.1")
  }
}
