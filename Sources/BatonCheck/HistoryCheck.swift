import BatonProtocol

/// Judges recordings by section 10 of the protocol.
///
///     var check = HistoryCheck()
///     for line in lines { findings += check.received(line) }      // what producers, streams and deletions were recorded …
///     for line in lines { findings += check.received(line) }      // … and then the devices
///     findings += check.ended()
///
/// Devices come last, one recording after the other: what one got is compared with what is known when its recording begins.
/// What is kept grows with the number of entries, and with the frames of one device at a time; texts are not kept.
package struct HistoryCheck {
  package struct Options: Sendable {
    /// Milliseconds from the acknowledgement to a live device; nil: lateness is not judged.
    package var late: Int64?
    /// Every device must have come to the stream's end; of one that has begun anew, its last recording.
    package var toEnd: Bool
    /// Others wrote to the sessions, too: what no recorded producer meant is not `foreign`.
    package var hasUnrecordedProducers: Bool
    /// Whose sessions they are of which a recording does not say it; nil: nobody's.
    package var tenant: String?

    package init(
      late: Int64? = nil, toEnd: Bool = false, hasUnrecordedProducers: Bool = false, tenant: String? = nil
    ) {
      (self.late, self.toEnd, self.hasUnrecordedProducers) = (late, toEnd, hasUnrecordedProducers)
      self.tenant = tenant
    }

    /// A session as Redis has it.
    package func qualified(_ session: String) -> String {
      tenant.map { session.contains("/") ? session : "\($0)/\(session)" } ?? session
    }
  }

  /// What was looked at.
  package struct Scope: Sendable, Equatable {
    package var sessions = 0
    package var streams = 0
    package var entries = 0
    package var producers = 0
    package var deltas = 0
    package var devices = 0
    package var frames = 0
    package var attaches = 0
    package var resets = 0
  }

  private enum Current {
    case none
    case session(String, response: Name?)
    case device(String, DeviceHistory, at: Int64)
  }

  private let options: Options
  private var names = Names()
  private var sessions: [String: SessionHistory] = [:]
  private var current = Current.none
  private var areStreamsJudged = false
  /// The latest recording of each device, by session and name.
  private var latest: [[String]: (at: Int64, device: DeviceHistory)] = [:]
  /// So far; complete after ``ended()``.
  package private(set) var scope = Scope()

  package init(_ options: Options = Options()) { self.options = options }

  /// The sessions of which something was recorded, and whether their streams were.
  package var recorded: [(session: String, hasStream: Bool)] {
    sessions.values.map { ($0.name, $0.stream != nil) }.sorted { $0.0 < $1.0 }
  }

  /// The next line of a recording.
  ///
  /// - Parameter file: the recording's, by which a device without a name is called.
  package mutating func received(_ line: RecordingLine, of file: String = "") -> [Finding] {
    switch line {
    case .header(let header): return recordingEnded() + recordingBegan(header, file)
    case .event(let event, let at): return happened(event, at)
    }
  }

  /// Every recording was received.
  package mutating func ended() -> [Finding] {
    var findings = recordingEnded() + judgeStreams()
    for (key, last) in latest.sorted(by: { $0.key.lexicographicallyPrecedes($1.key) }) {
      guard let session = sessions[key[0]] else { continue }
      findings += last.device.notToEnd(session, names)
    }
    latest = [:]
    return findings
  }

  private mutating func recordingBegan(_ header: RecordingHeader, _ file: String) -> [Finding] {
    let name = options.qualified(header.session)
    sessions[name] =
      sessions[name] ?? SessionHistory(name: name, hasUnrecordedProducers: options.hasUnrecordedProducers)
    switch header.kind {
    case .device(let asked):
      scope.devices += 1
      let response: Name? = if case .response(let name) = asked.start { names.number(name) } else { nil }
      let device = DeviceHistory(
        label: asked.device ?? file, asked: asked, onlyResponse: response, options: options)
      current = .device(name, device, at: header.at)
      return judgeStreams()
    case .producer(let response):
      scope.producers += 1
      let response = names.number(response)
      sessions[name]?.producerBegan(response)
      current = .session(name, response: response)
    case .stream:
      let counts = sessions[name]?.streamBegan(at: header.at) ?? false
      current = counts ? .session(name, response: nil) : .none
    case .deletions: current = .session(name, response: nil)
    }
    return []
  }

  private mutating func happened(_ event: RecordingEvent, _ at: Int64) -> [Finding] {
    switch current {
    case .none: return []
    case .session(let name, let response):
      if case .delta = event { scope.deltas += 1 }
      sessions[name]?.happened(event, at: at, response: response, names: &names)
      return []
    case .device(let name, var device, let began):
      guard let session = sessions[name] else { return [] }
      current = .none
      defer { current = .device(name, device, at: began) }
      return device.happened(event, at: at, in: session, &names)
    }
  }

  private mutating func recordingEnded() -> [Finding] {
    defer { current = .none }
    guard case .device(let name, var device, let at) = current, let session = sessions[name] else { return [] }
    scope.frames += device.frames
    scope.attaches += device.attaches
    scope.resets += device.resets
    let findings = device.ended(session, names)
    // Whoever was killed and has begun anew is judged by where it has come to in the end.
    if options.toEnd, at >= latest[[name, device.label]]?.at ?? .min { latest[[name, device.label]] = (at, device) }
    return findings
  }

  private mutating func judgeStreams() -> [Finding] {
    if areStreamsJudged { return [] }
    areStreamsJudged = true
    scope.sessions = sessions.count
    var findings: [Finding] = []
    for name in sessions.keys.sorted() {
      sessions[name]?.sort()
      guard let session = sessions[name] else { continue }
      if let stream = session.stream {
        scope.streams += 1
        scope.entries += stream.items.count
      }
      findings += session.judge(names)
    }
    return findings
  }
}
