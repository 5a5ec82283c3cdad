import NIOCore
import Testing

@testable import BatonProtocol
@testable import BatonSession

/// Looks at one response's record; times in seconds.
private struct Looks {
  var watch = LeaseWatch()
  private let start = NIODeadline.uptimeNanoseconds(1_000_000_000)

  /// The tokens that are to be ended.
  mutating func at(_ second: Double, _ record: String?, server: UInt64 = 0) -> [String] {
    let records = record.flatMap { ResponseRecord($0) }.map { [(response: "r", record: $0)] } ?? []
    let now = start + .nanoseconds(Int64(second * 1e9))
    return watch.looked(at: records, serverTime: server, now: now).map { "\($0.response) \($0.epoch) \($0.token)" }
  }

  mutating func every3Seconds(from: Int, through: Int, _ record: String, server: UInt64 = 0) -> [String] {
    stride(from: from, through: through, by: 3).flatMap { at(Double($0), record, server: server) }
  }
}

@Suite struct LeaseWatchTests {
  @Test func aTokenThatStandsStillFor15SecondsIsLost() {
    var looks = Looks()
    #expect(looks.every3Seconds(from: 0, through: 12, "1 5 open a.3 9-0 0") == [])
    #expect(looks.at(14.9, "1 5 open a.3 9-0 0") == [])
    #expect(looks.at(15, "1 5 open a.3 9-0 0") == ["r 1 a.3"])
    #expect(looks.at(16, "1 5 error - 9-1 0") == [])
    #expect(!looks.watch.hasLeases)
  }

  @Test func aTokenThatMovesLives() {
    var looks = Looks()
    for second in 0..<40 {
      #expect(looks.at(Double(3 * second), "1 5 open a.\(second / 3) 9-0 0") == [])
    }
    #expect(looks.watch.hasLeases)
  }

  @Test func aNewEpochIsAnotherLease() {
    var looks = Looks()
    #expect(looks.every3Seconds(from: 0, through: 12, "1 5 open a.3 9-0 0") == [])
    #expect(looks.every3Seconds(from: 15, through: 27, "2 5 open a.3 9-0 0") == [])
    #expect(looks.at(30, "2 5 open a.3 9-0 0") == ["r 2 a.3"])
  }

  @Test func onlyLeasesAreWatched() {
    var looks = Looks()
    #expect(looks.every3Seconds(from: 0, through: 60, "1 5 open http 9-0 0") == [])
    #expect(looks.every3Seconds(from: 63, through: 120, "1 5 end a.3 9-0 0") == [])
    #expect(!looks.watch.hasLeases)
  }

  @Test func anotherConnectionStartsOver() {
    var looks = Looks()
    #expect(looks.every3Seconds(from: 0, through: 12, "1 5 open a.3 9-0 0") == [])
    looks.watch.connectionLost()
    #expect(looks.every3Seconds(from: 15, through: 27, "1 5 open a.3 9-0 0") == [])
    #expect(looks.at(30, "1 5 open a.3 9-0 0") == ["r 1 a.3"])
  }

  @Test func aPauseStartsOver() {
    var looks = Looks()
    #expect(looks.every3Seconds(from: 0, through: 12, "1 5 open a.3 9-0 0") == [])
    #expect(looks.at(18.1, "1 5 open a.3 9-0 0") == [])
    #expect(looks.every3Seconds(from: 20, through: 33, "1 5 open a.3 9-0 0") == [])
    #expect(looks.at(34, "1 5 open a.3 9-0 0") == ["r 1 a.3"])
  }

  @Test func aStaleLeaseHoldsLiveUntilItMovesOrDies() {
    var looks = Looks()
    #expect(looks.at(0, "1 5 open a.3 9-0 1000", server: 16_001) == [])
    #expect(looks.watch.holdsLive)
    #expect(looks.at(3, "1 5 open a.4 9-0 17000", server: 19_001) == [])
    #expect(!looks.watch.holdsLive)

    looks = Looks()
    #expect(looks.every3Seconds(from: 0, through: 12, "1 5 open a.3 9-0 1000", server: 90_000) == [])
    looks.watch.connectionLost()
    #expect(looks.watch.holdsLive)
    #expect(looks.at(13, nil) == [])
    #expect(!looks.watch.holdsLive)
  }

  @Test func aFreshLeaseHoldsNothing() {
    var looks = Looks()
    #expect(looks.at(0, "1 5 open a.3 9-0 1000", server: 15_999) == [])
    #expect(!looks.watch.holdsLive)
    #expect(looks.at(3, "1 5 open a.3 9-0 1000", server: 60_000) == [], "watched from the beginning")
    #expect(!looks.watch.holdsLive)
  }
}
