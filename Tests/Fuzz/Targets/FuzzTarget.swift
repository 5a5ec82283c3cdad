/// A parser that outside bytes reach. Whatever it is given, it neither crashes nor breaks what `check` asks of it.
package enum FuzzTarget: String, CaseIterable, Sendable {
  // From clients.
  case frames, handshake, json, lines, query, token, words
  // From Redis.
  case entries, resp, topology
  // From model servers and apps.
  case codecs, requests, upstream
  // From gateways.
  case client

  /// - Throws: ``Finding``.
  package func check(_ input: [UInt8]) async throws {
    switch self {
    case .frames: try FrameChecks.check(input)
    case .handshake: try await HandshakeChecks.check(input)
    case .json: try JSONChecks.check(input)
    case .lines: try LineChecks.check(input)
    case .query: try QueryChecks.check(input)
    case .token: try await TokenChecks.check(input)
    case .words: try WordChecks.check(input)
    case .entries: try EntryChecks.check(input)
    case .resp: try RESPChecks.check(input)
    case .topology: try TopologyChecks.check(input)
    case .codecs: try CodecChecks.check(input)
    case .requests: try RequestChecks.check(input)
    case .upstream: try UpstreamChecks.check(input)
    case .client: try ClientChecks.check(input)
    }
  }
}

/// What did not hold.
package struct Finding: Error, CustomStringConvertible {
  package let description: String
}

func require(_ holds: @autoclosure () throws -> Bool, _ what: @autoclosure () -> String) throws {
  if try !holds() { throw Finding(description: what()) }
}

extension Collection where Index == Int {
  /// Whole, byte by byte, and in pieces of a size that the input says.
  var cuts: [[SubSequence]] {
    let size = 2 + count % 13
    return [[self[startIndex...]], pieces(of: 1), pieces(of: size)]
  }

  private func pieces(of size: Int) -> [SubSequence] {
    stride(from: startIndex, to: endIndex, by: size).map { self[$0..<Swift.min($0 + size, endIndex)] }
  }
}
