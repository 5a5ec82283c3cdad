import BatonStore
import DequeModule

/// What is to be sent to whom, and when, as a value (PROTOCOL 12). A target that fails is asked by one request at a time, after
/// a growing pause, and costs the others nothing.
package struct WebhookQueue: Sendable {
  package typealias Instant = ContinuousClock.Instant

  /// Requests to one target at a time.
  package static let concurrency = 16
  package static let firstPause = Duration.seconds(1)
  /// Of a target.
  package static let longestPause = Duration.seconds(60)
  /// Of one record, and the most that a Retry-After is heeded.
  package static let longestWait = Duration.seconds(600)
  /// Fields that were let go of are not taken up again at once: a reply that was on its way may have them as they were, and
  /// who reads a session slowly may record its end once more.
  private static let remembered = Duration.seconds(60)

  package enum Outcome: Sendable, Equatable {
    case delivered
    case failed(retryAfter: Duration?)
    /// 410: the target wants no more.
    case gone
    /// Nothing was sent, and the target has nothing to do with it.
    case postponed
    /// There is nothing to tell to anybody.
    case needless
  }

  /// What is to be done in Redis.
  package enum Action: Sendable, Equatable {
    case nothing
    /// Some have been told.
    case keep(WebhookRecord)
    case remove(WebhookRecord)
  }

  package struct Attempt: Sendable, Equatable {
    package let record: WebhookRecord
    package let target: Int
  }

  /// A record that these targets are not told.
  package struct Dropped: Sendable, Equatable {
    package let record: WebhookRecord
    package let targets: [Int]
  }

  private struct Item {
    var record: WebhookRecord
    /// Failed attempts, by the targets that it waits for.
    var failures: [Int: Int] = [:]
    var inFlight = 0
    /// It is being removed from Redis.
    var isRemoved = false
  }

  private struct Target {
    let name: String
    var ready: Deque<String> = []
    var waiting: [(due: Instant, field: String)] = []
    /// Records that wait for it.
    var held = 0
    var inFlight = 0
    /// In a row.
    var failures = 0
    var pausedUntil: Instant?
    var isGone = false
  }

  private let limit: Int
  private var targets: [Target]
  private var items: [String: Item] = [:]
  private var forgotten: Deque<(at: Instant, field: String)> = []
  /// Whether those that were let go of have been removed.
  private var recent: [String: Bool] = [:]
  private let random: @Sendable () -> Double

  /// - Parameters:
  ///   - targets: names that records are marked by.
  ///   - limit: records in memory that wait for one target; more stay in Redis until there is room.
  ///   - random: 0 to 1, for pauses.
  package init(
    targets: [String], limit: Int = 10_000, random: @escaping @Sendable () -> Double = { .random(in: 0...1) }
  ) {
    self.targets = targets.map { Target(name: $0) }
    (self.limit, self.random) = (limit, random)
  }

  package var count: Int { items.count }
  package var inFlight: Int { targets.reduce(0) { $0 + $1.inFlight } }

  /// Forgets all but what is on its way: another node sends from here on.
  package mutating func clear() {
    items = [:]
    for index in targets.indices {
      targets[index].ready = []
      targets[index].waiting = []
      targets[index].held = 0
    }
  }

  /// Those that are still to be told of it.
  private func left(of record: WebhookRecord) -> [Int] {
    targets.indices.filter { !targets[$0].isGone && !record.told.contains(targets[$0].name) }
  }

  /// - Parameter wait: before the first attempt.
  /// - Returns: what is to be done where nobody is to be told.
  package mutating func add(_ record: WebhookRecord, wait: Duration = .zero, now: Instant) -> Action {
    let field = record.field
    if let wasRemoved = recent[field] { return wasRemoved ? .remove(record) : .nothing }
    guard items[field]?.isRemoved != true else { return .nothing }
    var item = items[field] ?? Item(record: record)
    let left = left(of: item.record)
    guard !left.isEmpty else {
      item.isRemoved = true
      items[field] = item
      return .remove(record)
    }
    for target in left where item.failures[target] == nil && targets[target].held < limit {
      item.failures[target] = 0
      targets[target].held += 1
      if wait > .zero {
        targets[target].waiting.append((now + wait, field))
      } else {
        targets[target].ready.append(field)
      }
    }
    if !item.failures.isEmpty { items[field] = item }
    return .nothing
  }

  /// Those that may begin now; ``finished(_:_:now:)`` follows for each.
  package mutating func attempts(now: Instant) -> [Attempt] {
    while let first = forgotten.first, now - first.at >= Self.remembered || forgotten.count > 2 * limit {
      forgotten.removeFirst()
      recent[first.field] = nil
    }
    var begun: [Attempt] = []
    for index in targets.indices where !targets[index].isGone {
      if targets[index].waiting.contains(where: { $0.due <= now }) {
        for (due, field) in targets[index].waiting where due <= now { targets[index].ready.append(field) }
        targets[index].waiting.removeAll { $0.due <= now }
      }
      if let until = targets[index].pausedUntil, now < until { continue }
      let room = targets[index].failures > 0 ? 1 : Self.concurrency
      while targets[index].inFlight < room, let field = targets[index].ready.popFirst() {
        guard let item = items[field], item.failures[index] != nil, !item.isRemoved else { continue }
        targets[index].inFlight += 1
        items[field]?.inFlight += 1
        begun.append(Attempt(record: item.record, target: index))
      }
    }
    return begun
  }

  package mutating func finished(_ attempt: Attempt, _ outcome: Outcome, now: Instant) -> Action {
    let (index, field) = (attempt.target, attempt.record.field)
    targets[index].inFlight -= 1
    switch outcome {
    case .delivered:
      targets[index].failures = 0
      targets[index].pausedUntil = nil
    case .failed(let retryAfter):
      targets[index].failures += 1
      let pause = max(pause(targets[index].failures, Self.longestPause), min(retryAfter ?? .zero, Self.longestWait))
      targets[index].pausedUntil = now + pause
    case .gone:
      targets[index].isGone = true
      targets[index].ready = []
      targets[index].waiting = []
    case .postponed, .needless: break
    }
    guard var item = items[field] else { return .nothing }
    item.inFlight -= 1
    items[field] = item
    guard let failures = item.failures[index], !item.isRemoved else { return .nothing }
    switch outcome {
    case .postponed:
      targets[index].waiting.append((now + Self.firstPause, field))
      return .nothing
    case .failed(let retryAfter):
      items[field]?.failures[index] = failures + 1
      let wait = max(pause(failures + 1, Self.longestWait), min(retryAfter ?? .zero, Self.longestWait))
      targets[index].waiting.append((now + wait, field))
      return .nothing
    case .gone: return .nothing
    case .needless:
      remove(field)
      return .remove(item.record)
    case .delivered:
      item.record.told.insert(targets[index].name)
      item.failures[index] = nil
      targets[index].held -= 1
      items[field] = item
    }
    if left(of: item.record).isEmpty {
      remove(field)
      return .remove(item.record)
    }
    // Who else is to be told has no room for it now: it waits in Redis.
    if item.failures.isEmpty { forget(field, now, wasRemoved: false) }
    return .keep(item.record)
  }

  /// The records that a target was still to be told that wants no more; those are to be removed that wait for no other.
  package mutating func abandoned(by target: Int) -> (dropped: Int, removed: [WebhookRecord]) {
    var (dropped, removed): (Int, [WebhookRecord]) = (0, [])
    for (field, item) in items where item.failures[target] != nil && !item.isRemoved {
      dropped += 1
      items[field]?.failures[target] = nil
      if left(of: item.record).isEmpty {
        remove(field)
        removed.append(item.record)
      }
    }
    targets[target].held = 0
    return (dropped, removed)
  }

  /// What is older is given up.
  ///
  /// - Parameter time: milliseconds since 1970.
  /// - Returns: those that are to be removed.
  package mutating func expire(before time: UInt64) -> [Dropped] {
    let old = items.filter { !$0.value.isRemoved && $0.value.inFlight == 0 && $0.value.record.id.milliseconds < time }
    return old.map { field, item in
      remove(field)
      return Dropped(record: item.record, targets: left(of: item.record))
    }
  }

  /// A record that is old already when it is found, and was not taken up.
  package mutating func giveUp(_ record: WebhookRecord) -> Dropped? {
    guard items[record.field] == nil, recent[record.field] == nil else { return nil }
    items[record.field] = Item(record: record, isRemoved: true)
    return Dropped(record: record, targets: left(of: record))
  }

  /// Redis has it no more.
  package mutating func isRemoved(_ record: WebhookRecord, now: Instant) {
    forget(record.field, now, wasRemoved: true)
  }

  private mutating func remove(_ field: String) {
    for target in (items[field]?.failures ?? [:]).keys { targets[target].held -= 1 }
    items[field]?.failures = [:]
    items[field]?.isRemoved = true
  }

  private mutating func forget(_ field: String, _ now: Instant, wasRemoved: Bool) {
    items[field] = nil
    if recent.updateValue(wasRemoved, forKey: field) == nil { forgotten.append((now, field)) }
  }

  private func pause(_ failures: Int, _ longest: Duration) -> Duration {
    let grown = Self.firstPause * (1 << min(failures - 1, 16))
    return min(grown, longest) * (0.5 + random() / 2)
  }
}
