import BatonProtocol
import BatonStore
import HummingbirdCore
import NIOCore

/// One upload under way: appends each line as it arrives, keeps the leases of its responses while the uploader lives, and
/// ends it when the uploader is silent for too long or the node goes away. An uploader that is gone without the body's end
/// is not renewed: its responses end by `producer_lost` unless it comes back.
actor UploadTask {
  private let store: any SessionOperations
  private let session: SessionName
  private let identity: Identity?
  private let keepsLeases: Bool
  private let limits: HTTPLimits
  private let state: NodeState
  /// The line that is not whole yet.
  private let gathered: Gathered
  private var upload: ResponseUpload
  private var splitter: LineSplitter
  private var number = 0
  private var heard = ContinuousClock.now
  /// A line that has come is being appended: that nothing is heard meanwhile is not the client's doing.
  private var isAppending = false
  private var renewed = ContinuousClock.now
  private let began = ContinuousClock.now
  private var bytes = 0

  /// A lease is looked at every 5 s and over after 15 (PROTOCOL 9).
  private static let renewal = Duration.seconds(5)
  private static let tick = Duration.milliseconds(250)

  /// - Parameters:
  ///   - keepsLeases: whether the body's end leaves them, for the upload that follows.
  ///   - identity: who uploads; once it is revoked the upload is refused.
  init(
    epoch: UInt64, keepsLeases: Bool, to session: SessionName, by identity: Identity?, store: any SessionOperations,
    limits: HTTPLimits, state: NodeState, gathered: Gathered
  ) {
    self.store = store
    self.session = session
    self.identity = identity
    self.keepsLeases = keepsLeases
    self.limits = limits
    self.state = state
    self.gathered = gathered
    upload = ResponseUpload(epoch: epoch)
    splitter = LineSplitter(limit: limits.maxBodyBytes)
  }

  /// - Throws: `Problem`.
  func run(_ body: RequestBody) async throws -> [EntryID] {
    do {
      try await withThrowingTaskGroup { group in
        group.addTask { try await self.read(body) }
        group.addTask { try await self.watch() }
        defer { group.cancelAll() }
        try await group.next()
      }
    } catch let problem as Problem {
      throw upload.stopped(problem)
    }
    return upload.ids
  }

  private func read(_ body: RequestBody) async throws {
    do {
      for try await chunk in body {
        heard = .now
        bytes += chunk.readableBytes
        guard bytes <= limits.maxUploadBytes else {
          throw Problem(
            .payloadTooLarge, "upload-too-large",
            "An upload may have \(limits.maxUploadBytes) bytes (--max-upload-bytes); go on in another one."
          ).exceeding(.uploadBytes)
        }
        for line in try splitter.take(chunk) { try await append(line) }
        try await gathered.hold(splitter.held)
      }
    } catch let problem as Problem {
      throw problem
    } catch {
      throw Problem.bodyCut
    }
    // The body also seems to end where the reading was given up.
    try Task.checkCancellation()
    if let line = splitter.finish() { try await append(line) }
    for (_, call) in keepsLeases ? [] : upload.releases() { _ = try await store.append(call, to: session) }
  }

  private func append(_ bytes: ByteBuffer) async throws {
    number += 1
    let line = try ResponseUpload.Line(bytes, number: number, limit: limits.maxEntryBytes)
    isAppending = true
    defer { (isAppending, heard) = (false, .now) }
    try upload.took(line, try await store.append(try upload.call(line), to: session))
    renewed = .now
  }

  /// Ends by a `Problem` only.
  private func watch() async throws {
    let silence = Duration.nanoseconds(limits.uploadTimeout.nanoseconds)
    while true {
      try await Task.sleep(for: min(UploadTask.tick, silence / 4))
      if state.endsUploads { throw Problem.draining(retryAfter: 1) }
      if let problem = identity?.objection(to: .publish, session) { throw problem }
      if gathered.givesWay { throw Problem.shortOfMemory }
      if !isAppending, .now - heard >= silence {
        throw Problem.bodyTimeout(silence, "--upload-timeout; a blank line is heard, too")
      }
      let most = Duration.nanoseconds(limits.maxUploadTime.nanoseconds)
      if .now - began >= most { throw Problem.bodyTime(most, "--max-upload-time; go on in another one", .uploadTime) }
      guard .now - renewed >= UploadTask.renewal else { continue }
      renewed = .now
      for (response, call) in upload.renewals() {
        // While Redis is away the leases of all producers stand still.
        guard let reply = try? await store.append(call, to: session) else { break }
        // A line that ended it may have come between.
        if upload.isOpen(response) { try upload.renewed(response, reply) }
      }
    }
  }
}

extension Problem {
  /// Nobody reads it.
  static let bodyCut = Problem.badRequest("body-cut", "The connection was closed before the body's end.")

  static func bodyTime(_ most: Duration, _ option: String, _ limit: Limit) -> Problem {
    Problem(.requestTimeout, "body-time", "The body's end has not come for \(most.components.seconds) s (\(option)).")
      .exceeding(limit)
  }

  static func bodyTooSlow(_ rate: Int) -> Problem {
    Problem(
      .requestTimeout, "body-too-slow", "The body comes with less than \(rate) bytes a second (--min-body-rate)."
    ).exceeding(.bodyRate)
  }

  static func bodyTimeout(_ silence: Duration, _ option: String) -> Problem {
    Problem(
      .requestTimeout, "body-timeout", "Nothing of the body came for \(silence.components.seconds) s (\(option)).")
  }
}
