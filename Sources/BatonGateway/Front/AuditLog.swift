import BatonProtocol
import Foundation
import NIOConcurrencyHelpers
import NIOCore

/// One line of JSON for each refusal and each administrative act, with stable keys, and without texts or credentials
/// (PROTOCOL 11). What the same address is refused for again and again is told seldom, with how often.
package final class AuditLog: Sendable {
  /// Of what a line tells, as far as it is known.
  struct Facts {
    var address: PeerAddress?
    var session: SessionName?
    var tenant: String?
    var subject: String?

    init(address: PeerAddress? = nil, session: SessionName? = nil, _ identity: Identity? = nil) {
      (self.address, self.session) = (address, session)
      tenant = identity?.tenant ?? session?.tenant
      subject = identity?.subject
    }
  }

  private struct Repeated: Hashable {
    let address: PeerAddress?
    let reason: String
  }

  private struct State {
    var paces: [Repeated: (pace: Refusals.Pace, kind: String, number: Int)] = [:]
  }

  /// Addresses and reasons that are told apart; of more the reason alone is.
  static let mostRepeated = 10_000
  /// Characters of a name of others.
  private static let longestName = 256
  private static let sweep = Duration.seconds(5)

  private let node: String
  private let write: @Sendable (String) -> Void
  private let lost: @Sendable () -> UInt64
  private let state = NIOLockedValueBox(State())

  /// - Parameters:
  ///   - lost: how many lines could not be written.
  ///   - write: takes a line with its end, and never blocks.
  init(
    node: String, lost: @escaping @Sendable () -> UInt64 = { 0 }, write: @escaping @Sendable (String) -> Void
  ) {
    (self.node, self.lost, self.write) = (node, lost, write)
  }

  var dropped: UInt64 { lost() }

  /// Whether a refusal is one that an auditor looks for: of who may not, or does too much.
  static func concerns(_ problem: Problem) -> Bool {
    [401, 403, 429].contains(problem.status.code) || problem.name == "bad-proxy-header"
  }

  func refused(_ problem: Problem, _ facts: Facts, now: NIODeadline = .now()) {
    guard Self.concerns(problem) else { return }
    pacedly("refused", "status", Int(problem.status.code), problem.name, facts, now)
  }

  /// A device that was let in was sent away.
  func closed(_ code: Int, _ reason: String, _ facts: Facts, now: NIODeadline = .now()) {
    pacedly("closed", "code", code, reason, facts, now)
  }

  private func pacedly(
    _ event: String, _ kind: String, _ number: Int, _ reason: String, _ facts: Facts, _ now: NIODeadline
  ) {
    let left: Int? = state.withLockedValue { state in
      var key = Repeated(address: facts.address, reason: reason)
      if state.paces.count >= Self.mostRepeated, state.paces[key] == nil {
        key = Repeated(address: nil, reason: reason)
      }
      return state.paces[key, default: (Refusals.Pace(now: now), kind, number)].pace.next(now)
    }
    guard let left else { return }
    line(event, facts) { json in
      json.member(kind, UInt64(number))
      json.member("reason", reason)
      if left > 0 { json.member("unlogged", UInt64(left)) }
    }
  }

  /// Tells what was not told, and forgets who is silent, until it is cancelled.
  func run() async {
    while !Task.isCancelled {
      try? await Task.sleep(for: Self.sweep)
      settle()
    }
  }

  func settle(now: NIODeadline = .now()) {
    let untold = state.withLockedValue { state in
      var untold: [(Repeated, String, Int, Int)] = []
      for (key, value) in state.paces {
        var value = value
        if case let left = value.pace.settle(), left > 0 { untold.append((key, value.kind, value.number, left)) }
        state.paces[key] = value.pace.isIdle(now) ? nil : value
      }
      return untold
    }
    for (key, kind, number, left) in untold {
      line("repeated", Facts(address: key.address)) { json in
        json.member(kind, UInt64(number))
        json.member("reason", key.reason)
        json.member("unlogged", UInt64(left))
      }
    }
  }

  /// An administrative act.
  /// - Parameter members: what was done, by stable names.
  func acted(_ event: String, _ facts: Facts = Facts(), _ members: [(name: String, value: String)] = []) {
    line(event, facts) { json in
      for (name, value) in members { json.member(name, String(value.prefix(Self.longestName))) }
    }
  }

  private func line(_ event: String, _ facts: Facts, _ more: (inout JSONWriter) -> Void) {
    var json = JSONWriter(into: ByteBuffer())
    json.object { json in
      json.member("time", Date.now.ISO8601Format(.init(includingFractionalSeconds: true)))
      json.member("node", node)
      json.member("event", event)
      more(&json)
      if let address = facts.address { json.member("address", "\(address)") }
      if let tenant = facts.tenant { json.member("tenant", tenant) }
      if let session = facts.session { json.member("session", session.description) }
      if let subject = facts.subject { json.member("subject", String(subject.prefix(Self.longestName))) }
    }
    write(String(buffer: json.buffer) + "\n")
  }
}

/// Where an audit log goes: a file that is appended to, a pipe, or standard output.
package final class AuditFile: Sendable {
  package struct Objection: Error {
    package let text: String
  }

  private let path: String?
  private let descriptor: Int32
  package let output: LineOutput

  /// - Parameter path: `-` for standard output.
  /// - Throws: `Objection` where it can't be opened for writing.
  init(_ path: String) throws(Objection) {
    self.path = path == "-" ? nil : path
    descriptor = path == "-" ? STDOUT_FILENO : try Self.open(path)
    output = LineOutput(descriptor)
  }

  /// At the same path: what had it was moved away. What is in use stays where it can't be opened.
  /// - Throws: `Objection`.
  func reopen() throws(Objection) {
    guard let path else { return }
    let fresh = try Self.open(path)
    defer { close(fresh) }
    // What is being written goes to the one or the other, whole.
    guard dup2(fresh, descriptor) >= 0 else { throw Objection(text: String(cString: strerror(errno))) }
    _ = fcntl(descriptor, F_SETFD, FD_CLOEXEC)
  }

  private static func open(_ path: String) throws(Objection) -> Int32 {
    var status = stat()
    // Opened for reading too, a pipe is there before its reader is, and after.
    let isPipe = stat(path, &status) == 0 && status.st_mode & S_IFMT == S_IFIFO
    let way = isPipe ? O_RDWR | O_NONBLOCK : O_WRONLY | O_APPEND | O_CREAT
    let descriptor = Foundation.open(path, way | O_CLOEXEC, 0o640)
    guard descriptor >= 0 else { throw Objection(text: "can't be opened: \(String(cString: strerror(errno)))") }
    return descriptor
  }
}
