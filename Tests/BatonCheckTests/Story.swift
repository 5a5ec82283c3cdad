import BatonProtocol

@testable import BatonCheck

/// A session as tests tell it: `r` is a response of deltas `t1 `, `t2 `, …, the n-th at the id `n-0`.
struct Story {
  var session = "s"
  var stream: [StreamEntry]? = []
  var isWhole = true
  /// `.max`: unknown, as before Redis 7; nil: as many as there are.
  var entriesAdded: UInt64?
  var producers: [(response: String, events: [(RecordingEvent, Int64)])] = []
  var deletions: [(RecordingEvent, Int64)] = []
  var devices: [(RecordingHeader.Asked, [(RecordingEvent, Int64)])] = []
  var options = HistoryCheck.Options()

  /// `count` deltas and the end, all acknowledged.
  static func whole(_ count: UInt64 = 5) -> Story {
    var story = Story()
    story.stream = (1...count).map { delta($0) } + [end(count + 1)]
    story.produced(count)
    return story
  }

  mutating func produced(_ count: UInt64, after: UInt64 = 0, ends: Bool = true, at: Int64 = 0, _ text: String = "t") {
    var events: [(RecordingEvent, Int64)] = [(.opened(after: after), at)]
    if count > after {
      for n in after + 1...count {
        events.append((.delta(n: n, Digest("\(text)\(n) ")), at))
        events.append((.acknowledged(through: n, end: nil, id: nil), at))
      }
    }
    if ends {
      events.append((.end("end", data: nil), at))
      events.append((.acknowledged(through: count, end: "end", id: nil), at))
    }
    producers.append(("r", events))
  }

  mutating func device(
    _ frames: [DeviceFrame], asked: RecordingHeader.Asked = .init(device: "d"), finished: Bool = false
  ) {
    let events: [RecordingEvent] = [.connecting] + frames.map { .frame($0) } + (finished ? [.finished] : [])
    devices.append((asked, events.map { ($0, 0) }))
  }

  /// The findings as `kind device id n`.
  func judged() -> [String] {
    var check = HistoryCheck(options)
    var findings: [Finding] = []
    func tell(_ header: RecordingHeader, _ events: [(RecordingEvent, Int64)]) {
      findings += check.received(.header(header))
      for (event, at) in events { findings += check.received(.event(event, at: at)) }
    }
    for producer in producers {
      tell(RecordingHeader(.producer(response: producer.response), session: session), producer.events)
    }
    if let stream {
      let added = entriesAdded ?? UInt64(stream.count)
      let facts = RecordingEvent.info(
        StreamFacts(length: UInt64(stream.count), entriesAdded: added == .max ? nil : added))
      tell(
        RecordingHeader(.stream, session: session),
        ([facts] + stream.map { .entry($0) } + (isWhole ? [.whole] : [])).map { ($0, 0) })
    }
    if !deletions.isEmpty { tell(RecordingHeader(.deletions, session: session), deletions) }
    for (asked, events) in devices { tell(RecordingHeader(.device(asked), session: session), events) }
    findings += check.ended()
    return findings.map { finding in
      [finding.kind.rawValue, finding.device ?? "stream", finding.offset.map { "\($0.id)" }, finding.n.map { "\($0)" }]
        .compactMap(\.self).joined(separator: " ")
    }
  }
}

func fields(_ fields: KeyValuePairs<String, String>) -> [(name: [UInt8], value: [UInt8])] {
  fields.map { (Array($0.key.utf8), Array($0.value.utf8)) }
}

/// The n-th delta, at the id `at-0`.
func delta(_ n: UInt64, at: UInt64? = nil, _ text: String = "t", response: String = "r") -> StreamEntry {
  StreamEntry(
    id: EntryID(at ?? n, 0), pairs: fields(["response": response, "n": "\(n)", "data": "\(text)\(n) "]))
}

func end(_ at: UInt64, response: String = "r") -> StreamEntry {
  StreamEntry(id: EntryID(at, 0), pairs: fields(["event": "end", "response": response]))
}

func note(_ at: UInt64) -> StreamEntry {
  StreamEntry(id: EntryID(at, 0), pairs: fields(["event": "input", "data": "hello"]))
}

/// The frame of an entry, or of adjacent ones.
func frame(_ entries: StreamEntry...) -> DeviceFrame { joinedFrame(entries) }

func joinedFrame(_ entries: [StreamEntry]) -> DeviceFrame {
  var shown = entries[entries.count - 1].shown
  shown.joined = entries.reduce(0) { $0 + $1.shown.joined }
  shown.data = entries.compactMap(\.shown.data).reduce(into: nil) { whole, data in
    var joined = whole ?? Digest()
    joined.append(data)
    whole = joined
  }
  return .entry(shown)
}

func attached(_ offset: Offset = .zero, session: String = "s", holdsEntries: Bool = true) -> DeviceFrame {
  .attached(session: session, offset: offset, holdsEntries: holdsEntries)
}

extension StreamEntry {
  var offset: Offset { shown.offset }

  func changed(_ change: (inout ShownEntry) -> Void) -> DeviceFrame {
    var shown = shown
    change(&shown)
    return .entry(shown)
  }
}

extension [DeviceFrame] {
  /// A frame for each entry, after `attached` and before `live`.
  static func all(_ entries: [StreamEntry]) -> [DeviceFrame] {
    [attached()] + entries.map { frame($0) } + (entries.last.map { [.live($0.offset)] } ?? [])
  }
}
