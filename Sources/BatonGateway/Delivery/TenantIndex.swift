import BatonProtocol
import BatonRedis
import BatonSession
import BatonStore
import NIOConcurrencyHelpers
import NIOCore

/// Which sessions gateways write to, for each tenant: a sorted set in Redis, by when a session is gone unless something is
/// written to it again. It bounds how many a tenant may have (`--max-sessions-per-tenant`), on all nodes together.
///
/// On a cluster a tenant's set is in another slot than its sessions: a session is noted before it is written to. So one that
/// could not be made then is counted for as long as it would have lived, and none is made that is not counted.
final class TenantIndex: Sendable {
  /// KEYS: the tenant's set; ARGV: the session, for how long it is counted, how many there may be. Of those whose time is
  /// over 1,000 are forgotten at a time; the others are not counted any more.
  private static let script = """
    local key, session, life, limit = KEYS[1], ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
    local time = redis.call('TIME')
    local now = time[1] * 1000 + math.floor(time[2] / 1000)
    local gone = redis.call('ZRANGEBYSCORE', key, '-inf', string.format('%.0f', now), 'LIMIT', 0, 1000)
    if #gone > 0 then redis.call('ZREM', key, unpack(gone)) end
    if not redis.call('ZSCORE', key, session)
      and redis.call('ZCOUNT', key, string.format('(%.0f', now), '+inf') >= limit then return 0 end
    redis.call('ZADD', key, 'GT', string.format('%.0f', now + life), session)
    if redis.call('PTTL', key) < life then redis.call('PEXPIRE', key, string.format('%.0f', life)) end
    return 1
    """

  /// Sessions that are known to be counted.
  private static let maxKnown = 100_000

  private let store: any SessionStoring
  private let keyPrefix: String
  private let limit: Int
  /// How long a session lives after what a gateway writes to it, and how often it is noted anew. Milliseconds.
  private let life: UInt64
  private let pause: UInt64
  private let known = NIOLockedValueBox<[SessionName: NIODeadline]>([:])

  /// - Parameter retention: of what gateways write. Milliseconds.
  init(_ store: any SessionStoring, keyPrefix: String, limit: Int, retention: UInt64) {
    (self.store, self.keyPrefix, self.limit, life) = (store, keyPrefix, limit, retention)
    pause = min(retention / 10, 60_000)
  }

  /// A tenant has a name as sessions have: its set is in that session's slot, beside keys that nobody writes.
  private static func key(_ tenant: SessionName, _ prefix: String) -> String {
    tenant.key(prefix: prefix) + ":sessions"
  }

  /// On the store's event loop: whether the session may be written to. One that is there already may, also where its tenant
  /// has as many as it may.
  func admit(_ session: SessionName, _ done: @escaping (Result<Bool, RedisError>) -> Void) {
    guard let tenant = session.tenant.flatMap({ SessionName($0) }), !isKnown(session) else {
      return done(.success(true))
    }
    let words = [
      Self.script, "1", Self.key(tenant, keyPrefix), session.description, "\(life + pause)", "\(limit)",
    ]
    store.send([RedisCommand("EVAL", words.map { .string($0) })], of: tenant) { [self] result in
      do throws(RedisError) {
        guard let reply = try result.get().first else { throw .unexpectedReply("EVAL") }
        guard try reply.accepted().integer == 1 else { return exists(session, done) }
        note(session)
        done(.success(true))
      } catch {
        done(.failure(error))
      }
    }
  }

  private func exists(_ session: SessionName, _ done: @escaping (Result<Bool, RedisError>) -> Void) {
    store.send([RedisCommand("TYPE", .string(session.key(prefix: keyPrefix)))], of: session) { result in
      do throws(RedisError) {
        guard let type = try result.get().first?.accepted().text else { throw .unexpectedReply("TYPE") }
        done(.success(type != "none"))
      } catch {
        done(.failure(error))
      }
    }
  }

  /// From anywhere. - Throws: ``RedisError``.
  func admit(_ session: SessionName) async throws -> Bool {
    if isKnown(session) { return true }
    return try await withCheckedThrowingContinuation { continuation in
      store.eventLoop.execute { self.admit(session) { continuation.resume(with: $0) } }
    }
  }

  /// The session was deleted. Where Redis does not take it, the session is counted until its time is over.
  func deleted(_ session: SessionName) async {
    known.withLockedValue { $0[session] = nil }
    guard let tenant = session.tenant.flatMap({ SessionName($0) }) else { return }
    let command = RedisCommand("ZREM", .string(Self.key(tenant, keyPrefix)), .string(session.description))
    _ = try? await store.send([command], of: tenant)
  }

  private func isKnown(_ session: SessionName) -> Bool {
    known.withLockedValue { known in known[session].map { $0 > .now() } ?? false }
  }

  private func note(_ session: SessionName) {
    known.withLockedValue { known in
      if known.count >= Self.maxKnown { known.removeAll() }
      known[session] = .now() + .milliseconds(Int64(pause))
    }
  }
}
