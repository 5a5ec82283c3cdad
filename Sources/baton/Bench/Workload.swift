/// What is asked of a contender.
struct Workload: Sendable {
  enum Kind: Sendable {
    /// Entries at a rate, while all devices are attached.
    case live
    /// Devices that come back to what they have missed.
    case storm
    /// Devices that attach, each to a session, as fast as they are let in.
    case attach
    /// Devices that are attached, and nothing happens.
    case idle
    /// Entries in windows.
    case memory
  }

  var name: String
  var kind: Kind
  var sessions: Int
  var devicesPerSession: Int
  /// Entries a second in each session.
  var rate = 0.0
  /// Of the data of one entry.
  var entryBytes = 100
  /// The member `rollup` of the attach; nil for its default.
  var rollup: String?
  /// Entries of each session that were there before its devices.
  var missed = 0
  /// Sessions more, each with a device, in which nothing happens.
  var idleSessions = 0

  var devices: Int { sessions * devicesPerSession }

  static let all: [Workload] = [
    Workload(name: "sessions", kind: .live, sessions: 2_000, devicesPerSession: 2, rate: 10, rollup: "off"),
    Workload(name: "fanout", kind: .live, sessions: 1, devicesPerSession: 1_000, rate: 200, rollup: "off"),
    Workload(name: "llm", kind: .live, sessions: 400, devicesPerSession: 2, rate: 60, entryBytes: 24, rollup: "100"),
    Workload(
      name: "llm-off", kind: .live, sessions: 400, devicesPerSession: 2, rate: 60, entryBytes: 24, rollup: "off"),
    Workload(name: "storm", kind: .storm, sessions: 1_000, devicesPerSession: 2, rollup: "off", missed: 500),
    Workload(name: "storm-auto", kind: .storm, sessions: 1_000, devicesPerSession: 2, rollup: "auto", missed: 500),
    Workload(name: "idle", kind: .idle, sessions: 5_000, devicesPerSession: 2),
    Workload(name: "attach-1000", kind: .attach, sessions: 1_000, devicesPerSession: 1),
    Workload(name: "attach", kind: .attach, sessions: 16_000, devicesPerSession: 1),
    Workload(name: "trickle", kind: .live, sessions: 1, devicesPerSession: 1, rate: 50, rollup: "off"),
    Workload(
      name: "attached", kind: .live, sessions: 2_000, devicesPerSession: 2, rate: 10, rollup: "off",
      idleSessions: 20_000),
    Workload(name: "memory", kind: .memory, sessions: 1_000, devicesPerSession: 1, rate: 64, missed: 0),
  ]

  /// The same with fewer sessions, and at least one; `fanout` has fewer devices.
  func scaled(by scale: Double) -> Workload {
    var workload = self
    if sessions == 1 {
      workload.devicesPerSession = max(1, Int(Double(devicesPerSession) * scale))
    } else {
      workload.sessions = max(1, Int(Double(sessions) * scale))
    }
    workload.idleSessions = Int(Double(idleSessions) * scale)
    return workload
  }
}
