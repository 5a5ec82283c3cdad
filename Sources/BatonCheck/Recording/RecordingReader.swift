import BatonProtocol
import Foundation

/// A recording that can't be read; the text says where and why, and shows nothing of the line.
package struct RecordingMistake: Error, Equatable, CustomStringConvertible {
  package let description: String
}

/// A line that was read.
package enum RecordingLine: Sendable, Equatable {
  case header(RecordingHeader)
  case event(RecordingEvent, at: Int64)
}

/// Takes the bytes of one file and gives its lines.
///
/// A file may hold several recordings, one behind the other, each with its header. The last line of a recording may be
/// incomplete, because its process was killed.
package struct RecordingReader {
  /// Bytes of one line.
  package static let limit = 64 << 20

  private let file: String
  private let isWanted: @Sendable (RecordingHeader.Kind) -> Bool
  private var rest: [UInt8] = []
  private var number = 0
  private var kind: RecordingHeader.Kind?
  /// A line that is no JSON: allowed where the recording was cut there.
  private var broken: RecordingMistake?

  /// - Parameters:
  ///   - file: what mistakes call it.
  ///   - isWanted: recordings of other kinds are passed over, and not looked at.
  package init(file: String, isWanted: @escaping @Sendable (RecordingHeader.Kind) -> Bool = { _ in true }) {
    (self.file, self.isWanted) = (file, isWanted)
  }

  /// - Throws: ``RecordingMistake``.
  package mutating func received(_ bytes: some Sequence<UInt8>) throws(RecordingMistake) -> [RecordingLine] {
    rest.append(contentsOf: bytes)
    var (lines, start) = ([RecordingLine](), 0)
    while let end = rest[start...].firstIndex(of: UInt8(ascii: "\n")) {
      if let line = try line(rest[start..<end]) { lines.append(line) }
      start = end + 1
    }
    rest.removeFirst(start)
    guard rest.count <= Self.limit else { throw mistake("is longer than \(Self.limit >> 20) MiB", at: number + 1) }
    return lines
  }

  /// The file is over.
  /// - Throws: ``RecordingMistake``.
  package mutating func ended() throws(RecordingMistake) -> [RecordingLine] {
    let last = try rest.isEmpty ? nil : line(rest[...])
    if let broken, rest.isEmpty { throw broken }
    guard kind != nil || isCutHeader else { throw RecordingMistake(description: "\(file): holds no recording") }
    return last.map { [$0] } ?? []
  }

  /// The process was killed before it had written its first line.
  private var isCutHeader: Bool {
    let begin = Array(#"{"recording":"#.utf8)
    return number <= 1 && zip(rest, begin).allSatisfy { $0 == $1 }
  }

  private mutating func line(_ bytes: ArraySlice<UInt8>) throws(RecordingMistake) -> RecordingLine? {
    number += 1
    if bytes.allSatisfy({ $0 == UInt8(ascii: " ") || $0 == UInt8(ascii: "\r") }) { return nil }
    if let kind, !isWanted(kind), !Self.mayBeHeader(bytes) { return nil }
    let raw: RawLine
    do {
      raw = try JSONDecoder().decode(RawLine.self, from: Data(bytes))
    } catch DecodingError.dataCorrupted(let context) where context.codingPath.isEmpty {
      if let broken { throw broken }
      broken = mistake("is not JSON")
      return nil
    } catch {
      throw mistake(Self.words(error))
    }
    if let broken, raw.recording == nil { throw broken }
    broken = nil
    do throws(RecordingMistake) {
      if raw.recording != nil {
        let header = try raw.header
        kind = header.kind
        return isWanted(header.kind) ? .header(header) : nil
      }
      guard let kind else {
        throw RecordingMistake(description: #"is no header: a recording begins with {"recording":1,"kind":…}"#)
      }
      return .event(try raw.event(of: kind), at: try raw.time)
    } catch {
      throw mistake(error.description)
    }
  }

  /// Whether it names `"recording"` anywhere; in a text it would be `\"recording\"`.
  private static func mayBeHeader(_ line: ArraySlice<UInt8>) -> Bool {
    let name = Array(#""recording""#.utf8)
    return line.withUnsafeBufferPointer { line in
      guard line.count >= name.count else { return false }
      return (0...line.count - name.count).contains { line[$0] == name[0] && line[$0...].starts(with: name) }
    }
  }

  private func mistake(_ what: String, at line: Int? = nil) -> RecordingMistake {
    RecordingMistake(description: "\(file): line \(line ?? number) \(what)")
  }

  private static func words(_ error: any Error) -> String {
    let path =
      switch error {
      case DecodingError.typeMismatch(_, let context), DecodingError.valueNotFound(_, let context),
        DecodingError.dataCorrupted(let context):
        context.codingPath
      case DecodingError.keyNotFound(let key, let context): context.codingPath + [key]
      default: [any CodingKey]()
      }
    let name = path.map { $0.intValue.map(String.init) ?? $0.stringValue }.joined(separator: ".")
    return name.isEmpty ? "is no JSON object" : "has a '\(name)' of a wrong kind, or lacks it"
  }
}

// MARK: as JSON has it

private struct RawLine: Decodable {
  let recording: Int?
  let kind: String?
  let at: Int64?
  let type: String?
  let session: String?
  let device: String?
  let offset: String?
  let last: Int?
  let response: String?
  let rollup: String?
  let until: String?
  let frame: RawFrame?
  let after: UInt64?
  let n: UInt64?
  let data: String?
  let data64: Data?
  let end: String?
  let id: String?
  let ids: [String]?
  let before: String?
  let length: UInt64?
  let entriesAdded: UInt64?
  let fields: [[RawValue]]?
  let bytes: UInt64?

  func needed<Value>(_ member: KeyPath<RawLine, Value?>, _ name: String) throws(RecordingMistake) -> Value {
    guard let value = self[keyPath: member] else { throw RecordingMistake(description: "lacks '\(name)'") }
    return value
  }

  var header: RecordingHeader {
    get throws(RecordingMistake) {
      guard recording == RecordingHeader.version else {
        throw RecordingMistake(
          description: "is of version \(recording ?? 0) of the format; this program reads \(RecordingHeader.version)")
      }
      let kind: RecordingHeader.Kind =
        switch self.kind {
        case "device":
          .device(RecordingHeader.Asked(device: device, start: try start, rollup: rollup, until: until))
        case "producer": .producer(response: try needed(\.response, "response"))
        case "stream": .stream
        case "deletions": .deletions
        case let kind: throw RecordingMistake(description: "has the unknown kind '\(kind ?? "")'")
        }
      return RecordingHeader(kind, session: try needed(\.session, "session"), at: try time)
    }
  }

  var time: Int64 {
    get throws(RecordingMistake) {
      let at = try needed(\.at, "at")
      guard (0..<1 << 53).contains(at) else { throw RecordingMistake(description: "has an 'at' that is no time") }
      return at
    }
  }

  private var start: RecordingHeader.Asked.Start {
    get throws(RecordingMistake) {
      if let last { return .newest(last) }
      if let response { return .response(response) }
      if offset == "$" || offset == "live" { return .end }
      return .after(try offset.map { (text) throws(RecordingMistake) in try read(offset: text, "offset") } ?? .zero)
    }
  }

  func event(of kind: RecordingHeader.Kind) throws(RecordingMistake) -> RecordingEvent {
    switch (kind, type) {
    case (.device, "connecting"): return .connecting
    case (.device, "frame"): return .frame(try needed(\.frame, "frame").frame)
    case (.device, "lost"): return .lost
    case (.device, "finished"): return .finished
    case (.device, "closed"): return .closed
    case (.device, "rejected"): return .rejected
    case (.producer, "opened"): return .opened(after: try read(number: try needed(\.after, "after"), "after"))
    case (.producer, "delta"):
      guard let bytes = digest else { throw RecordingMistake(description: "lacks 'data'") }
      return .delta(n: try read(number: try needed(\.n, "n"), "n"), bytes)
    case (.producer, "end"): return .end(try needed(\.end, "end"), data: digest)
    case (.producer, "acknowledged"):
      let id = try id.map { (text) throws(RecordingMistake) in try read(id: text, "id") }
      return .acknowledged(through: try read(number: try needed(\.n, "n"), "n"), end: end, id: id)
    case (.stream, "info"):
      return .info(StreamFacts(length: try needed(\.length, "length"), entriesAdded: entriesAdded))
    case (.stream, "entry"): return .entry(try entry)
    case (.stream, "whole"): return .whole
    case (.deletions, "trimmed"): return .trimmed(before: try read(id: try needed(\.before, "before"), "before"))
    case (.deletions, "deleted"):
      guard let ids else { return .deletedSession }
      var all: [EntryID] = []
      for id in ids { all.append(try read(id: id, "ids")) }
      return .deleted(all)
    default:
      throw RecordingMistake(description: "has the type '\(type ?? "")', which a recording of its kind can't have")
    }
  }

  private var digest: Digest? { data.map { Digest($0) } ?? data64.map { Digest($0) } }

  private var entry: StreamEntry {
    get throws(RecordingMistake) {
      let id = try read(id: try needed(\.id, "id"), "id")
      guard let fields else { return StreamEntry(elided: id, bytes: try needed(\.bytes, "bytes")) }
      var pairs: [(name: [UInt8], value: [UInt8])] = []
      for field in fields {
        guard field.count == 2 else { throw RecordingMistake(description: "has 'fields' that are no pairs") }
        pairs.append((field[0].bytes, field[1].bytes))
      }
      return StreamEntry(id: id, pairs: pairs)
    }
  }
}

private func read(id text: String, _ name: String) throws(RecordingMistake) -> EntryID {
  guard let id = EntryID(text) else { throw RecordingMistake(description: "has a '\(name)' that is no id") }
  return id
}

/// Up to 2⁵³−1, as section 2 has it.
private func read(number: UInt64, _ name: String) throws(RecordingMistake) -> UInt64 {
  guard number < 1 << 53 else { throw RecordingMistake(description: "has a '\(name)' over 2⁵³−1") }
  return number
}

private func read(offset text: String, _ name: String) throws(RecordingMistake) -> Offset {
  guard let offset = Offset(text) else { throw RecordingMistake(description: "has a '\(name)' that is no offset") }
  return offset
}

private struct RawFrame: Decodable {
  let type: String?
  let id: String?
  let event: String?
  let response: String?
  let part: String?
  let n: UInt64?
  let joined: UInt64?
  let more: Bool?
  let data: String?
  let data64: Data?
  let fields: [String: RawValues]?
  let session: String?
  let offset: String?
  let first: String?
  let from: String?
  let reason: String?
  let bytes: UInt64?

  var frame: DeviceFrame {
    get throws(RecordingMistake) {
      switch type {
      case nil: .entry(try entry)
      case "attached": .attached(session: session, offset: try place, holdsEntries: first != nil)
      case "live": .live(try place)
      case "behind": .behind
      case "stalled": .stalled
      case "reset": .reset(reason: reason ?? "", from: try needed(from, "from"), offset: try place)
      case "skipped": .skipped(try place, bytes: bytes)
      default: .other
      }
    }
  }

  private var place: Offset { get throws(RecordingMistake) { try needed(offset, "offset") } }

  private func needed(_ text: String?, _ name: String) throws(RecordingMistake) -> Offset {
    guard let text else { throw RecordingMistake(description: "has a frame without '\(name)'") }
    return try read(offset: text, "frame.\(name)")
  }

  private var entry: ShownEntry {
    get throws(RecordingMistake) {
      var others = FieldsDigest()
      for (name, values) in fields ?? [:] {
        for value in values.values { others.add(name, value.bytes) }
      }
      var shown = ShownEntry(
        offset: try needed(id, "id"), event: event ?? "token", response: response,
        n: try n.map { (n) throws(RecordingMistake) in try read(number: n, "frame.n") },
        joined: max(1, try read(number: joined ?? 1, "frame.joined")),
        data: data.map { Digest($0) } ?? data64.map { Digest($0) }, fields: others.value)
      (shown.part, shown.hasMore) = (part, more ?? false)
      return shown
    }
  }
}

/// A string, or `{"base64":"…"}`.
private struct RawValue: Decodable {
  let bytes: [UInt8]

  private struct Base64: Decodable { let base64: Data }

  init(from decoder: any Decoder) throws {
    let container = try decoder.singleValueContainer()
    if let text = try? container.decode(String.self) {
      bytes = Array(text.utf8)
    } else {
      bytes = Array(try container.decode(Base64.self).base64)
    }
  }
}

/// One, or an array of them.
private struct RawValues: Decodable {
  let values: [RawValue]

  init(from decoder: any Decoder) throws {
    let container = try decoder.singleValueContainer()
    values = try (try? container.decode(RawValue.self)).map { [$0] } ?? container.decode([RawValue].self)
  }
}
