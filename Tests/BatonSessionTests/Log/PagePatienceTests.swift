import BatonProtocol
import Testing

@testable import BatonSession

@Suite struct PagePatienceTests {
  private let page = PageRequest(session: SessionName("s"), span: .after(.zero), limit: 512, look: true)

  @Test func theSameAgainAndAgainIsAskedForTwiceASecondInTheLongRun() {
    var patience = PagePatience()
    var (now, asked): (Int64, Int) = (0, 0)
    #expect((0..<3).map { _ in patience.pause(before: page, at: now) } == [0, 0, 0])
    while now < 60_000 {
      now += patience.pause(before: page, at: now)
      asked += 1
    }
    #expect((100...140).contains(asked))
  }

  @Test func aDeviceThatIsResetNowAndThenDoesNotWait() {
    var patience = PagePatience()
    for second in 0..<100 { #expect(patience.pause(before: page, at: Int64(second) * 600) == 0) }
  }

  @Test func anotherPageIsAskedForAtOnce() {
    var patience = PagePatience()
    for _ in 0..<10 { _ = patience.pause(before: page, at: 0) }
    #expect(patience.pause(before: page, at: 0) == 500)
    var next = page
    next.limit = 100
    #expect(patience.pause(before: next, at: 0) == 0)
  }
}
