import Foundation
import FuzzTargets
import Testing

struct FuzzTests {
  private static let corpus = URL(filePath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
    .appending(path: "Corpus")
  /// Another one than the standard one finds others: `BATON_SEED=N Tests/run unit FuzzTests`.
  private static let seed = ProcessInfo.processInfo.environment["BATON_SEED"].flatMap(UInt64.init) ?? 1
  private static let mutations = 3000

  @Test(arguments: FuzzTarget.allCases)
  func holds(_ target: FuzzTarget) async throws {
    let files = try FileManager.default.contentsOfDirectory(
      at: Self.corpus.appending(path: target.rawValue), includingPropertiesForKeys: nil)
    let kept = try files.sorted { $0.path < $1.path }.map {
      (name: $0.lastPathComponent, bytes: Array(try Data(contentsOf: $0)))
    }
    try #require(!kept.isEmpty)
    for (name, bytes) in kept { await check(target, bytes, name) }
    var mutations = Mutations(of: kept.map(\.bytes), seed: Self.seed)
    for _ in 0..<Self.mutations { await check(target, mutations.next(), "a mutation of seed \(Self.seed)") }
  }

  private func check(_ target: FuzzTarget, _ input: [UInt8], _ name: String) async {
    do { try await target.check(input) } catch {
      Issue.record("\(target.rawValue), \(name): \(error), of \(Data(input).base64EncodedString())")
    }
  }
}
