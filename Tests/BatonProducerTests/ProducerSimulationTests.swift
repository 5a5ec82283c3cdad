import Foundation
import TestSupport
import Testing

@testable import BatonProducer

/// One seed replays with `BATON_SEED=… swift test --filter ProducerSimulationTests`.
@Suite struct ProducerSimulationTests {
  static let weathers: [(name: String, weather: ProducerSimulation.Weather)] = [
    ("replies are lost", .init(losesData: false)),
    ("Redis loses a tail or everything", .init()),
    ("the session is deleted", .init(isDeleted: true)),
    ("producers crash", .init(crashes: true)),
    ("zombies wake", .init(freezes: true)),
    ("rivals", .init(hasRivals: true, losesData: false)),
    ("rivals, and take-overs are lost", .init(hasRivals: true)),
    ("everything", .init(hasRivals: true, isDeleted: true, crashes: true, freezes: true)),
  ]

  private static var seeds: [UInt64] {
    let environment = ProcessInfo.processInfo.environment
    if let seed = environment["BATON_SEED"].flatMap({ UInt64($0) }) { return [seed] }
    return Array(0..<(environment["BATON_SEEDS"].flatMap { UInt64($0) } ?? 60))
  }

  @Test(arguments: weathers.indices) func nothingIsDoubledLostOrSilent(_ index: Int) async {
    let runs = await onOwnThread {
      Self.seeds.map { seed in
        let run = ProducerSimulation(seed: seed, weather: Self.weathers[index].weather)
        run.run()
        return (seed: seed, steps: run.steps, complaints: run.complaints)
      }
    }
    for run in runs { #expect(run.complaints == [], "BATON_SEED=\(run.seed), \(Self.weathers[index].name)") }
    #expect(runs.contains { $0.steps > 0 })
  }

  /// A script with a fault is noticed by its consequences alone. (Nobody here expires a token that has just moved.)
  @Test(arguments: ModelScript.Fault.allCases.filter { $0 != .expiresAnyToken }) func aFaultOfTheScriptIsNoticed(
    _ fault: ModelScript.Fault
  ) async {
    let isNoticed = await onOwnThread {
      (UInt64(0)..<200).contains { seed in
        let run = ProducerSimulation(
          seed: seed, weather: Self.weathers[Int(seed) % Self.weathers.count].weather, fault: fault)
        run.run()
        return !run.complaints.isEmpty
      }
    }
    #expect(isNoticed)
  }

  @Test func producersThatDieAreGivenUp() {
    let runs = (UInt64(0)..<20).map { seed in
      let run = ProducerSimulation(seed: seed, weather: .init(losesData: false, crashes: true))
      run.run()
      return run.expiries
    }
    #expect(runs.contains(1))
    #expect(runs.allSatisfy { $0 <= 1 })
  }
}
