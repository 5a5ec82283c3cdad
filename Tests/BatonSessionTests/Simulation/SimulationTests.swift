import Foundation
import Testing

@testable import BatonProtocol
@testable import BatonSession

/// Section 10 of the protocol over a simulated fleet. One run is replayed by
/// `BATON_SEED=<seed> swift test -c release -Xswiftc -enable-testing --filter SimulationTests`.
@Suite struct SimulationTests {
  static let weathers: [(String, Weather)] = [
    ("calm", Weather(destroys: false)),
    ("rough", Weather()),
    ("Redis 6", Weather(countsAdded: false)),
    ("lost notices", Weather(losesNotices: true)),
    ("crowd", Weather(minutes: 2, sessions: 3, devices: 40, nodes: 3)),
  ]

  @Test func keepsSection10() {
    let environment = ProcessInfo.processInfo.environment
    let wanted = environment["BATON_STEPS"].flatMap(Int.init) ?? 1_500_000
    let only = environment["BATON_SEED"].flatMap(UInt64.init)
    var seed = only ?? UInt64.random(in: 1...1_000_000_000)
    let first = seed
    print("simulation: BATON_SEED=\(first)")
    var tally = Tally()
    while tally.steps < wanted {
      let (name, weather) = SimulationTests.weathers[Int(seed % UInt64(SimulationTests.weathers.count))]
      let fleet = Fleet(seed: seed, weather: weather)
      fleet.run()
      tally += fleet.tally
      if let complaint = fleet.complaints.first {
        Issue.record("BATON_SEED=\(seed) (\(name)): \(complaint)")
        return
      }
      if only != nil { break }
      seed += 1
    }
    print(
      """
      simulation: seeds \(first)...\(seed), \(tally.steps) steps, \(tally.delivered) entries delivered, \
      \(tally.resets) resets, \(tally.finished) attaches finished, \(tally.frames) frames taken apart
      """)
    if only == nil, wanted >= 1_000_000 {
      #expect(tally.resets > 0 && tally.finished > 0 && tally.frames > 0 && tally.bothLoops > 0)
    }
  }
}
