import ArgumentParser
import BatonCheck
import BatonGateway
import BatonProtocol
import BatonRedis
import Foundation
import NIOCore

struct CheckCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "check",
    abstract: "Judge recordings of devices, producers and streams by what the protocol promises.",
    discussion: """
      Recordings are written by baton attach --record FILE (what a device got), baton publish --record FILE (what a producer
      meant, and what was acknowledged) and baton check --redis URL --session NAME --record FILE (what the stream holds).
      They hold the texts of the sessions; what this command prints does not.

      Each finding is a line: lost, doubled, reordered, foreign, undisclosed or late; the session, the device or the stream,
      the offset, the response and the number of the delta. A table of their counts follows. What was deleted on purpose is
      told by lines of a recording of its own; the article "Checking a history" describes all of them.

      It exits with 0 if nothing was found, 1 if something was, 65 if a recording can't be read, 69 if Redis can't be
      reached, 74 if --record can't be written.
      """)

  @Argument(help: "Recordings, in any order.")
  var recordings: [String] = []

  @Option(
    help: """
      Read streams from this Redis: of the sessions that are named, or else of those that were recorded and of which no \
      recording has the stream.
      """)
  var redis: String?

  @Option(help: "A session whose stream is to be read, perhaps as TENANT/NAME; may be repeated.")
  var session: [String] = []

  @Option(
    help: """
      The tenant of sessions that are named without one: devices, and producers over HTTP, know them by their own names \
      alone.
      """)
  var tenant: String?

  @Option(help: "Where what is read from Redis is recorded, too.")
  var record: String?

  @Option(help: "How the keys in Redis begin.")
  var keyPrefix = "baton:"

  @Option(help: "How many milliseconds after its acknowledgement a live device must have a delta.")
  var late: Int?

  @Flag(help: "Every device must have come to the end of the stream, in the last of its recordings.")
  var toEnd = false

  @Flag(help: "Producers that were not recorded wrote to the sessions, too.")
  var unrecordedProducers = false

  @Flag(help: "One JSON object a line: the findings, then the summary.")
  var json = false

  func validate() throws {
    if redis == nil, record != nil || !session.isEmpty { throw ValidationError("--session and --record need --redis.") }
    if recordings.isEmpty, redis == nil { throw ValidationError("Name at least one recording.") }
    if recordings.isEmpty, session.isEmpty { throw ValidationError("Name a recording or a --session.") }
    for session in session where SessionName(qualified: session) == nil {
      throw ValidationError(
        "The session '\(session)' must be 1 to 128 characters of A-Z a-z 0-9 . _ ~ : @ -, perhaps with TENANT/ before them"
      )
    }
    if let tenant, SessionName(tenant) == nil {
      throw ValidationError("The tenant '\(tenant)' must be 1 to 128 characters of A-Z a-z 0-9 . _ ~ : @ -")
    }
    if let late, late < 0 { throw ValidationError("--late must not be negative.") }
  }

  func run() async throws {
    var report = CheckReport(json: json)
    do {
      var check = HistoryCheck(options)
      // Devices are judged by what all the others say.
      try receive(&check, &report) { !$0.isDevice }
      try await readStreams(&check, &report)
      try receive(&check, &report) { $0.isDevice }
      try report.found(check.ended())
      try report.end(check.scope, streamless: check.recorded.filter { !$0.hasStream }.map(\.session))
    } catch let failure as Descriptor.Failure {
      throw ExitCode(Baton.unwritten(failure, by: "baton check"))
    } catch let failure as CheckFailure {
      say("check", failure.description)
      throw ExitCode(failure.status.rawValue)
    }
    if report.hasFound { throw ExitCode(ExitStatus.found.rawValue) }
  }

  private var options: HistoryCheck.Options {
    HistoryCheck.Options(
      late: late.map(Int64.init), toEnd: toEnd, hasUnrecordedProducers: unrecordedProducers, tenant: tenant)
  }

  /// Takes in those recordings of all files that are wanted.
  private func receive(
    _ check: inout HistoryCheck, _ report: inout CheckReport,
    _ isWanted: @escaping @Sendable (RecordingHeader.Kind) -> Bool
  ) throws {
    for file in recordings {
      var reader = RecordingReader(file: file, isWanted: isWanted)
      try Self.read(file, &reader) { try report.found(check.received($0, of: file)) }
    }
  }

  private static func read(
    _ file: String, _ reader: inout RecordingReader, _ line: (RecordingLine) throws -> Void
  ) throws {
    let handle: FileHandle
    do {
      handle = try FileHandle(forReadingFrom: URL(fileURLWithPath: file))
    } catch {
      throw CheckFailure(.data, "\(file) can't be read: \((error as NSError).localizedDescription)")
    }
    defer { try? handle.close() }
    do {
      while let bytes = try handle.read(upToCount: 1 << 20), !bytes.isEmpty {
        for one in try reader.received(bytes) { try line(one) }
      }
      for one in try reader.ended() { try line(one) }
    } catch let mistake as RecordingMistake {
      throw CheckFailure(.data, mistake.description)
    } catch let error as CocoaError {
      throw CheckFailure(.data, "\(file) can't be read: \(error.localizedDescription)")
    }
  }

  private func readStreams(_ check: inout HistoryCheck, _ report: inout CheckReport) async throws {
    guard let redis else { return }
    let recorded = check.recorded.filter { !$0.hasStream }.map(\.session)
    let sessions = (session.isEmpty ? recorded : session).compactMap { SessionName(qualified: options.qualified($0)) }
    guard !sessions.isEmpty else { return }
    do {
      let out = try record.map { (path) throws(CannotRecord) in try RecordingFile(path, by: "check") }
      let recorder = try StreamRecorder(redis: redis, prefix: keyPrefix)
      for session in sessions {
        var reader = RecordingReader(file: redis)
        try await recorder.record(session) { line in
          out?.write { _ in line }
          for one in try reader.received(line.readableBytesView) { try report.found(check.received(one)) }
        }
      }
      if let out, !out.isWhole { throw ExitCode(ExitStatus.output.rawValue) }
    } catch let error as RedisError {
      throw CheckFailure(error.kind == .configuration ? .configuration : .unavailable, "\(error)")
    } catch let error as CannotRecord {
      throw CheckFailure(.output, error.description)
    }
  }
}

