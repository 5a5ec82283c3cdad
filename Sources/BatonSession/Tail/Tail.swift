import BatonProtocol
import Collections

/// What the tail asks Redis for, for one session.
package struct TailRead: Sendable, Equatable {
  package var session: SessionName
  /// `XREAD` from here: the entry that is known comes back first.
  package var after: EntryID
  package var count: Int
  /// Whether `XINFO STREAM` goes with it in one MULTI.
  package var look: Bool
}

/// What came of one `TailRead`.
package enum TailOutcome: Sendable {
  /// `more`: the reply was cut at the read's count or at its bytes.
  case entries([Entry], info: StreamInfo?, more: Bool)
  case wrongType
  /// It was refused in this form: read again.
  case again
  /// This one command failed (its connection lives): it is tried again with the sweep.
  case failed
}

/// Decides what to read next, for all sessions that a gateway follows on one Redis node.
///
/// A session is *dirty* from a notice to the sending of the read that answers it. One round of reads is under way at a time;
/// a round takes all that is dirty. Every read begins at the last entry that is known, which must come back (DESIGN: every seam
/// is proven by an overlapping entry); where it does not, a look with `XINFO STREAM` decides.
package struct Tail: Sendable {
  package struct Configuration: Sendable {
    /// Sessions read in one round at the most.
    package var roundSessions = 256
    /// Bytes that one session's read is meant to bring; its COUNT follows from the sizes seen.
    package var readBytes = 256 * 1024
    package var maxCount = 1000
    /// Every followed session is read once in this time, notice or not. Milliseconds.
    package var sweepMs: Int64 = 20_000
    /// Polling: the pause between two reads of an active session, and the longest of a quiet one. Milliseconds.
    package var pollMs: Int64 = 20
    package var quietPollMs: Int64 = 500
    /// Entries found by the sweep that no notice announced, before notices are given up.
    package var maxUnannounced = 3
    /// The store is out of reach for so long before devices are told. Milliseconds.
    package var stallMs: Int64 = 2_000

    package init() {}
  }

  package enum Source: Sendable, Equatable {
    case tracking, poll
  }

  package enum Action: Sendable {
    /// Send these, in this order, on the tail's connection; answer each with `completed`.
    case read([TailRead])
    case tell(SessionName, TailUpdate)
    /// Ask the notices' connection for a sign of life and answer with `noticesAnswered`: all earlier notices have come by then.
    case probeNotices(UInt64)
    /// Notices don't work here: polling from now on.
    case sourceChanged(Source)
  }

  package let configuration: Configuration
  package private(set) var source: Source
  private var followed: [SessionName: Followed] = [:]
  /// In the order in which they became dirty; `Followed.isDirty` decides whether one still is.
  private var dirty: Deque<SessionName> = []
  private var isConnected = false
  private var round: [SessionName: TailRead] = [:]
  private var lostAt: Int64?
  private var isStalled = false
  /// All that is followed, and what no longer is until its turn comes.
  private var sweepQueue: Deque<SessionName> = []
  private var swept: Set<SessionName> = []
  private var lastTick: Int64 = 0
  private var sweepDebt: Double = 0
  private var suspects: [SessionName: UInt64] = [:]
  private var probe: UInt64 = 0
  private var unannounced = 0

  /// Entries that reads brought beside the overlapping one.
  package private(set) var entriesRead: UInt64 = 0

  package var sessions: Int { followed.count }

  private struct Followed {
    var isDirty = false
    var place: Place = .zero
    /// The greatest id that this history has given out, as far as is known; behind `place` where the newest was deleted.
    var seen: EntryID = .zero
    var evidence: Verdict.Evidence?
    var isOpen = false
    var needsLook = true
    /// Drawn by those who want to know that a read was made after they asked.
    var ticket: UInt64 = 0
    var sentTicket: UInt64 = 0
    var count: Int
    /// Devices were told `stalled` or `wrongType`: the next read that comes to the end confirms that all is well.
    var isInTrouble = false
    var isSweep = false
    var nextPoll: Int64 = 0
    var pause: Int64
  }

  package init(_ configuration: Configuration = Configuration(), source: Source = .tracking) {
    self.configuration = configuration
    self.source = source
  }

  // MARK: who is followed

  package mutating func follow(_ session: SessionName) -> [Action] {
    if followed[session] == nil {
      followed[session] = Followed(count: 64, pause: configuration.pollMs)
      if swept.insert(session).inserted { sweepQueue.append(session) }
    }
    markDirty(session)
    return reads()
  }

  package mutating func unfollow(_ session: SessionName) {
    followed[session] = nil
    suspects[session] = nil
  }

  /// Where a log of this session that begins now has to begin; nil before the first look.
  package func end(of session: SessionName) -> Place? {
    guard let one = followed[session], one.isOpen else { return nil }
    return one.place
  }

  /// Somebody wants to be told `confirmed` by a read that is sent from now on.
  package mutating func touch(_ session: SessionName, ticket: UInt64) -> [Action] {
    guard let one = followed[session] else { return [] }
    followed[session]?.ticket = max(one.ticket, ticket)
    markDirty(session)
    return reads()
  }

  // MARK: notices

  package mutating func noticed(_ session: SessionName) {
    suspects[session] = nil
    markDirty(session)
  }

  /// False where it already was, or is not followed.
  @discardableResult
  private mutating func markDirty(_ session: SessionName) -> Bool {
    guard followed[session]?.isDirty == false else { return false }
    followed[session]?.isDirty = true
    dirty.append(session)
    return true
  }

  /// A null notice: FLUSHALL, or the server's table overflowed.
  package mutating func noticedAll() {
    suspects.removeAll()
    for session in sweepQueue { markDirty(session) }
  }

  /// After notices were taken in: whether there is something to read.
  package mutating func reads() -> [Action] {
    guard isConnected, round.isEmpty, !dirty.isEmpty else { return [] }
    var reads: [TailRead] = []
    while reads.count < configuration.roundSessions, !dirty.isEmpty {
      let session = dirty.removeFirst()
      guard var one = followed[session], one.isDirty else { continue }
      one.isDirty = false
      let look = one.needsLook || one.place.offset == .zero || !one.isOpen
      let after = one.isOpen ? one.place.offset.id.predecessor ?? .zero : .zero
      let read = TailRead(session: session, after: after, count: one.isOpen ? one.count + 1 : 1, look: look)
      one.sentTicket = one.ticket
      followed[session] = one
      round[session] = read
      reads.append(read)
    }
    return reads.isEmpty ? [] : [.read(reads)]
  }

  package mutating func noticesAnswered(_ token: UInt64) -> [Action] {
    let missed = suspects.filter { $0.value <= token }
    guard !missed.isEmpty, source == .tracking else { return [] }
    for session in missed.keys { suspects[session] = nil }
    unannounced += missed.count
    guard unannounced >= configuration.maxUnannounced else { return [] }
    source = .poll
    return [.sourceChanged(.poll)]
  }

  // MARK: the connections

  /// Both connections are up and notices are armed by reads from now on (or polling is).
  package mutating func connected(source: Source) -> [Action] {
    self.source = source
    unannounced = 0
    isConnected = true
    lostAt = nil
    isStalled = false
    round.removeAll()
    suspects.removeAll()
    for session in sweepQueue where followed[session]?.evidence?.existed == true {
      // Another master may have counted otherwise.
      followed[session]?.evidence?.added = nil
    }
    noticedAll()
    return reads()
  }

  package mutating func disconnected(at now: Int64) {
    if isConnected || lostAt == nil { lostAt = lostAt ?? now }
    isConnected = false
    round.removeAll()
  }

  /// The oldest read is unanswered since then: the store may hang without the connection breaking.
  package mutating func hanging(since: Int64, now: Int64) -> [Action] {
    now - since >= configuration.stallMs ? stall() : []
  }

  /// The store answers again on the same connection.
  package mutating func answered() -> [Action] {
    guard isStalled, isConnected else { return [] }
    isStalled = false
    noticedAll()
    return reads()
  }

  private mutating func stall() -> [Action] {
    guard !isStalled else { return [] }
    isStalled = true
    var actions: [Action] = []
    for session in sweepQueue where followed[session] != nil {
      followed[session]?.isInTrouble = true
      actions.append(.tell(session, .stalled))
    }
    return actions
  }

  // MARK: time

  /// To be called every 20 ms or so while polling, every 250 ms or so otherwise.
  package mutating func tick(now: Int64) -> [Action] {
    var actions: [Action] = []
    if let lostAt, now - lostAt >= configuration.stallMs { actions += stall() }
    sweep(elapsed: lastTick == 0 ? 0 : now - lastTick)
    lastTick = now
    if source == .poll {
      for session in sweepQueue {
        guard let one = followed[session], one.nextPoll <= now else { continue }
        followed[session]?.nextPoll = now + one.pause
        markDirty(session)
      }
    }
    return actions + reads()
  }

  private mutating func sweep(elapsed: Int64) {
    guard isConnected else { return }
    sweepDebt += Double(followed.count) * Double(elapsed) / Double(configuration.sweepMs)
    var left = min(Int(sweepDebt), sweepQueue.count)
    sweepDebt = min(sweepDebt - Double(left), 1)
    while left > 0, let session = sweepQueue.popFirst() {
      guard followed[session] != nil else {
        swept.remove(session)
        continue
      }
      left -= 1
      sweepQueue.append(session)
      guard round[session] == nil, markDirty(session) else { continue }
      followed[session]?.isSweep = true
    }
  }

  // MARK: answers

  package mutating func completed(_ session: SessionName, _ outcome: TailOutcome) -> [Action] {
    guard let read = round.removeValue(forKey: session) else { return [] }
    guard var one = followed[session] else { return reads() }
    let isSweep = one.isSweep
    one.isSweep = false
    var actions: [Action] = []
    let before = entriesRead
    switch outcome {
    case .failed: break
    case .again:
      if !one.isDirty { dirty.append(session) }
      one.isDirty = true
    case .wrongType:
      one.isInTrouble = true
      actions.append(.tell(session, .wrongType))
    case .entries(let entries, let info, let more):
      let isFinal = take(entries, info: info, more: more, read: read, session, &one, &actions)
      if isFinal, one.isInTrouble || one.sentTicket > 0 {
        one.isInTrouble = false
        actions.append(.tell(session, .confirmed(ticket: one.sentTicket)))
        if one.ticket == one.sentTicket { one.ticket = 0 }
      }
      if !isFinal, !one.isDirty {
        one.isDirty = true
        dirty.append(session)
      }
    }
    let brought = entriesRead != before
    one.pause = brought ? configuration.pollMs : min(one.pause * 2, configuration.quietPollMs)
    one.nextPoll = min(one.nextPoll, lastTick + one.pause)
    followed[session] = one
    if brought, isSweep, source == .tracking, !one.isDirty {
      probe += 1
      suspects[session] = probe
      actions.append(.probeNotices(probe))
    }
    return actions + reads()
  }

  /// Whether nothing more is to be read for now.
  private mutating func take(
    _ entries: [Entry], info: StreamInfo?, more: Bool, read: TailRead, _ session: SessionName, _ one: inout Followed,
    _ actions: inout [Action]
  ) -> Bool {
    guard one.isOpen else {
      guard let info else { return false }
      stand(&one, at: info.last ?? .zero, info)
      one.isOpen = true
      one.needsLook = false
      actions.append(.tell(session, .opened(base: one.place)))
      // What was written since the look is told by a notice only if a read has armed it: XREAD did, in the same MULTI.
      return true
    }
    var verdict: Verdict
    if let first = entries.first, one.place.offset != .zero, first.offset.matches(one.place.offset) {
      verdict = .overlap
    } else if let info {
      verdict = Verdict.of(one.place, evidence: one.evidence, info: info, entries: entries)
    } else {
      one.needsLook = true
      return false
    }
    one.needsLook = false
    let fresh = entries.drop { $0.id <= one.place.offset.id }
    if let first = fresh.first, first.id <= one.seen {
      // An id behind one that was told and deleted: only another history can hold it.
      guard info != nil else {
        one.needsLook = true
        return false
      }
      if verdict == .overlap || verdict == .proven { verdict = .reset(.diverged) }
    }
    switch verdict {
    case .overlap, .proven:
      if let last = fresh.last {
        one.place = last.place
        one.seen = last.id
        one.evidence = .init(existed: true, added: one.evidence?.added.map { $0 + UInt64(fresh.count) })
        entriesRead += UInt64(fresh.count)
        adapt(&one, to: entries, read)
        actions.append(.tell(session, .appended(Segment(Array(fresh)))))
      } else if verdict == .proven, let info, info.last?.offset ?? .zero != one.place.offset {
        stand(&one, at: info.last ?? .zero, info)
        actions.append(.tell(session, .rebased(one.place)))
      }
      if let info, !more { one.evidence = .init(existed: true, added: info.entriesAdded) }
      return !more
    case .wait:
      if let info { one.evidence = .init(existed: info.exists, added: info.exists ? info.entriesAdded : 0) }
      return true
    case .reset(let reason):
      guard let info else { return false }
      let reset = Reset(reason, requested: one.place.offset, first: info.first, last: info.last?.offset)
      stand(&one, at: info.last ?? .zero, info)
      actions.append(.tell(session, .reset(reset, base: one.place)))
      return true
    }
  }

  /// All that the stream holds lies before here, and is left to the catch-up.
  private func stand(_ one: inout Followed, at place: Place, _ info: StreamInfo) {
    one.place = place
    one.seen = info.lastGenerated
    one.evidence = .init(existed: info.exists, added: info.exists ? info.entriesAdded : 0)
  }

  private func adapt(_ one: inout Followed, to entries: [Entry], _ read: TailRead) {
    let bytes = entries.reduce(0) { $0 + $1.bytes + 96 }
    one.count = max(1, min(configuration.maxCount, configuration.readBytes * entries.count / max(bytes, 1)))
  }
}
