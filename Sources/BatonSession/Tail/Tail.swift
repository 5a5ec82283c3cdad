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
  /// This one read was refused: it is this session's trouble alone.
  case failed
  /// Redis answers nobody for now.
  case shut
}

/// Decides what to read next, for all sessions that a gateway follows on one Redis node.
///
/// A session is *dirty* from a notice to the sending of the read that answers it. One round of reads is under way at a time;
/// a round takes all that is dirty. Every read begins at the last entry that is known, which must come back (DESIGN: every seam
/// is proven by an overlapping entry); where it does not, a look with `XINFO STREAM` decides.
///
/// Notices are believed once one was seen to come. Until then, and after several changes that none had announced, sessions
/// are polled as well, and notices are watched: they are believed again once they announce what the polling finds.
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
    /// Reads of quiet sessions in a second: beside notices that are not believed yet, and where there are none.
    package var doubtfulReads = 2_000
    package var pollingReads = 20_000
    /// Reads in a second after notices that announced nothing.
    package var idleReads = 500
    /// Notices in a second that may announce nothing before they are thought little of: deletions do, and so does a
    /// server's tracking table that is too small.
    package var vainNotices = 20
    /// Whether sessions may be polled; without it notices are all there is.
    package var mayPoll = true
    /// Changes in a row that no notice announced, before notices are given up.
    package var maxUnannounced = 3
    /// So long without a read that succeeds, and devices are told. Milliseconds.
    package var stallMs: Int64 = 2_000
    /// The first and the longest pause before what was refused is read again. Milliseconds.
    package var retryMs: Int64 = 100
    package var maxRetryMs: Int64 = 1_000
    /// The longest pause before a read is made again that has cost the connection.
    package var maxLossRetryMs: Int64 = 60_000

    package init() {}
  }

  package enum Source: String, Sendable, CaseIterable {
    /// Notices tell what has changed.
    case tracking
    /// Notices should come, and none was seen yet: sessions are polled as well.
    case unproven
    case poll
  }

  package enum Action: Sendable {
    /// Send these, in this order, on the tail's connection; answer each with `completed`.
    case read([TailRead])
    case tell(SessionName, TailUpdate)
    /// Ask the notices' connection for a sign of life and answer with `noticesAnswered`: all earlier notices have come by then.
    case probeNotices(UInt64)
    /// How changes are learnt from here on.
    case sourceChanged(Source)
  }

  package let configuration: Configuration
  package private(set) var source: Source
  private var followed: [SessionName: Followed] = [:]
  /// In the order in which they became dirty; `Followed.isDirty` decides whether one still is.
  private var dirty: Deque<SessionName> = []
  /// When to read what nobody announced; an entry whose session is queued for another time by now is void.
  private var timetable: Heap<Turn> = []
  private var clock: Int64 = 0
  private var isConnected = false
  private var round: [SessionName: TailRead] = [:]
  /// Redis has refused all: until then nothing is read, and then one session first.
  private var shutUntil: Int64?

  /// Since then no read has succeeded: the connection is gone, a read is unanswered, or all are refused. Milliseconds.
  package private(set) var troubleSince: Int64?
  private var isStalled = false
  private var numbers: UInt64 = 0

  private var isArmed = false
  private var suspects: [SessionName: UInt64] = [:]
  private var probe: UInt64 = 0
  /// Each unannounced change adds `doubtOfMiss`, each announced one takes 1 away.
  private var doubt = 1
  private static let doubtOfMiss = 4
  private var vain = (count: 0, second: Int64.min)
  private var spread: UInt64 = 0x9E37_79B9_7F4A_7C15

  /// Entries that reads brought beside the overlapping one.
  package private(set) var entriesRead: UInt64 = 0

  package var sessions: Int { followed.count }

  /// What is kept for sessions: no more than grows with those that are followed.
  package var scheduled: Int { timetable.count + dirty.count + suspects.count }

  private struct Turn: Comparable {
    var due: Int64
    var session: SessionName

    static func < (one: Turn, other: Turn) -> Bool { one.due < other.due }
    static func == (one: Turn, other: Turn) -> Bool { one.due == other.due && one.session == other.session }
  }

  private struct Followed {
    let number: UInt64
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
    /// When it is read without being announced, and the earliest turn that stands for it in the timetable.
    var due: Int64 = .max
    var queued: Int64 = .max
    var pause: Int64
    /// Reads refused in a row; nothing but `due` makes it dirty until one succeeds.
    var failures = 0
    var failingSince: Int64?
    /// Its last read was lost with the connection: the next one is made alone. How often that was so in a row.
    var isSuspect = false
    var losses = 0
    /// A notice has come since the last read was sent, or had come before the one under way.
    var isNoticed = false
    var wasNoticed = false
    /// The last read armed the notices and came to the end: whatever comes from then on is announced.
    var isWatched = false
    /// Notices in a row after which the read brought nothing.
    var vainNotices = 0
  }

  package init(_ configuration: Configuration = Configuration(), source: Source = .tracking) {
    self.configuration = configuration
    self.source = source
  }

  // MARK: who is followed

  package mutating func follow(_ session: SessionName) -> [Action] {
    var actions: [Action] = []
    if followed[session] == nil {
      numbers += 1
      followed[session] = Followed(
        number: numbers, count: 64, isInTrouble: isStalled, pause: isArmed ? quiet : configuration.pollMs)
      if isStalled { actions.append(.tell(session, .stalled)) }
    }
    markDirty(session)
    return actions + reads()
  }

  package mutating func unfollow(_ session: SessionName) {
    followed[session] = nil
    suspects[session] = nil
    // What is left of those that have gone is never more than what is there.
    if timetable.count > 2 * followed.count + 64 {
      timetable = Heap(timetable.unordered.filter { followed[$0.session]?.queued == $0.due })
    }
    if dirty.count > 2 * followed.count + 64 { dirty.removeAll { followed[$0]?.isDirty != true } }
  }

  /// Where a log of this session that begins now has to begin; nil before the first look.
  package func end(of session: SessionName) -> Place? {
    guard let one = followed[session], one.isOpen else { return nil }
    return one.place
  }

  /// Whether devices of the session were told `stalled`, and nothing else since.
  package func isStalled(_ session: SessionName) -> Bool {
    guard let one = followed[session], one.isInTrouble else { return false }
    return isStalled || one.failingSince != nil
  }

  /// Somebody wants to be told `confirmed` by a read that is sent from now on.
  package mutating func touch(_ session: SessionName, ticket: UInt64) -> [Action] {
    guard let one = followed[session] else { return [] }
    followed[session]?.ticket = max(one.ticket, ticket)
    markDirty(session)
    return reads()
  }

  // MARK: notices

  /// Whatever it is about, a notice has come.
  package mutating func noticesCame() { if source == .unproven { doubt = 0 } }

  package mutating func noticed(_ session: SessionName) {
    noticesCame()
    guard let one = followed[session] else { return }
    if suspects.removeValue(forKey: session) != nil { doubt = max(doubt - 1, 0) }
    followed[session]?.isNoticed = true
    if one.vainNotices < 3 {
      markDirty(session)
    } else {
      // Read again not before its turn: it was announced over and over, and there was nothing.
      plan(session, at: clock + patience(one.vainNotices - 3, from: configuration.pollMs, upTo: idle))
    }
  }

  /// Not where it was refused: it waits for its turn.
  private mutating func markDirty(_ session: SessionName, isItsTurn: Bool = false) {
    guard let one = followed[session], !one.isDirty, one.failures == 0 || isItsTurn else { return }
    followed[session]?.isDirty = true
    dirty.append(session)
  }

  private mutating func readAll() {
    for session in inOrder(followed.keys) { markDirty(session) }
  }

  /// In the order in which they came to be followed.
  private func inOrder(_ sessions: some Collection<SessionName>) -> [SessionName] {
    sessions.sorted { followed[$0]?.number ?? 0 < followed[$1]?.number ?? 0 }
  }

  /// A null notice: FLUSHALL, or the server's table overflowed.
  package mutating func noticedAll() {
    suspects.removeAll()
    for session in followed.keys { followed[session]?.isNoticed = true }
    readAll()
  }

  /// After notices were taken in: whether there is something to read.
  package mutating func reads() -> [Action] {
    var actions = believe()
    guard isConnected, round.isEmpty, !dirty.isEmpty, clock >= shutUntil ?? clock else { return actions }
    var reads: [TailRead] = []
    let most = shutUntil == nil ? configuration.roundSessions : 1
    while reads.count < most, let session = dirty.first {
      guard var one = followed[session], one.isDirty else {
        dirty.removeFirst()
        continue
      }
      if one.isSuspect, !reads.isEmpty { break }
      dirty.removeFirst()
      one.isDirty = false
      (one.wasNoticed, one.isNoticed) = (one.isNoticed, false)
      let look = one.needsLook || !one.place.isEntry || !one.isOpen
      let after = one.isOpen ? one.place.offset.id.predecessor ?? .zero : .zero
      let read = TailRead(session: session, after: after, count: one.isOpen ? one.count + 1 : 1, look: look)
      one.sentTicket = one.ticket
      followed[session] = one
      round[session] = read
      reads.append(read)
      if one.isSuspect { break }
    }
    if !reads.isEmpty { actions.append(.read(reads)) }
    return actions
  }

  package mutating func noticesAnswered(_ token: UInt64) -> [Action] {
    let missed = suspects.filter { $0.value <= token }
    for session in missed.keys { suspects[session] = nil }
    let most = Tail.doubtOfMiss * configuration.maxUnannounced
    doubt = min(doubt + Tail.doubtOfMiss * missed.count, most)
    return believe()
  }

  /// Whether notices are to be believed now.
  private mutating func believe() -> [Action] {
    let most = Tail.doubtOfMiss * configuration.maxUnannounced
    let now: Source =
      switch source {
      case _ where !isConnected: source
      case _ where !isArmed: .poll
      case .tracking: doubt >= most ? .poll : .tracking
      case .unproven: doubt >= most ? .poll : doubt == 0 ? .tracking : .unproven
      case .poll: doubt == 0 ? .tracking : .poll
      }
    guard now != source else { return [] }
    source = now
    replan()
    return [.sourceChanged(now)]
  }

  // MARK: the connections

  /// The tail's connection is up; with `tracking`, notices are armed by reads from now on.
  package mutating func connected(source: Source, at now: Int64? = nil) -> [Action] {
    clock = now ?? clock
    isConnected = true
    isStalled = false
    shutUntil = nil
    round.removeAll()
    for session in followed.keys {
      // What was refused there may be allowed here; what cost the connection would cost this one too.
      if followed[session]?.losses == 0 {
        followed[session]?.failures = 0
        followed[session]?.failingSince = nil
      }
      // Another master may have counted otherwise.
      if followed[session]?.evidence?.existed == true { followed[session]?.evidence?.added = nil }
    }
    return armed(source != .poll)
  }

  /// Notices are armed by reads from now on, or they no longer come.
  package mutating func armed(_ isArmed: Bool, at now: Int64? = nil) -> [Action] {
    clock = now ?? clock
    self.isArmed = isArmed
    doubt = 1
    suspects.removeAll()
    for session in followed.keys {
      followed[session]?.isWatched = false
      followed[session]?.vainNotices = 0
    }
    source = isArmed ? .unproven : .poll
    replan()
    readAll()
    return [.sourceChanged(source)] + reads()
  }

  /// The connection is gone, and what was asked for with it. Where one session's read did it, it is found by reading each
  /// of them alone: it waits for longer and longer, and the others have lost no more than this connection.
  package mutating func disconnected(at now: Int64) {
    clock = now
    troubleSince = troubleSince ?? now
    isConnected = false
    if round.count == 1, let read = round.values.first, followed[read.session]?.isSuspect == true {
      refused(read.session)
      followed[read.session]?.losses += 1
      followed[read.session]?.count = max(1, read.count / 4)
    }
    for session in inOrder(round.keys) {
      followed[session]?.isSuspect = true
      markDirty(session)
    }
    round.removeAll()
  }

  /// Something was asked for: it is trouble until it is answered.
  package mutating func asked(at now: Int64) {
    clock = now
    troubleSince = troubleSince ?? now
  }

  /// A read succeeded.
  package mutating func succeeded(at now: Int64) -> [Action] {
    clock = now
    troubleSince = nil
    guard isStalled, isConnected else { return [] }
    isStalled = false
    readAll()
    return reads()
  }

  private mutating func stall() -> [Action] {
    guard !isStalled else { return [] }
    isStalled = true
    return inOrder(followed.keys).map { session in
      followed[session]?.isInTrouble = true
      return .tell(session, .stalled)
    }
  }

  // MARK: time

  /// To be called every 20 ms or so.
  package mutating func tick(now: Int64) -> [Action] {
    clock = now
    var actions: [Action] = []
    if let troubleSince, now - troubleSince >= configuration.stallMs { actions += stall() }
    while isConnected, let turn = timetable.min, turn.due <= now {
      timetable.removeMin()
      guard let one = followed[turn.session], one.queued == turn.due else { continue }
      followed[turn.session]?.queued = .max
      if one.due > now {
        plan(turn.session, at: one.due)
      } else if round[turn.session] == nil {
        markDirty(turn.session, isItsTurn: true)
        followed[turn.session]?.due = .max
      }
    }
    return actions + reads()
  }

  /// How often quiet sessions are read, where reading them all is to cost no more than this.
  private func pause(readsPerSecond: Int) -> Int64 {
    max(configuration.quietPollMs, Int64(followed.count) * 1000 / Int64(max(readsPerSecond, 1)))
  }

  private var quiet: Int64 {
    pause(readsPerSecond: isArmed ? configuration.doubtfulReads : configuration.pollingReads)
  }

  private var idle: Int64 { pause(readsPerSecond: configuration.idleReads) }

  private func patience(_ repeats: Int, from first: Int64, upTo longest: Int64) -> Int64 {
    min(max(first, 1) << Int64(max(0, min(repeats, 20))), longest)
  }

  private mutating func plan(_ session: SessionName, at due: Int64) {
    guard var one = followed[session] else { return }
    one.due = min(one.due, due)
    if one.due < one.queued {
      one.queued = one.due
      timetable.insert(Turn(due: one.due, session: session))
    }
    followed[session] = one
  }

  /// The next turn of a session that was read.
  private mutating func planNext(_ session: SessionName) {
    guard let one = followed[session], round[session] == nil else { return }
    followed[session]?.due = .max
    if one.failures > 0 {
      let longest = one.losses > 0 ? configuration.maxLossRetryMs : configuration.maxRetryMs
      plan(session, at: clock + patience(one.failures - 1, from: configuration.retryMs, upTo: longest))
    } else if one.isNoticed, !one.isDirty {
      // Announced in vain so often that it waits for its turn, and once more during the read.
      plan(session, at: clock + patience(one.vainNotices - 3, from: configuration.pollMs, upTo: idle))
    } else if source == .tracking || !configuration.mayPoll {
      // Spread, so that what began together does not come round together.
      spread = spread &* 6_364_136_223_846_793_005 &+ 1
      plan(session, at: clock + configuration.sweepMs - Int64(spread >> 33) % max(configuration.sweepMs / 4, 1))
    } else {
      plan(session, at: clock + one.pause)
      let pause = min(max(one.pause, 1) * 2, quiet)
      followed[session]?.pause = pause
    }
  }

  private mutating func replan() { for session in followed.keys { planNext(session) } }

  // MARK: answers

  package mutating func completed(_ session: SessionName, _ outcome: TailOutcome, at now: Int64? = nil) -> [Action] {
    clock = now ?? clock
    guard let read = round.removeValue(forKey: session) else { return [] }
    guard var one = followed[session] else { return reads() }
    var actions: [Action] = []
    let before = entriesRead
    var isFinal = false
    switch outcome {
    case .failed:
      refused(session)
      if let since = followed[session]?.failingSince, clock - since >= configuration.stallMs, !one.isInTrouble {
        followed[session]?.isInTrouble = true
        actions.append(.tell(session, .stalled))
      }
      planNext(session)
      return actions + reads()
    case .shut:
      troubleSince = troubleSince ?? clock
      shutUntil = clock + 500
      followed[session]?.isNoticed = one.isNoticed || one.wasNoticed
      markDirty(session)
      return actions + reads()
    case .again:
      if !one.isDirty { dirty.append(session) }
      one.isDirty = true
      one.isNoticed = one.isNoticed || one.wasNoticed
      followed[session] = one
      return reads()
    case .wrongType:
      if !one.isInTrouble { actions.append(.tell(session, .wrongType)) }
      (one.failures, one.failingSince, one.isInTrouble) = (0, nil, true)
    case .entries(let entries, let info, let more):
      isFinal = take(entries, info: info, more: more, read: read, session, &one, &actions)
      if one.failures == 0 { one.failingSince = nil }
      if isFinal, one.isInTrouble || one.sentTicket > 0 {
        one.isInTrouble = false
        actions.append(.tell(session, .confirmed(ticket: one.sentTicket)))
        if one.ticket == one.sentTicket { one.ticket = 0 }
      }
      if !isFinal, one.failures == 0, !one.isDirty {
        one.isDirty = true
        dirty.append(session)
      }
    }
    shutUntil = nil
    (one.isSuspect, one.losses) = (false, one.failures == 0 ? 0 : one.losses)
    let brought = entriesRead != before
    let isVain = actions.allSatisfy { if case .tell(_, .confirmed) = $0 { true } else { false } }
    actions += weigh(session, &one, brought: brought, isVain: isVain, isFinal: isFinal)
    if brought { one.pause = configuration.pollMs }
    followed[session] = one
    planNext(session)
    return actions + succeeded(at: clock) + reads()
  }

  /// Whether the notices told what the read has found.
  private mutating func weigh(
    _ session: SessionName, _ one: inout Followed, brought: Bool, isVain: Bool, isFinal: Bool
  ) -> [Action] {
    let isAnnounced = one.wasNoticed || one.isNoticed
    let wasWatched = one.isWatched
    one.isWatched = isArmed && isFinal
    if !isVain { one.vainNotices = 0 } else if one.wasNoticed, areManyVain() { one.vainNotices += 1 }
    guard brought, wasWatched, isArmed else { return [] }
    if isAnnounced {
      doubt = max(doubt - 1, 0)
      return believe()
    }
    probe += 1
    suspects[session] = probe
    return [.probeNotices(probe)]
  }

  private mutating func areManyVain() -> Bool {
    if vain.second != clock / 1000 { vain = (0, clock / 1000) }
    vain.count += 1
    return vain.count > configuration.vainNotices
  }

  /// Its next read is sent after a pause that grows.
  private mutating func refused(_ session: SessionName) {
    guard var one = followed[session] else { return }
    one.failures += 1
    one.failingSince = one.failingSince ?? clock
    one.isDirty = false
    one.isNoticed = one.isNoticed || one.wasNoticed
    followed[session] = one
  }

  /// Whether nothing more is to be read for now.
  private mutating func take(
    _ entries: [Entry], info: StreamInfo?, more: Bool, read: TailRead, _ session: SessionName, _ one: inout Followed,
    _ actions: inout [Action]
  ) -> Bool {
    let isVain = entries.isEmpty || one.isOpen && entries.count == 1 && entries[0].id == one.place.offset.id
    if more, isVain, one.isOpen || info == nil {
      // Nothing but what was known fitted into the reply. That is a fact about the reply: ask for less, and where one entry
      // is too much already, not at once again.
      if one.count > 1 {
        one.count = one.count / 2
      } else {
        one.failures += 1
        one.failingSince = one.failingSince ?? clock
      }
      return false
    }
    one.failures = 0
    guard one.isOpen else {
      guard let info else { return false }
      stand(&one, at: info.end, info)
      one.isOpen = true
      one.needsLook = false
      actions.append(.tell(session, .opened(base: one.place)))
      // What was written since the look is told by a notice only if a read has armed it: XREAD did, in the same MULTI.
      return true
    }
    var verdict: Verdict
    if let first = entries.first, one.place.isEntry, first.offset.matches(one.place.offset) {
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
      } else if verdict == .proven, let info, info.end != one.place {
        stand(&one, at: info.end, info)
        actions.append(.tell(session, .rebased(one.place)))
      }
      if let info, !more { one.evidence = .init(existed: true, added: info.entriesAdded) }
      return !more
    case .wait:
      if let info { one.evidence = .init(existed: info.exists, added: info.exists ? info.entriesAdded : 0) }
      return true
    case .reset(let reason):
      guard let info else { return false }
      let reset = Reset(reason, requested: one.place.offset, info)
      stand(&one, at: info.end, info)
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