/// Why recordings could not be judged.
struct CheckFailure: Error, CustomStringConvertible {
  let status: ExitStatus
  let description: String

  init(_ status: ExitStatus, _ description: String) { (self.status, self.description) = (status, description) }
}

/// What `baton check` prints.
struct CheckReport {
  private let json: Bool
  private var counts: [Finding.Kind: Int] = [:]

  init(json: Bool) { self.json = json }

  var hasFound: Bool { !counts.isEmpty }

  mutating func found(_ findings: [Finding]) throws {
    for finding in findings {
      counts[finding.kind, default: 0] += 1
      try StandardOutput.write((json ? try Self.encoded(Line(finding)) : finding.description) + "\n")
    }
  }

  func end(_ scope: HistoryCheck.Scope, streamless: [String]) throws {
    let counted = Finding.Kind.allCases.map { ($0.rawValue, counts[$0] ?? 0) }
    let seen = [
      ("sessions", scope.sessions), ("streams", scope.streams), ("entries", scope.entries),
      ("producers", scope.producers), ("deltas", scope.deltas), ("devices", scope.devices), ("frames", scope.frames),
      ("attaches", scope.attaches), ("resets", scope.resets),
    ]
    for session in streamless {
      say("check", "no recording has the stream of \(session); add --redis URL, or what is lost there is not seen")
    }
    if json {
      let summary = Summary(
        findings: Dictionary(uniqueKeysWithValues: counted), judged: Dictionary(uniqueKeysWithValues: seen))
      try StandardOutput.write(try Self.encoded(["summary": summary]) + "\n")
    } else {
      try StandardOutput.write(Self.table("judged", seen) + Self.table("found", counted))
    }
  }

  private static func table(_ title: String, _ rows: [(String, Int)]) -> String {
    let lines = rows.map { name, count in
      "  \(name)" + String(repeating: " ", count: max(1, 20 - name.count - "\(count)".count)) + "\(count)"
    }
    return ([title] + lines).joined(separator: "\n") + "\n"
  }

  private struct Line: Encodable {
    let finding, session: String
    let device, offset, response: String?
    let n: UInt64?
    let detail: String

    init(_ finding: Finding) {
      self.finding = finding.kind.rawValue
      (session, device, offset) = (finding.session, finding.device, finding.offset?.description)
      (response, n, detail) = (finding.response, finding.n, finding.detail)
    }
  }

  private struct Summary: Encodable {
    let findings: [String: Int]
    let judged: [String: Int]
  }

  private static func encoded(_ value: some Encodable) throws -> String {
    let encoder = JSONEncoder()
    encoder.outputFormatting = [.sortedKeys, .withoutEscapingSlashes]
    return String(decoding: try encoder.encode(value), as: UTF8.self)
  }
}
