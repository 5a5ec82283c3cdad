import BatonProtocol
import BatonRedis
import BatonSession
import NIOCore

/// Ends responses whose producer died (PROTOCOL 9), for all sessions that are followed: drives a ``LeaseWatch`` for each.
final class LeaseKeeper {
  /// Fields of the producers' hash that one command looks at: a hash of any size makes nobody wait for longer.
  static let step = 512

  private struct Watched {
    var watch = LeaseWatch()
    /// Responses that may have a lease.
    var responses: Set<String> = []
    /// Where the walk through the hash has come to; nil while there is none.
    var cursor: String?
    /// Entries came unseen: another walk is to follow this one.
    var walksAgain = false
    /// Nobody is told `live` before the first walk is over.
    var isHeld = true
    /// A response ended meanwhile, here or at another gateway: its end is told before `live`.
    var hasEnded = false
    /// What is there is being read; this ticket confirms it.
    var awaited: UInt64?
    var isLooking = false
    /// Responses that somebody may go on with: that is being tried.
    var rescued: Set<String> = []
  }

  private let eventLoop: any EventLoop
  private let keyPrefix: String
  private let commands: CommandLink
  private let shard: ShardState
  private let observe: (StoreEvent) -> Void
  /// Has the session's stream read. Returns the ticket with which that is confirmed.
  private let read: (SessionName) -> UInt64
  /// Somebody may be told `live`.
  private let release: (SessionName) -> Void
  private let rescue: ResponseRescue
  private var sessions = Turns()
  private var turn = 0
  private var isTicking = false

  /// All sessions, in parts that are looked at one after the other within ``LeaseWatch/interval``: all at once would keep the
  /// live ones waiting for milliseconds.
  private struct Turns {
    static let count = 16
    private(set) var parts: [[SessionName: Watched]] = Array(repeating: [:], count: Turns.count)

    subscript(session: SessionName) -> Watched? {
      get { parts[Turns.part(of: session)][session] }
      _modify { yield &parts[Turns.part(of: session)][session] }
    }

    private static func part(of session: SessionName) -> Int { session.hashValue & (count - 1) }

    mutating func remove(_ session: SessionName) -> Watched? {
      parts[Turns.part(of: session)].removeValue(forKey: session)
    }

    var isEmpty: Bool { parts.allSatisfy(\.isEmpty) }
    var names: [SessionName] { parts.flatMap(\.keys) }
    var haveResponses: Bool { parts.contains { $0.values.contains { !$0.responses.isEmpty } } }
  }

  init(
    keyPrefix: String, commands: CommandLink, shard: ShardState, rescue: ResponseRescue, on eventLoop: any EventLoop,
    observe: @escaping (StoreEvent) -> Void, read: @escaping (SessionName) -> UInt64,
    release: @escaping (SessionName) -> Void
  ) {
    (self.eventLoop, self.keyPrefix, self.commands, self.shard) = (eventLoop, keyPrefix, commands, shard)
    (self.observe, self.read, self.release, self.rescue) = (observe, read, release, rescue)
  }

  /// A session is followed from now on: nobody is told `live` before a walk is over, and what it finds dead is ended.
  /// - Parameter hasEnded: as ``end(_:)`` said where it was followed until now.
  func begin(_ session: SessionName, hasEnded: Bool = false) {
    sessions[session] = Watched()
    sessions[session]?.hasEnded = hasEnded
    tick()
  }

  /// Entries came: their responses may have leases.
  func noticed(_ session: SessionName, _ entries: Entries) {
    var last: String?
    for entry in entries {
      if let last, entry.isOf(last) { continue }
      guard let response = entry.response, !entry.endsResponse else { continue }
      last = response
      sessions[session]?.responses.insert(response)
    }
  }

  /// Entries lie before those that `noticed` will be told of: their responses may have leases.
  func missed(_ session: SessionName) {
    guard sessions[session]?.cursor == nil else {
      sessions[session]?.walksAgain = true
      return
    }
    sessions[session]?.cursor = "0"
    // Later ones with the next tick: a session that is trimmed all the time is walked through once a second.
    if sessions[session]?.isHeld == true { walk(session) }
  }

