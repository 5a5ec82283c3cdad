import BatonProtocol
import Collections

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
    /// New entries of one session that a read for many sessions asks for: what a session has in one round is rarely more.
    package var sharedCount = 16
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
  var trust: NoticeTrust
  package var source: Source { trust.source }
  var followed: [SessionName: Followed] = [:]
  /// In the order in which they became dirty; `Followed.isDirty` decides whether one still is.
  var dirty: Deque<SessionName> = []
  /// When to read what nobody announced; an entry whose session is queued for another time by now is void.
  private var timetable: Heap<Turn> = []
  var clock: Int64 = 0
  private var isConnected = false
  var round: [SessionName: TailRead] = [:]
  /// Redis has refused all: until then nothing is read, and then one session first.
  var shutUntil: Int64?

  /// Since then no read has succeeded: the connection is gone, a read is unanswered, or all are refused. Milliseconds.
  package internal(set) var troubleSince: Int64?
  private var isStalled = false
  private var numbers: UInt64 = 0

  private var spread: UInt64 = 0x9E37_79B9_7F4A_7C15

  /// Entries that reads brought beside the overlapping one.
  package internal(set) var entriesRead: UInt64 = 0

  package var sessions: Int { followed.count }

  /// What is kept for sessions: no more than grows with those that are followed.
  package var scheduled: Int { timetable.count + dirty.count + trust.suspected }

  private struct Turn: Comparable {
    var due: Int64
    var session: SessionName

    static func < (one: Turn, other: Turn) -> Bool { one.due < other.due }
    static func == (one: Turn, other: Turn) -> Bool { one.due == other.due && one.session == other.session }
  }

  /// Ordered by size: there is one for each session.
  struct Followed {
    let number: UInt64
    /// The greatest id that this history has given out, as far as is known; behind `place` where the newest was deleted.
    var seen: EntryID = .zero
    /// Drawn by those who want to know that a read was made after they asked.
    var ticket: UInt64 = 0
    var sentTicket: UInt64 = 0
    /// When it is read without being announced, and the earliest turn that stands for it in the timetable.
    var due: Int64 = .max
    var queued: Int64 = .max
    var pause: Int64
    /// So long after the first notice is what it announced read, and what has come since with it. Milliseconds.
    var paceMs: Int64 = 0
    var failingSince: Int64?
    var place: Place = .zero
    var evidence: Verdict.Evidence?
    var count: Int32
    /// Reads refused in a row; nothing but `due` makes it dirty until one succeeds.
    var failures: Int32 = 0
    /// How often in a row a read was lost with the connection.
    var losses: Int32 = 0
    /// Notices in a row after which the read brought nothing.
    var vainNotices: Int32 = 0
    var isDirty = false
    var isOpen = false
    var needsLook = true
    /// Devices were told `stalled` or `wrongType`: the next read that comes to the end confirms that all is well.
    var isInTrouble = false
    /// It has more to read than a shared read brings, or was refused in one: its reads are its own until one comes to the end.
    var readsAlone = false
    /// Its last read was lost with the connection: the next one is made alone.
    var isSuspect = false
    /// A notice has come since the last read was sent, or had come before the one under way.
    var isNoticed = false
    var wasNoticed = false
    /// The last read armed the notices and came to the end: whatever comes from then on is announced.
    var isWatched = false

    init(number: UInt64, count: Int32, isInTrouble: Bool = false, pause: Int64) {
      (self.number, self.count, self.isInTrouble, self.pause) = (number, count, isInTrouble, pause)
    }
  }

  package init(_ configuration: Configuration = Configuration(), source: Source = .tracking) {
    self.configuration = configuration
    trust = NoticeTrust(configuration, source: source)
  }

  // MARK: who is followed

  package mutating func follow(_ session: SessionName) -> [Action] {
    var actions: [Action] = []
    if followed[session] == nil {
      numbers += 1
      followed[session] = Followed(
        number: numbers, count: 64, isInTrouble: isStalled, pause: trust.isArmed ? quiet : configuration.pollMs)
      if isStalled { actions.append(.tell(session, .stalled)) }
    }
    markDirty(session)
    return actions + reads()
  }

  package mutating func unfollow(_ session: SessionName) {
    followed[session] = nil
    trust.forget(session)
    // What is left of those that have gone is never more than what is there.
    if timetable.count > 2 * followed.count + 64 {
      timetable = Heap(timetable.unordered.filter { followed[$0.session]?.queued == $0.due })
    }
    if dirty.count > 2 * followed.count + 64 { dirty.removeAll { followed[$0]?.isDirty != true } }
  }

  /// What is known of a session that another tail takes over.
  package struct Carried: Sendable {
    fileprivate let session: Followed
  }

  /// The session is followed elsewhere from now on.
  package mutating func released(_ session: SessionName) -> Carried? {
    guard let one = followed[session] else { return nil }
    unfollow(session)
    return Carried(session: one)
  }

  /// Goes on where another tail was: the entry that it knew must come back here.
  package mutating func adopted(_ session: SessionName, _ carried: Carried) -> [Action] {
    guard followed[session] == nil else { return [] }
    let other = carried.session
    numbers += 1
    var one = Followed(number: numbers, count: other.count, pause: trust.isArmed ? quiet : configuration.pollMs)
    (one.place, one.seen, one.evidence, one.isOpen) = (other.place, other.seen, other.evidence, other.isOpen)
    // Another master may have counted otherwise.
    if one.evidence?.existed == true { one.evidence?.added = nil }
    (one.ticket, one.paceMs, one.isInTrouble) = (other.ticket, other.paceMs, other.isInTrouble || isStalled)
    followed[session] = one
    markDirty(session)
    return (isStalled && !other.isInTrouble ? [.tell(session, .stalled)] : []) + reads()
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

  /// Nobody wants what is new in the session sooner than after so long: it is read that much later, with what has come
  /// meanwhile. 0: at once. Milliseconds.
  package mutating func pace(_ session: SessionName, milliseconds: Int64) -> [Action] {
    guard let one = followed[session], one.paceMs != milliseconds else { return [] }
    followed[session]?.paceMs = milliseconds
    if one.isNoticed, milliseconds < one.paceMs { markDirty(session) }
    return reads()
  }

  // MARK: notices

  /// Whatever it is about, a notice has come.
  package mutating func noticesCame(at now: Int64? = nil) {
    clock = now ?? clock
    trust.came()
  }

  package mutating func noticed(_ session: SessionName) {
    noticesCame()
    guard let one = followed[session] else { return }
    trust.announced(session)
    followed[session]?.isNoticed = true
    if one.vainNotices < 3 {
      if one.isOpen, one.paceMs > 0 {
        if !one.isNoticed { plan(session, at: clock + one.paceMs) }
      } else {
        markDirty(session)
      }
    } else {
      // Read again not before its turn: it was announced over and over, and there was nothing.
      plan(session, at: clock + patience(one.vainNotices - 3, from: configuration.pollMs, upTo: idle))
    }
  }

  /// Not where it was refused: it waits for its turn.
  mutating func markDirty(_ session: SessionName, isItsTurn: Bool = false) {
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
    trust.announcedAll()
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
      let isShared =
        !look && !one.isSuspect && !one.readsAlone && one.failures == 0 && Int(one.count) >= configuration.sharedCount
      let read = TailRead(
        session: session, after: after, count: one.isOpen ? Int(one.count) + 1 : 1, look: look, isShared: isShared)
      one.sentTicket = one.ticket
      followed[session] = one
      reads.append(read)
      if one.isSuspect { break }
    }
    let isSharing = reads.lazy.filter(\.isShared).prefix(2).count > 1
    for index in reads.indices {
      reads[index].isShared = isSharing && reads[index].isShared
      if reads[index].isShared { reads[index].count = configuration.sharedCount + 1 }
      round[reads[index].session] = reads[index]
    }
    if !reads.isEmpty { actions.append(.read(reads)) }
    return actions
  }

  package mutating func noticesAnswered(_ token: UInt64) -> [Action] {
    trust.probeAnswered(token)
    return believe()
  }

  /// Whether notices are to be believed now.
  mutating func believe() -> [Action] {
    guard isConnected, let source = trust.reconsidered() else { return [] }
    replan()
    return [.sourceChanged(source)]
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
    trust.begin(isArmed: isArmed)
    for session in followed.keys {
      followed[session]?.isWatched = false
      followed[session]?.vainNotices = 0
    }
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
      followed[read.session]?.count = Int32(clamping: max(1, read.count / 4))
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

  /// When `tick` has something to do; nil: nothing is planned. Milliseconds.
  package var nextTurn: Int64? {
    let stall = isStalled ? nil : troubleSince.map { $0 + configuration.stallMs }
    return [timetable.min?.due, shutUntil, stall].lazy.compactMap { $0 }.min()
  }

  /// To be called at the `nextTurn`, and a few times a second.
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
    pause(readsPerSecond: trust.isArmed ? configuration.doubtfulReads : configuration.pollingReads)
  }

  private var idle: Int64 { pause(readsPerSecond: configuration.idleReads) }

  private func patience(_ repeats: Int32, from first: Int64, upTo longest: Int64) -> Int64 {
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
  mutating func planNext(_ session: SessionName) {
    guard let one = followed[session], round[session] == nil else { return }
    followed[session]?.due = .max
    if one.failures > 0 {
      let longest = one.losses > 0 ? configuration.maxLossRetryMs : configuration.maxRetryMs
      plan(session, at: clock + patience(one.failures - 1, from: configuration.retryMs, upTo: longest))
    } else if one.isNoticed, !one.isDirty {
      // Announced once more during the read, and it waits for its turn: nobody is in a hurry, or it was in vain too often.
      let vain = patience(one.vainNotices - 3, from: configuration.pollMs, upTo: idle)
      plan(session, at: clock + (one.vainNotices < 3 ? one.paceMs : vain))
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
}
