import BatonProtocol
import Collections

/// Decides which pages of history are read when: each page once for all who ask for the same while it waits, a bounded
/// number at a time, sessions in turn and each with one read at a time.
///
/// Nobody is answered by a read that was sent before they asked: it could be older than what they were promised. What
/// is refused or cut is that session's patience alone.
package struct PageReads: Sendable {
  package struct Configuration: Sendable {
    /// Reads at a time, and the bytes that they are meant to bring together.
    package var maxInFlight = 8
    package var maxFlightBytes = 512 * 1024
    /// Bytes that one read is meant to bring; its COUNT follows from the sizes seen.
    package var readBytes = 128 * 1024
    /// COUNT where nothing is known of a session's entries, and by how much it may grow from read to read.
    package var firstCount = 16
    package var growth = 4
    /// The first and the longest pause before what was refused is read again. Milliseconds.
    package var retryMs: Int64 = 100
    package var maxRetryMs: Int64 = 2_000
    /// The longest pause before a read is made again that has cost the connection. Milliseconds.
    package var maxLossRetryMs: Int64 = 60_000
    /// Who does not wait for the store to come back is answered after so long. Milliseconds.
    package var patienceMs: Int64 = 5_000
    /// Sessions whose entries' sizes are remembered.
    package var maxSizes = 1024

    package init() {}
  }

  package enum Action: Sendable {
    /// As it is to be sent; answer with `arrived`, `cut`, `refused` or `shut`.
    case send(PageRequest)
    case answer([UInt64], PageOutcome)
  }

  private struct Waiter {
    let id: UInt64
    /// Nil: until the store is back, however long that takes. Milliseconds.
    let until: Int64?
  }

  private struct Queue {
    var waiting: OrderedDictionary<PageRequest, [Waiter]> = [:]
    /// As it was asked for, and as it was sent.
    var inFlight: (asked: PageRequest, sent: PageRequest, bytes: Int, waiters: [Waiter])?
    /// Its place among the `turns`.
    var turn: UInt64
    var failures = 0
    var isSuspect = false
    var losses = 0
    /// Not to be read before. Milliseconds.
    var due: Int64 = 0
  }

  private let configuration: Configuration
  private var queues: [SessionName: Queue] = [:]
  /// Who is next; a turn whose session has another one by now is void.
  private var turns: Deque<(session: SessionName, number: UInt64)> = []
  private var drawn: UInt64 = 0
  private var sizes = SizeMemory()
  /// What an entry weighs where nothing is known of its session: as much as the largest that were seen lately.
  private var typicalBytes: Int
  private var isConnected = false
  private var lostAt: Int64?
  private var shutUntil: Int64 = 0
  private var inFlight = 0
  private var flightBytes = 0
  /// Whose read is made alone, because it may have been the one that cost the last connection.
  private var alone: SessionName?
  /// Nobody has waited for too long before. Milliseconds.
  private var nextExpiry = Int64.max
  private var clock: Int64 = 0

  package init(_ configuration: Configuration = Configuration()) {
    self.configuration = configuration
    typicalBytes = configuration.readBytes / configuration.firstCount
  }

  /// Somebody waits for something.
  package var isIdle: Bool { queues.isEmpty }

  // MARK: asking

  /// - Parameter waits: until the store is back, instead of `unavailable` after a while.
  package mutating func asked(_ request: PageRequest, by id: UInt64, waits: Bool, at now: Int64) -> [Action] {
    clock = now
    if !waits, let lostAt, now - lostAt >= 2_000 { return [.answer([id], .unavailable)] }
    let waiter = Waiter(id: id, until: waits ? nil : now + configuration.patienceMs)
    if queues[request.session] == nil { queues[request.session] = Queue(turn: drawTurn(request.session)) }
    queues[request.session]?.waiting[request, default: []].append(waiter)
    nextExpiry = min(nextExpiry, waiter.until ?? .max)
    return []
  }

  /// Who asked has gone: what nobody else waits for is not read.
  package mutating func abandoned(_ id: UInt64, session: SessionName) {
    guard var queue = queues[session] else { return }
    for (request, waiters) in queue.waiting {
      let left = waiters.filter { $0.id != id }
      queue.waiting[request] = left.isEmpty ? nil : left
    }
    queue.inFlight?.waiters.removeAll { $0.id == id }
    keep(queue, session)
  }

  /// The session is read elsewhere from now on.
  /// - Returns: Who waits for what, and whether until the store is back.
  package mutating func released(_ session: SessionName) -> [(request: PageRequest, id: UInt64, waits: Bool)] {
    guard let queue = queues.removeValue(forKey: session) else { return [] }
    var waiting: [(PageRequest, [Waiter])] = queue.waiting.map { ($0, $1) }
    if let sent = queue.inFlight {
      inFlight -= 1
      flightBytes -= sent.bytes
      if alone == session { alone = nil }
      waiting.insert((sent.asked, sent.waiters), at: 0)
    }
    return waiting.flatMap { request, waiters in waiters.map { (request, $0.id, $0.until == nil) } }
  }

  /// What is to be sent now, by turns, while `fits` says that a reply of so many bytes may come.
  package mutating func next(at now: Int64, fits: (Int) -> Bool) -> [Action] {
    clock = now
    var actions = expired()
    guard isConnected, now >= shutUntil else { return actions }
    var index = 0
    while index < turns.count, inFlight < configuration.maxInFlight, alone == nil {
      let (session, number) = turns[index]
      guard var queue = queues[session], queue.turn == number else {
        turns.remove(at: index)
        continue
      }
      index += 1
      guard queue.inFlight == nil, queue.due <= now, let asked = queue.waiting.keys.first else { continue }
      // Its turn comes when what is under way has been answered: others that ask all the time don't keep it waiting.
      if queue.isSuspect, inFlight > 0 { break }
      let (sent, bytes) = sized(asked, isSuspect: queue.isSuspect)
      if inFlight > 0, flightBytes + bytes > configuration.maxFlightBytes { break }
      guard fits(bytes) else { break }
      let waiters = queue.waiting.removeValue(forKey: asked) ?? []
      queue.inFlight = (asked, sent, bytes, waiters)
      inFlight += 1
      flightBytes += bytes
      // The next turn is another session's.
      index -= 1
      turns.remove(at: index)
      queue.turn = drawTurn(session)
      queues[session] = queue
      actions.append(.send(sent))
      if queue.isSuspect { alone = session }
    }
    return actions
  }

  private mutating func drawTurn(_ session: SessionName) -> UInt64 {
    if turns.count > 2 * queues.count + 64 { turns.removeAll { queues[$0.session]?.turn != $0.number } }
    drawn += 1
    turns.append((session, drawn))
    return drawn
  }

  private mutating func expired() -> [Action] {
    guard clock >= nextExpiry else { return [] }
    nextExpiry = .max
    var late: [UInt64] = []
    for (session, var queue) in queues {
      for (request, waiters) in queue.waiting {
        let left = waiters.filter { $0.until.map { $0 > clock } ?? true }
        nextExpiry = left.reduce(nextExpiry) { min($0, $1.until ?? .max) }
        if left.count == waiters.count { continue }
        late += waiters.filter { $0.until.map { $0 <= clock } ?? false }.map(\.id)
        queue.waiting[request] = left.isEmpty ? nil : left
        keep(queue, session)
      }
    }
    return late.isEmpty ? [] : [.answer(late.sorted(), .unavailable)]
  }

  private func sized(_ asked: PageRequest, isSuspect: Bool) -> (PageRequest, bytes: Int) {
    let known = sizes[asked.session]
    let most = known.map { min(configuration.readBytes / max($0.bytes, 1), $0.most) }
    let count = max(1, min(asked.limit, most ?? configuration.firstCount))
    var sent = asked
    sent.limit = min(asked.limit, isSuspect ? max(1, count / 4) : count)
    return (sent, (sent.limit + 1) * (known?.bytes ?? typicalBytes))
  }

  private mutating func keep(_ queue: Queue, _ session: SessionName) {
    let isOver = queue.waiting.isEmpty && queue.inFlight == nil
    queues[session] = isOver ? nil : queue
  }

  // MARK: answers

  private mutating func took(_ sent: PageRequest) -> (Queue, asked: PageRequest, [Waiter])? {
    guard var queue = queues[sent.session], let (asked, current, bytes, waiters) = queue.inFlight, current == sent
    else {
      return nil
    }
    queue.inFlight = nil
    inFlight -= 1
    flightBytes -= bytes
    if alone == sent.session { alone = nil }
    return (queue, asked, waiters)
  }

  /// - Parameter bytes: what the entries weighed on their way, those that were not kept among them.
  package mutating func arrived(_ sent: PageRequest, _ page: PageOutcome, entries: Int, bytes: Int) -> [Action] {
    guard let (known, _, waiters) = took(sent) else { return [] }
    var queue = known
    (queue.failures, queue.isSuspect, queue.losses, queue.due) = (0, false, 0, 0)
    typicalBytes = max(entries > 0 ? bytes / entries : 0, typicalBytes - typicalBytes / 4, 64)
    if entries > 0 {
      remember(sent.session, bytes: max(bytes / entries, 64), most: max(1, sent.limit) * configuration.growth)
    }
    keep(queue, sent.session)
    return waiters.isEmpty ? [] : [.answer(waiters.map(\.id), page)]
  }

  /// The reply was cut before it held anything new: that is a fact about the reply, and the next one is to be smaller.
  package mutating func cut(_ sent: PageRequest) {
    remember(sent.session, bytes: (sizes[sent.session]?.bytes ?? 64) * 4, most: max(1, sent.limit / 4))
    // With one entry it can't get smaller.
    again(sent, failed: sent.limit <= 1)
  }

  /// The read is to be made again, at once.
  package mutating func moved(_ sent: PageRequest) { again(sent, failed: false) }

  /// Redis refuses this read: who does not wait is told, the others are answered when it is refused no more.
  package mutating func refused(_ sent: PageRequest, _ reason: String) -> [Action] {
    again(sent, failed: true)
    guard let queue = queues[sent.session] else { return [] }
    let told = queue.waiting.values.joined().filter { $0.until != nil }.map(\.id)
    for id in told { abandoned(id, session: sent.session) }
    return told.isEmpty ? [] : [.answer(told, .refused(reason))]
  }

  /// The session is on its way to another server.
  package mutating func redirected(_ sent: PageRequest) { again(sent, failed: true) }

  /// Redis answers nobody for now.
  package mutating func shut(_ sent: PageRequest) {
    shutUntil = clock + 500
    again(sent, failed: false)
  }

  private mutating func again(_ sent: PageRequest, failed: Bool) {
    guard let (known, asked, waiters) = took(sent) else { return }
    var queue = known
    if failed { fail(&queue) }
    if !waiters.isEmpty {
      queue.waiting.updateValue(waiters + (queue.waiting[asked] ?? []), forKey: asked, insertingAt: 0)
    }
    keep(queue, sent.session)
  }

  private func fail(_ queue: inout Queue) {
    let longest = queue.losses > 0 ? configuration.maxLossRetryMs : configuration.maxRetryMs
    queue.due = clock + min(configuration.retryMs << Int64(min(queue.failures, 20)), longest)
    queue.failures += 1
  }

  private mutating func remember(_ session: SessionName, bytes: Int, most: Int) {
    typicalBytes = max(typicalBytes, min(bytes, configuration.readBytes))
    sizes.remember(session, bytes: bytes, most: most, atMost: configuration.maxSizes)
  }

  // MARK: the connection

  package mutating func connected(at now: Int64) {
    (clock, isConnected, lostAt, shutUntil) = (now, true, nil, 0)
  }

  /// What was under way is asked for again, one by one: where one of them did it, the others are answered.
  package mutating func disconnected(at now: Int64) {
    (clock, isConnected, lostAt) = (now, false, lostAt ?? now)
    let wasAlone = inFlight == 1
    for (session, number) in turns {
      guard let queue = queues[session], queue.turn == number, let sent = queue.inFlight?.sent else { continue }
      if wasAlone, queue.isSuspect {
        queues[session]?.losses += 1
        remember(session, bytes: (sizes[session]?.bytes ?? 64) * 4, most: max(1, sent.limit / 4))
        again(sent, failed: true)
      } else {
        queues[session]?.isSuspect = true
        again(sent, failed: false)
      }
    }
  }
}

/// What the entries of sessions weigh, for those that were read last; forgotten in halves.
private struct SizeMemory: Sendable {
  private var young: [SessionName: (bytes: Int, most: Int)] = [:]
  private var old: [SessionName: (bytes: Int, most: Int)] = [:]

  subscript(session: SessionName) -> (bytes: Int, most: Int)? { young[session] ?? old[session] }

  /// No entry that is read weighs more than this; a guess that grows with each failure stops there.
  private static let maxBytes = 1 << 30

  mutating func remember(_ session: SessionName, bytes: Int, most: Int, atMost limit: Int) {
    young[session] = (min(bytes, SizeMemory.maxBytes), most)
    guard young.count > limit / 2 else { return }
    old = young
    young.removeAll(keepingCapacity: true)
  }
}