  func isWatching(_ session: SessionName) -> Bool { sessions[session] != nil }

  /// - Returns: whether somebody waits for `live` until a response's end was read.
  @discardableResult
  func end(_ session: SessionName) -> Bool {
    guard let watched = sessions.remove(session) else { return false }
    return watched.isHeld && watched.hasEnded
  }

  /// Its slot is in motion: its producers can't write, however well the server is, and nobody can end a response for them.
  func isInMotion(_ session: SessionName) {
    sessions[session]?.watch.connectionLost()
    free(session)
  }

  /// - Returns: whether somebody may be told `live` now.
  func confirmed(_ session: SessionName, _ ticket: UInt64) -> Bool {
    guard let watched = sessions[session], let awaited = watched.awaited, ticket >= awaited else { return false }
    sessions[session]?.awaited = nil
    // Another one may look dead by now.
    if watched.watch.holdsLive { return false }
    sessions[session]?.isHeld = false
    return true
  }

  func holdsLive(_ session: SessionName) -> Bool { sessions[session]?.isHeld == true }

  /// Nothing that was seen counts: the connection is another now. Another master may have open what had ended.
  func begunAnew() {
    for session in sessions.names {
      sessions[session]?.watch.connectionLost()
      if sessions[session]?.cursor == nil { sessions[session]?.cursor = "0" }
    }
  }

  private func tick() {
    guard !isTicking, !sessions.isEmpty else { return }
    isTicking = true
    let pause = TimeAmount.nanoseconds(LeaseWatch.interval.nanoseconds / Int64(Turns.count))
    eventLoop.assumeIsolated().scheduleTask(in: pause) { [weak self] in
      guard let self else { return }
      self.isTicking = false
      self.turn = (self.turn + 1) % Turns.count
      // Whether writes succeed has to be known before a look is judged: it is asked on the same connection.
      if self.turn == 0, self.sessions.haveResponses { self.commands.tryWrite() }
      self.lookAtPart()
      self.tick()
    }
  }

  private func lookAtPart() {
    for (session, watched) in sessions.parts[turn] where !watched.isLooking {
      if watched.cursor != nil { walk(session) } else if !watched.responses.isEmpty { look(session) }
    }
  }

  private func key(_ session: SessionName) -> RedisCommand.Argument {
    .string(SessionKeys(session, prefix: keyPrefix).producers)
  }

  /// One step through the hash; the next follows its answer.
  private func walk(_ session: SessionName) {
    guard let cursor = sessions[session]?.cursor, sessions[session]?.isLooking == false else { return }
    sessions[session]?.isLooking = true
    let command = RedisCommand("HSCAN", key(session), .string(cursor), "COUNT", .integer(Int64(LeaseKeeper.step)))
    commands.send([command], of: session) { [weak self] result in
      guard let self, self.sessions[session] != nil else { return }
      self.sessions[session]?.isLooking = false
      // Not answered, it is asked again with the next tick.
      guard case .success(let replies) = result, let reply = replies.first else { return }
      if let error = reply.error {
        // On its way to another server: it is asked there.
        if error.redirection != nil || error.code == "TRYAGAIN" { return }
        // A key of another type has no leases; where looking is not allowed, nobody waits for it.
        if !error.shuts { self.seen(session, next: nil, leased: []) }
        return
      }
      guard var parts = reply.elements, let next = parts.next()?.text, let fields = parts.next()?.elements else {
        return
      }
      self.seen(session, next: next == "0" ? nil : next, leased: LeaseKeeper.leased(fields))
    }
  }

  /// Names of those responses, of names and records in turn, that have a lease. Most have ended: they are not decoded.
  private static func leased(_ fields: RESPReply.Elements) -> [String] {
    var fields = fields
    var found: [String] = []
    while let name = fields.next(), let value = fields.next() {
      guard let bytes = value.bytes?.readableBytesView, bytes.contains(UInt8(ascii: ".")),
        ResponseRecord(String(decoding: bytes, as: UTF8.self))?.isLeased == true, let name = name.text
      else { continue }
      found.append(name)
    }
    return found
  }

