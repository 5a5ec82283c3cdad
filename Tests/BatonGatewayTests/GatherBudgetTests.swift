import Testing

@testable import BatonGateway

@Suite
struct GatherBudgetTests {
  @Test func whatIsSmallCostsNothing() async throws {
    let budget = GatherBudget(limit: 100 << 10)
    let many = (0..<100).map { _ in Gathered(budget) }
    for one in many { try await one.hold(GatherBudget.free) }
    #expect(budget.used == 0)
  }

  @Test func whatIsHeldIsGivenBack() async throws {
    let budget = GatherBudget(limit: 100 << 10)
    var first: Gathered? = Gathered(budget)
    let second = Gathered(budget)
    try await first?.hold(60 << 10)
    try await second.hold(20 << 10)
    try await second.hold(30 << 10)
    #expect(budget.used == 90 << 10)
    try await second.hold(0)
    #expect(budget.used == 60 << 10)
    first = nil
    #expect(budget.used == 0)
  }

  @Test func whoDoesNotGetOnGivesWay() async throws {
    let budget = GatherBudget(limit: 100 << 10)
    let (idle, new) = (Gathered(budget), Gathered(budget))
    try await idle.hold(90 << 10)
    async let waiting: Void = new.hold(50 << 10)
    await withCheckedContinuation { asked in idle.onGivingWay { asked.resume() } }
    #expect(idle.givesWay)
    await #expect(throws: Problem.shortOfMemory) { try await idle.hold(91 << 10) }
    try await idle.hold(0)
    try await waiting
    #expect(budget.used == 50 << 10 && !new.givesWay)
  }

  @Test func whatNeverFitsIsRefused() async {
    let budget = GatherBudget(limit: 100 << 10)
    let large = Gathered(budget)
    await #expect(throws: Problem.shortOfMemory) { try await large.hold(101 << 10) }
    #expect(budget.used == 0)
  }
}
