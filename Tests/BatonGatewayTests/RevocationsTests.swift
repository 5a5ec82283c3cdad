import BatonProtocol
import Testing

@testable import BatonGateway

struct RevocationsTests {
  private let revocations = Revocations()

  @Test func whatWasIssuedUpToThatSecondIsRefused() {
    revocations.take(Revocations.Order(subject: "ada", now: 100.5), now: 100.5)
    for issued in [nil, 0, 99, 100] as [Double?] {
      #expect(revocations.refuses(subject: "ada", token: nil, issued: issued, now: 101))
    }
    #expect(!revocations.refuses(subject: "ada", token: nil, issued: 101, now: 101))
    #expect(!revocations.refuses(subject: "bob", token: nil, issued: 99, now: 101))
    #expect(!revocations.refuses(subject: "x", token: "ada", issued: 99, now: 101), "a subject's name is no token's")
  }

  @Test func eachTenantHasItsOwn() throws {
    let session = try #require(SessionName("s"))
    for var order in [
      Revocations.Order(subject: "ada", now: 100), .init(token: "j", now: 100), .init(session: "s", now: 100),
    ] {
      order.tenant = "a"
      revocations.take(order, now: 100)
    }
    #expect(revocations.refuses(subject: "ada", token: nil, of: "a", issued: 5, now: 101))
    #expect(revocations.refuses(subject: "x", token: "j", of: "a", issued: 5, now: 101))
    #expect(revocations.refuses(session: session.of("a"), issued: 5, now: 101))
    for tenant in ["b", nil] {
      #expect(!revocations.refuses(subject: "ada", token: "j", of: tenant, issued: 5, now: 101))
    }
    #expect(!revocations.refuses(session: session.of("b"), issued: 5, now: 101))
    #expect(!revocations.refuses(session: session, issued: 5, now: 101))
  }

  @Test func itEnds() {
    revocations.take(Revocations.Order(token: "j", now: 100, until: 200), now: 100)
    #expect(revocations.refuses(subject: "ada", token: "j", issued: 5, now: 199))
    #expect(!revocations.refuses(subject: "ada", token: "j", issued: 5, now: 200))
  }

  @Test func anOlderOneTakesNothingBack() throws {
    let session = try #require(SessionName("s"))
    let newer = Revocations.Order(session: "s", now: 200, until: 900)
    #expect(revocations.take(newer, now: 200))
    #expect(!revocations.take(Revocations.Order(session: "s", now: 100, until: 500), now: 200))
    #expect(!revocations.take(newer, now: 200), "it says nothing new")
    #expect(revocations.refuses(session: session, issued: 150, now: 600))
  }

  @Test func theyAreBounded() {
    for number in 0..<Revocations.limit + 100 {
      revocations.take(Revocations.Order(token: "\(number)", now: 100, until: 1000 + Double(number)), now: 100)
    }
    #expect(revocations.count == Revocations.limit)
    // Those that end first went.
    #expect(!revocations.refuses(subject: "ada", token: "99", issued: 5, now: 100))
    #expect(revocations.refuses(subject: "ada", token: "100", issued: 5, now: 100))
  }
}