  private func seen(_ session: SessionName, next: String?, leased: [String]) {
    sessions[session]?.cursor = next
    sessions[session]?.responses.formUnion(leased)
    if next != nil { return walk(session) }
    // What is on its way to here may not be here yet.
    if sessions[session]?.walksAgain == true || shard.asking[session] != nil {
      sessions[session]?.walksAgain = false
      sessions[session]?.cursor = "0"
    }
    if sessions[session]?.responses.isEmpty == true { free(session) } else { look(session) }
  }

  private func look(_ session: SessionName) {
    guard let responses = sessions[session]?.responses, sessions[session]?.isLooking == false else { return }
    sessions[session]?.isLooking = true
    let names = Array(responses)
    var asked: [RedisCommand] = [.time]
    for start in stride(from: 0, to: names.count, by: LeaseKeeper.step) {
      let step = names[start..<min(start + LeaseKeeper.step, names.count)]
      asked.append(RedisCommand("HMGET", [key(session)] + step.map { .string($0) }))
    }
    commands.send(asked, of: session) { [weak self] result in
      guard let self, self.sessions[session] != nil else { return }
      self.sessions[session]?.isLooking = false
      guard case .success(let replies) = result, let time = try? replies.first?.decodedTime() else { return }
      let values = replies.dropFirst().flatMap { $0.elements.map(Array.init) ?? [] }
      guard values.count == names.count else { return self.free(session) }
      var records: [(response: String, record: ResponseRecord)] = []
      for (name, value) in zip(names, values) {
        let record = value.text.flatMap { ResponseRecord($0) }
        if let record, record.isLeased {
          records.append((name, record))
        } else {
          // On its way to here it may not be here yet.
          if record != nil || self.shard.asking[session] == nil { self.sessions[session]?.responses.remove(name) }
          if let record, record.state != .open { self.sessions[session]?.hasEnded = true }
        }
      }
      self.judge(session, records, serverTime: UInt64(clamping: time / 1000))
    }
  }

  private func judge(
    _ session: SessionName, _ records: [(response: String, record: ResponseRecord)], serverTime: UInt64
  ) {
    guard var watch = sessions[session]?.watch else { return }
    // A producer that can't write is not a dead one.
    if commands.writesSince == nil { watch.connectionLost() }
    let dead = watch.looked(at: records, serverTime: serverTime, now: eventLoop.now)
    sessions[session]?.watch = watch
    if shard.asking[session] != nil { return isInMotion(session) }
    for lease in dead { attemptRescue(lease, session) }
    if !watch.holdsLive { free(session) }
  }

  private func free(_ session: SessionName) {
    guard let watched = sessions[session], watched.isHeld, watched.awaited == nil else { return }
    if watched.hasEnded {
      sessions[session]?.awaited = read(session)
    } else {
      sessions[session]?.isHeld = false
      release(session)
    }
  }

  private func attemptRescue(_ lease: LeaseWatch.Lease, _ session: SessionName) {
    guard let attempt = rescue.current else { return expire(lease, session) }
    guard sessions[session]?.rescued.insert(lease.response).inserted == true else { return }
    let bound = NIOLoopBound(self, eventLoop: eventLoop)
    Task { [eventLoop] in
      let isRescued = await attempt(session, lease.response)
      eventLoop.execute {
        bound.value.sessions[session]?.rescued.remove(lease.response)
        if !isRescued { bound.value.expire(lease, session) }
      }
    }
  }

  private func expire(_ lease: LeaseWatch.Lease, _ session: SessionName) {
    commands.run(.expire(response: lease.response, epoch: lease.epoch, token: lease.token), session) {
      [weak self] result in
      guard let self else { return }
      if case .failure(let error) = result, error.isOfMotion { self.isInMotion(session) }
      guard case .success(let parts) = result, let reply = ExpireReply(parts) else { return }
      if case .expired(let id) = reply { self.observe(.producerLost(session, response: lease.response, id)) }
      // It may be the last thing that somebody waits for.
      self.look(session)
    }
  }
}
