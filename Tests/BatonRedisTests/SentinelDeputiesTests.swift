import Testing

@testable import BatonRedis

/// Those who speak for a Sentinel that is silent.
@Suite struct SentinelDeputiesTests {
  private let a = server("a")
  private let b = server("b")
  private let others = (0..<20).map { server("sentinel-\($0)") }

  private static func server(_ name: String) -> RedisURL.Address { .tcp(host: name, port: 1) }

  @Test func mostOfThoseWhoNameSomebodyDecide() {
    var deputies = SentinelDeputies()
    deputies.appointed(others.prefix(3))
    #expect(deputies.choice([:]) == nil)
    #expect(deputies.choice([others[1]: a]) == a)
    #expect(deputies.choice([others[1]: a, others[2]: b]) == nil, "neither")
    #expect(deputies.choice([others[0]: b, others[1]: a, others[2]: b]) == b)
    #expect(deputies.choice([others[3]: a]) == nil, "it speaks for somebody else")
  }

  @Test func theyAreBounded() {
    var deputies = SentinelDeputies()
    deputies.appointed(others)
    #expect(deputies.addresses == Array(others.prefix(16)))
    deputies.joined(others.suffix(1))
    #expect(deputies.addresses.count == 16)
    deputies.appointed(others.prefix(2))
    deputies.joined(others.prefix(3))
    #expect(deputies.addresses == Array(others.prefix(3)), "none is there twice")
  }
}
