import BatonProtocol
import BatonRedis
import BatonSession
import NIOCore

/// Ends responses whose producer died (PROTOCOL 9), for all sessions that have devices here. Everything happens on the
/// store's event loop.
final class LeaseKeeper {
  private let eventLoop: any EventLoop
  private let keyPrefix: String
  private let commands: CommandLink
  private let observe: (StoreEvent) -> Void
  /// No response of the session waits for its producer any more.
  private let release: (SessionName) -> Void
  private var watches: [SessionName: LeaseWatch] = [:]
  private var held: Set<SessionName> = []
  private var looking: Set<SessionName> = []
  private var isTicking = false

  init(
    keyPrefix: String, commands: CommandLink, on eventLoop: any EventLoop, observe: @escaping (StoreEvent) -> Void,
    release: @escaping (SessionName) -> Void
  ) {
    (self.eventLoop, self.keyPrefix, self.commands) = (eventLoop, keyPrefix, commands)
    (self.observe, self.release) = (observe, release)
  }

  /// A session has its first device here: nobody is told `live` before a look is over, and what it finds dead is ended.
  func begin(_ session: SessionName) {
    held.insert(session)
    watches[session] = LeaseWatch()
    look(session)
    tick()
  }

  /// Entries of a response came: it may have a lease.
  func noticed(_ session: SessionName) {
    guard watches[session] == nil else { return }
    watches[session] = LeaseWatch()
    tick()
  }

  func end(_ session: SessionName) {
    watches[session] = nil
    held.remove(session)
  }

  func holdsLive(_ session: SessionName) -> Bool { held.contains(session) }

  func connectionLost() { for session in watches.keys { watches[session]?.connectionLost() } }

  private func tick() {
    guard !isTicking else { return }
    isTicking = true
    eventLoop.assumeIsolated().scheduleTask(in: LeaseWatch.interval) { [weak self] in
      guard let self else { return }
      self.isTicking = false
      for session in self.watches.keys { self.look(session) }
      if !self.watches.isEmpty { self.tick() }
    }
  }

  private func look(_ session: SessionName) {
    guard looking.insert(session).inserted else { return }
    let key = SessionKeys(session, prefix: keyPrefix).producers
    commands.send([.time, RedisCommand("HGETALL", .string(key))]) { [weak self] result in
      guard let self else { return }
      self.looking.remove(session)
      guard var watch = self.watches[session] else { return }
      if case .success(let replies) = result, replies.count == 2, let time = try? replies[0].decodedTime() {
        // A key of another type has no leases.
        let pairs = replies[1].elements.map(Array.init) ?? []
        var records: [(response: String, record: ResponseRecord)] = []
        for index in stride(from: 0, to: pairs.count - pairs.count % 2, by: 2) {
          if let name = pairs[index].text, let record = pairs[index + 1].text.flatMap({ ResponseRecord($0) }) {
            records.append((name, record))
          }
        }
        for lease in watch.looked(at: records, serverTime: UInt64(clamping: time / 1000), now: self.eventLoop.now) {
          self.expire(lease, session)
        }
        if watch.hasLeases { self.watches[session] = watch } else { self.watches[session] = nil }
        if !watch.holdsLive, self.held.remove(session) != nil { self.release(session) }
      }
    }
  }

  private func expire(_ lease: LeaseWatch.Lease, _ session: SessionName) {
    commands.run(.expire(response: lease.response, epoch: lease.epoch, token: lease.token), session) {
      [observe] result in
      guard case .success(let parts) = result, case .expired(let id) = ExpireReply(parts) else { return }
      observe(.producerLost(session, response: lease.response, id))
    }
  }
}
