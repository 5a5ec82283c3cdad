import BatonSession
import Testing

@Suite("The budget of history")
struct HistoryBudgetTests {
  @Test("room is reserved up to the limit, and one reservation at a time goes beyond it")
  func reserves() {
    let budget = HistoryBudget(limit: 100)
    let entries = budget.charge(70)
    var first = budget.reserve(30)
    #expect(first != nil && budget.used == 100)
    var beyond = budget.reserve(50)
    #expect(beyond != nil && budget.used == 150)
    #expect(budget.reserve(1) == nil)
    first = nil
    #expect(budget.used == 120 && budget.reserve(1) == nil)
    beyond = nil
    #expect(budget.used == 70)
    let again = budget.reserve(40)
    #expect(again != nil && budget.reserve(1) == nil)
    again?.add(-39)
    #expect(budget.used == 71)
    withExtendedLifetime((entries, first, beyond, again)) {}
  }
}
