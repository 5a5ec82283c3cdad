import BatonProtocol
import BatonRedis
import BatonSession
import BatonStore
import Foundation
import Logging
import NIOCore

/// Tells the addresses of `--webhook` what ends, and what people ask that nobody hears (PROTOCOL 12). Of all nodes one sends;
/// another one does when it is gone.
package actor WebhookSender {
  package struct Options: Sendable {
    package var urls: [String]
    package var secrets: [WebhookSecret]
    package var events: Set<String>
    package var timeout: Duration
    /// An event is given up when it is so old.
    package var retryTime: Duration
    package var caFile: String?
    /// Every slot is looked at once in this time, whatever was noticed.
    package var sweep: Duration
    /// Where devices, and whoever fetches a text, reach the gateways.
    package var publicURL: String?
  }

  package static let events = ["end", "error", "cancelled", "input"]

  private typealias Instant = WebhookQueue.Instant

  private static let turn = Duration.milliseconds(50)
  private static let claimPause = Duration.milliseconds(1500)
  /// After a claim that Redis did not answer.
  private static let firstPause = Duration.milliseconds(200)
  /// This node takes itself for the one that sends: for less than the others do.
  private static let claimed = Duration.milliseconds(StoredWebhooks.claimMs - 1000)
  /// A producer has so long to take an input.
  private static let inputWait = Duration.seconds(1)
  private static let armPause = Duration.seconds(3600)
  /// Records that are too old are looked for.
  private static let expiryPause = Duration.seconds(1)
  /// Slots that are looked at at a time.
  private static let width = 256
  /// An open response is looked at.
  private static let watchPause = Duration.milliseconds(StoredWebhooks.patienceMs)
  /// Open responses that are known; more are found later.
  private static let openLimit = 10_000

  private let options: Options
  private let stored: StoredWebhooks
  private let clients: [WebhookClient]
  private let metrics: WebhookMetrics
  private let logger: Logger
  private let troubles: TroubleLog
  private let token = UUID().uuidString

  private var queue: WebhookQueue
  private var nextClaim: Instant?
  private var claimedUntil: Instant?
  private var unclaimedSince: Instant?
  private var isSender = false
  /// Whether what ends now is recorded, as far as is known.
  private var isRecorded = false
  private var isStopping = false
  private var hasEnded = false
  /// Slots to be read, and the place of the walk over all of them.
  private var due: Set<WebhookSlot> = []
  private var place = 0
  private var armedAt: Instant?
  private var expiredAt = Instant.now
  private var isArming = false
  private var open: [WebhookWatch: Instant] = [:]
  private var isBusyWithRedis = false
  /// Records that are being crossed off.
  private var writes = 0

  /// - Throws: `WebClient.Invalid`.
  init(_ options: Options, stored: StoredWebhooks, metrics: WebhookMetrics, logger: Logger) throws {
    (self.options, self.stored, self.metrics, self.logger) = (options, stored, metrics, logger)
    clients = try options.urls.map { try WebhookClient($0, caFile: options.caFile, timeout: options.timeout) }
    troubles = TroubleLog(logger)
    queue = WebhookQueue(targets: options.urls.map(WebhookID.target))
  }

  /// Until it is cancelled.
  package func run() async {
    while !Task.isCancelled, !isStopping {
      await claim()
      let now = Instant.now
      if isSender, claimedUntil.map({ now < $0 }) == true {
        if !isBusyWithRedis {
          isBusyWithRedis = true
          // Replies that are long in coming must not cost the claim.
          Task {
            await look()
            isBusyWithRedis = false
          }
        }
        expire()
        begin()
      } else if isSender {
        resign()
      }
      metrics.pending.set(queue.count)
      try? await Task.sleep(for: Self.turn)
    }
    hasEnded = true
    while !Task.isCancelled { try? await Task.sleep(for: .seconds(3600)) }
  }

  /// Until what ends is recorded: before that nothing is told of it.
  ///
  /// - Parameter time: Redis may be away for longer.
  package func recorded(within time: Duration) async {
    let deadline = Instant.now + time
    while !isRecorded, !isStopping, Instant.now < deadline { try? await Task.sleep(for: .milliseconds(10)) }
  }

  /// What is on its way has a while to end; then another node sends.
  package func stop() async {
    isStopping = true
    let deadline = Instant.now + min(options.timeout, .seconds(5))
    while !hasEnded || queue.inFlight > 0 || writes > 0, Instant.now < deadline {
      try? await Task.sleep(for: .milliseconds(20))
    }
    if isSender { try? await stored.release(token) }
    resign()
  }

  // MARK: who sends

  private func claim() async {
    let now = Instant.now
    if let nextClaim, now < nextClaim { return }
    nextClaim = now + Self.claimPause
    do {
      let claim = try await stored.claim(token)
      unclaimedSince = nil
      guard claim != .others else {
        if isSender { resign() }
        // The last slot that whoever sends has recorded.
        if !isRecorded { isRecorded = try await stored.count(WebhookSlot(WebhookSlot.count - 1)) >= 0 }
        return
      }
      claimedUntil = now + Self.claimed
      // Where it is begun again Redis has lost it, and perhaps the rest as well.
      if !isSender || claim == .begun { (place, isArming) = (0, true) }
      guard !isSender else { return }
      isSender = true
      logger.info("webhooks are sent from here")
    } catch {
      nextClaim = now + Self.firstPause
      let since = unclaimedSince ?? now
      unclaimedSince = since
      // While the gateway starts Redis is not reached yet.
      if now - since < Self.claimPause { return }
      troubles.occurred("claim", .warning, "webhooks wait for Redis", metadata: ["error": "\(error)"])
    }
  }

  private func resign() {
    if isSender, !isStopping { logger.notice("webhooks are sent from another node") }
    (isSender, claimedUntil) = (false, nil)
    (due, open) = ([], [:])
    queue.clear()
    metrics.sender.set(0)
    metrics.pending.set(0)
  }

  // MARK: what there is

  private func look() async {
    let now = Instant.now
    due.formUnion(stored.notices.take())
    if let armedAt, now - armedAt >= Self.armPause { isArming = true }
    // What has come before is found by looking at all.
    if stored.notices.takeBegun() { isArming = true }
    do {
      try await readDue()
      if isArming { try await arm() } else { try await sweep() }
      try await watchOpen()
    } catch {
      troubles.occurred("read", .warning, "webhooks can't be read", metadata: ["error": "\(error)"])
      try? await Task.sleep(for: .seconds(1))
    }
  }

  /// All slots, in one go; where some master does not answer, all but its own.
  private func arm() async throws {
    let life = Int64(options.retryTime.seconds + 24 * 3600) * 1000
    var failure: (any Error)?
    for start in stride(from: 0, to: WebhookSlot.count, by: Self.width) {
      let slots = (start..<min(start + Self.width, WebhookSlot.count)).map(WebhookSlot.init)
      let (counts, error) = await each(slots) { [stored] in try await stored.arm($0, milliseconds: life) }
      for (slot, count) in counts where count > 0 { due.insert(slot) }
      failure = failure ?? error
      if !isSender { return }
    }
    if let failure { throw failure }
    (isArming, armedAt, place, isRecorded) = (false, .now, 0, true)
    metrics.sender.set(1)
  }

  /// Some slots, so that all have had their turn in the time of a sweep.
  private func sweep() async throws {
    let turns = max(1, options.sweep / Self.turn)
    let end = min(WebhookSlot.count, place + max(1, Int(Double(WebhookSlot.count) / turns)))
    let (counts, error) = await each((place..<end).map(WebhookSlot.init)) { [stored] in try await stored.count($0) }
    for (slot, count) in counts {
      if count > 0 { due.insert(slot) }
      // Its hash was lost.
      if count < 0 { isArming = true }
    }
    place = end == WebhookSlot.count ? 0 : end
    if let error { throw error }
  }

  private func readDue() async throws {
    let slots = Array(due.prefix(Self.width))
    due.subtract(slots)
    let (found, error) = await each(slots) { [stored] in try await stored.records($0) }
    due.formUnion(Set(slots).subtracting(found.map(\.slot)))
    if isSender { for (_, records) in found { take(records) } }
    if let error { throw error }
  }

  /// - Returns: what succeeded, and what one of the others failed by.
  private func each<Value: Sendable>(
    _ slots: [WebhookSlot], _ work: @escaping @Sendable (WebhookSlot) async throws -> Value
  ) async -> (found: [(slot: WebhookSlot, value: Value)], failure: (any Error)?) {
    await withTaskGroup(of: (WebhookSlot, Result<Value, any Error>).self) { group in
      for slot in slots {
        group.addTask {
          do { return (slot, .success(try await work(slot))) } catch { return (slot, .failure(error)) }
        }
      }
      var (found, failure): ([(slot: WebhookSlot, value: Value)], (any Error)?) = ([], nil)
      for await (slot, result) in group {
        switch result {
        case .success(let value): found.append((slot, value))
        case .failure(let error): failure = error
        }
      }
      return (found, failure)
    }
  }

  private func take(_ records: StoredWebhooks.Records) {
    let now = Instant.now
    if records.missing > 0 {
      metrics.dropped(.full, records.missing)
      troubles.occurred(
        "full", .error, "sessions have more webhooks to send than is kept: some are not told",
        metadata: ["events": "\(records.missing)"])
    }
    for record in records.ended.sorted(by: { $0.id < $1.id }) {
      guard options.events.contains(record.event) else {
        carryOut(.remove(record))
        continue
      }
      if record.id.milliseconds < expiry {
        if let dropped = queue.giveUp(record) { giveUp(dropped) }
        continue
      }
      carryOut(queue.add(record, wait: record.event == "input" ? Self.inputWait : .zero, now: now))
    }
    for response in records.open where open[response] == nil && open.count < Self.openLimit {
      open[response] = now + Self.watchPause
    }
  }

  /// What is older is given up. Milliseconds since 1970.
  private var expiry: UInt64 { UInt64(max(0, Self.wallClockMs - Int64(options.retryTime.seconds) * 1000)) }

  private func expire() {
    let now = Instant.now
    guard now - expiredAt >= Self.expiryPause else { return }
    expiredAt = now
    for dropped in queue.expire(before: expiry) { giveUp(dropped) }
  }

  private func giveUp(_ dropped: WebhookQueue.Dropped) {
    metrics.dropped(.expired, dropped.targets.count)
    for target in dropped.targets {
      let name = clients[target].name
      troubles.occurred(
        "\(name) too old", .error, "a webhook is given up: it is older than --webhook-retry-time",
        metadata: Self.metadata(dropped.record, ["to": "\(name)"]))
    }
    carryOut(.remove(dropped.record))
  }

  private func watchOpen() async throws {
    let now = Instant.now
    let looked = open.filter { $0.value <= now }.prefix(Self.width).map(\.key)
    for response in looked {
      open[response] = now + Self.watchPause
      if try await !stored.watch(response, now: Self.wallClockMs) { open[response] = nil }
    }
  }

  private func carryOut(_ action: WebhookQueue.Action) {
    if case .nothing = action { return }
    writes += 1
    Task {
      defer { writes -= 1 }
      do {
        switch action {
        case .nothing: break
        case .keep(let record): try await stored.keep(record)
        case .remove(let record):
          try await stored.remove(record)
          queue.isRemoved(record, now: .now)
        }
      } catch {
        troubles.occurred("record", .warning, "a webhook can't be crossed off", metadata: ["error": "\(error)"])
        guard case .remove = action else { return }
        try? await Task.sleep(for: .seconds(1))
        if isSender { carryOut(action) }
      }
    }
  }

  // MARK: sending

  private func begin() {
    for attempt in queue.attempts(now: .now) {
      Task {
        let outcome = await send(attempt)
        finished(attempt, outcome)
      }
    }
  }

  private func finished(_ attempt: WebhookQueue.Attempt, _ outcome: WebhookQueue.Outcome) {
    carryOut(queue.finished(attempt, outcome, now: .now))
    let name = clients[attempt.target].name
    switch outcome {
    case .delivered: troubles.ended(name, "\(name) takes webhooks again")
    case .gone:
      let (dropped, removed) = queue.abandoned(by: attempt.target)
      metrics.dropped(.gone, dropped)
      for record in removed { carryOut(.remove(record)) }
      logger.error(
        "\(name) wants no more webhooks (410): it is sent none until this node starts again",
        metadata: ["dropped": "\(dropped)"])
    default: break
    }
    if isSender, !isStopping { begin() }
  }

  private func send(_ attempt: WebhookQueue.Attempt) async -> WebhookQueue.Outcome {
    let (record, client) = (attempt.record, clients[attempt.target])
    let message: WebhookMessage
    do {
      if record.event == "input", try await stored.isTaken(record) { return .needless }
      guard let found = try await stored.message(about: record) else {
        metrics.dropped(.deleted)
        return .needless
      }
      message = found
    } catch {
      troubles.occurred("entry", .warning, "webhooks wait for Redis", metadata: ["error": "\(error)"])
      return .postponed
    }
    let body = message.json(publicURL: options.publicURL)
    let (id, timestamp) = (WebhookID.of(record.field), Int(Date().timeIntervalSince1970))
    let headers = [
      ("content-type", "application/json"), ("user-agent", "baton/\(batonVersion)"), ("webhook-id", id),
      ("webhook-timestamp", "\(timestamp)"),
      ("webhook-signature", WebhookSecret.header(options.secrets, id: id, timestamp: timestamp, body: body)),
    ]
    do {
      let answer = try await client.post(body, headers)
      switch answer.status {
      case 200..<300:
        metrics.attempted(.delivered)
        logger.debug("a webhook was taken", metadata: Self.metadata(record, ["to": "\(client.name)"]))
        return .delivered
      case 410:
        metrics.attempted(.gone)
        return .gone
      default:
        metrics.attempted(.refused)
        troubles.occurred(
          client.name, .warning, "\(client.name) refuses a webhook",
          metadata: Self.metadata(record, ["status": "\(answer.status)"]))
        return .failed(retryAfter: answer.retryAfter)
      }
    } catch {
      metrics.attempted(.unreachable)
      troubles.occurred(
        client.name, .warning, "\(client.name) can't be sent a webhook",
        metadata: Self.metadata(record, ["error": "\(WebhookClient.words(error))"]))
      return .failed(retryAfter: nil)
    }
  }

  private static func metadata(_ record: WebhookRecord, _ more: Logger.Metadata) -> Logger.Metadata {
    var metadata = more
    metadata["session"] = "\(record.session.qualified)"
    metadata["offset"] = "\(record.id)"
    if let response = record.response { metadata["response"] = "\(response)" }
    return metadata
  }

  private static var wallClockMs: Int64 { Int64(Date().timeIntervalSince1970 * 1000) }
}

extension Duration {
  fileprivate var seconds: Int { Int(components.seconds) }
}
