import Foundation
import TestSupport
import Testing

@testable import BatonStore

/// Section 10 of the protocol, and patience, over a simulated fleet whose stores are those that ship. `BATON_SEED=<seed>
/// Tests/run unit BatonStoreTests.SimulationTests` replays one run; `BATON_RUNS=500` makes so many of them.
@Suite struct SimulationTests {
  static let weathers: [(String, Weather)] = [
    ("calm", Weather(destroys: false)),
    ("rough", Weather()),
    ("Redis 6", Weather(countsAdded: false)),
    ("lost notices", Weather(losesNotices: true)),
    ("crowd", Weather(minutes: 2, sessions: 3, devices: 40, nodes: 3)),
    ("refusals", Weather(refuses: true)),
    ("cuts", Weather(cutsEvery: 100, minutes: 1, devices: 20)),
    ("poison", Weather(hasPoison: true, minutes: 1)),
    ("small table", Weather(trackedKeys: 3, sessions: 8, devices: 16)),
    (
      "no channels",
      Weather(
        refusesNotices: (
          "SUBSCRIBE", "NOPERM this user has no permissions to access one of the channels used as arguments"
        ))
    ),
    ("a proxy", Weather(refusesNotices: ("CLIENT", "unsupported command 'client'"), hasPassword: true)),
    ("small buffers", Weather(outputLimit: 48 << 10)),
    ("leases", Weather(refuses: true, cutsEvery: 20_000, hasLeases: true, minutes: 4)),
    ("polling", Weather(wakeup: .poll)),
    ("all at once", Weather(refuses: true, cutsEvery: 2000, hasPoison: true, outputLimit: 8 << 20, minutes: 1)),
  ]

  static let clusters: [(String, Weather)] = [
    ("cluster", Weather(minutes: 1, sessions: 6, masters: 3)),
    ("cluster that loses notices", Weather(losesNotices: true, minutes: 1, sessions: 6, masters: 3)),
    ("cluster, polled", Weather(wakeup: .poll, minutes: 1, sessions: 6, masters: 3)),
    (
      "cluster on Redis 6, with cuts", Weather(countsAdded: false, cutsEvery: 1000, minutes: 1, sessions: 6, masters: 3)
    ),
    (
      "cluster with producers", Weather(destroys: false, minutes: 2, sessions: 6, masters: 3, hasProducers: true)
    ),
    (
      "cluster with producers and cuts",
      Weather(destroys: false, cutsEvery: 2000, minutes: 2, sessions: 6, masters: 3, hasProducers: true)
    ),
  ]

  @Test func keepsItsPromises() async {
    let tally = await run(SimulationTests.weathers, rounds: 4)
    if ProcessInfo.processInfo.environment["BATON_SEED"] == nil {
      #expect(tally.resets > 0 && tally.finished > 0 && tally.frames > 0 && tally.bothLoops > 0 && tally.lost > 0)
      #expect(tally.takenAtOnce > 0, "devices that are live and level take it in one call")
    }
  }

  @Test func keepsItsPromisesOnACluster() async {
    let tally = await run(SimulationTests.clusters, rounds: 1)
    if ProcessInfo.processInfo.environment["BATON_SEED"] == nil {
      #expect(tally.resets > 0 && tally.finished > 0 && tally.delivered > 0)
      #expect(tally.inMotion > 0 && tally.whole > 0 && tally.lost > 0)
    }
  }

  /// So many rounds of all weathers, unless the environment says otherwise.
  private func run(_ weathers: [(String, Weather)], rounds: Int) async -> Tally {
    let environment = ProcessInfo.processInfo.environment
    let only = environment["BATON_SEED"].flatMap(UInt64.init)
    let runs = only == nil ? environment["BATON_RUNS"].flatMap(Int.init) ?? rounds * weathers.count : 1
    let first = only ?? environment["BATON_FIRST"].flatMap(UInt64.init) ?? UInt64.random(in: 1...1_000_000_000)
    print("simulation: BATON_SEED=\(first)")
    let (tally, complaints) = await onOwnThread {
      var (tally, complaints) = (Tally(), [String]())
      for seed in first..<first + UInt64(runs) {
        let (name, weather) = weathers[Int(seed % UInt64(weathers.count))]
        let start = ContinuousClock.now
        let fleet = Fleet(seed: seed, weather: weather)
        fleet.run()
        tally += fleet.tally
        if environment["BATON_VERBOSE"] != nil {
          print("\(seed) \(name): \(ContinuousClock.now - start) \(fleet.tally)")
        }
        if let complaint = fleet.complaints.first { complaints.append("BATON_SEED=\(seed) (\(name)): \(complaint)") }
      }
      return (tally, complaints)
    }
    for complaint in complaints { Issue.record("\(complaint)") }
    print("simulation: seeds \(first)..<\(first + UInt64(runs)): \(tally)")
    return tally
  }
}
