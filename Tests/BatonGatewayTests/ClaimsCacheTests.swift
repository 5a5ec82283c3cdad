import Testing

@testable import BatonGateway

@Suite struct ClaimsCacheTests {
  private static func claims(_ subject: String, exp: Double = 100) -> Authenticator.Claims {
    Authenticator.Claims(sub: subject, exp: exp, sessions: ["*"], scope: ["read"])
  }

  @Test func claimsAreKeptUntilTheirEnd() {
    var cache = ClaimsCache(bytes: 4096)
    cache.keep(Self.claims("ada"), of: "a")
    #expect(cache.claims(of: "a", now: 99)?.sub == "ada")
    #expect(cache.claims(of: "a", now: 100) == nil)
    #expect(cache.claims(of: "b", now: 99) == nil)
  }

  @Test func theOldestGoFirst() {
    var cache = ClaimsCache(bytes: 1024)
    for key in ["a", "b", "a", "c", "d"] { cache.keep(Self.claims("ada"), of: key) }
    #expect(cache.bytes <= 1024)
    #expect(cache.claims(of: "b", now: 0) == nil)
    #expect(cache.claims(of: "d", now: 0) != nil)
  }

  @Test func whatIsTooLargeIsNotKept() {
    var cache = ClaimsCache(bytes: 1024)
    cache.keep(Self.claims("ada"), of: "a")
    cache.keep(Self.claims(String(repeating: "x", count: 2000)), of: "a")
    #expect(cache.claims(of: "a", now: 0) == nil)
    #expect(cache.bytes == 0 && cache.count == 0)
  }

  @Test func whatIsReplacedLeavesNothing() {
    var cache = ClaimsCache(bytes: 1 << 20)
    for _ in 0..<10_000 { cache.keep(Self.claims("ada"), of: "a") }
    let size = cache.bytes
    cache.keep(nil, of: "a")
    #expect(size < 1024 && cache.bytes == 0)
  }
}
