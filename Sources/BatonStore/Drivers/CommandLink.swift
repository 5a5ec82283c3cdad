import BatonProtocol
import BatonRedis
import NIOCore

/// Writes to sessions, by the atomic step, and reads what belongs to writing.
final class CommandLink {
  private static let script = RedisScript(AppendScript.source)
  /// A reply is due within this time.
  private static let patience = TimeAmount.seconds(5)

  private let eventLoop: any EventLoop
  private let configuration: StoreConfiguration
  private let shard: ShardState
  private let observe: (StoreEvent) -> Void
  /// The server says that it is no master.
  private let misplaced: (RedisError) -> Void
  private var link: RedisLink?
  /// Since when nothing could be written, and why: the connection is gone, the step is refused for good, or the server is
  /// no master. A server that is full or has lost its replicas refuses writes and is no trouble: it serves who reads.
  private(set) var troubleSince: NIODeadline?
  private(set) var trouble = RedisError.notYetConnected
  /// Since when writes were seen to succeed, without one in between that did not.
  private(set) var writesSince: NIODeadline?

  init(
    _ configuration: StoreConfiguration, connector: any RedisConnecting, shard: ShardState, on eventLoop: any EventLoop,
    random: @escaping () -> Double, admit: @escaping RedisLink.SetUp, observe: @escaping (StoreEvent) -> Void,
    misplaced: @escaping (RedisError) -> Void
  ) {
    (self.eventLoop, self.configuration, self.shard) = (eventLoop, configuration, shard)
    (self.observe, self.misplaced) = (observe, misplaced)
    troubleSince = eventLoop.now
    link = RedisLink(
      connector, on: eventLoop, random: random,
      setUp: { [weak self] connection, done in
        ping(connection) { result in
          guard case .success = result else { return done(result) }
          admit(connection) { result in
            guard let self, case .success = result else { return done(result) }
            self.tryStep(connection, done)
          }
        }
      },
      report: { [weak self] event in
        guard let self else { return }
        switch event {
        case .up: observe(.up(.commands))
        case .down(let failure):
          observe(.disconnected(.commands, failure))
          self.failed(failure.error)
        }
      })
  }

  func start() { link?.start() }
  func stop() { link?.stop() }

  func leave(because error: RedisError) {
    if let connection = link?.connection { link?.leave(connection, because: error) }
  }

  /// The server is to be found elsewhere.
  func restart(because error: RedisError) { link?.restart(because: error) }

  /// Nil while it is down.
  var connection: RedisConnection? { link?.connection }

  /// Answered with the reply's strings.
  func run(_ call: AppendCall, _ session: SessionName, completion: @escaping (Result<[String], RedisError>) -> Void) {
    guard let connection = link?.connection else { return later(completion, .failure(trouble)) }
    let isAsking = shard.asking[session] != nil
    run(call, SessionKeys(session, prefix: configuration.keyPrefix).all, on: connection, isAsking: isAsking) {
      [weak self] result in
      switch result {
      case .success: self?.wrote(nil)
      case .failure(let error) where self?.isInMotion(error) == true: break
      case .failure(let error):
        self?.wrote(error)
        self?.observe(.refused(.commands, session, error))
      }
      completion(result)
    }
  }

  /// A word about a slot on its way says nothing of the server.
  private func isInMotion(_ error: RedisError) -> Bool {
    shard.isShard && (error.redirection != nil || error.code == "TRYAGAIN")
  }

  private func run(
    _ call: AppendCall, _ keys: [String], on connection: RedisConnection, isAsking: Bool = false,
    completion: @escaping (Result<[String], RedisError>) -> Void
  ) {
    let arguments = call.arguments(configuration.retention).map { argument -> RedisCommand.Argument in
      switch argument {
      case .string(let text): .string(text)
      case .bytes(let bytes): .bytes(bytes)
      }
    }
    connection.run(
      CommandLink.script, keys: keys, arguments, isAsking: isAsking, deadline: eventLoop.now + CommandLink.patience
    ) { result in
      completion(
        result.flatMap { reply in
          guard let parts = reply.elements else { return .failure(.unexpectedReply("EVALSHA")) }
          return .success(parts.map { $0.text ?? "" })
        })
    }
  }

  /// Answered with a reply for each command, refusals among them.
  func send(_ commands: [RedisCommand], completion: @escaping (Result<[RESPReply], RedisError>) -> Void) {
    guard let connection = link?.connection else { return later(completion, .failure(trouble)) }
    connection.send(commands, deadline: eventLoop.now + CommandLink.patience, completion: completion)
  }

  /// Of keys of one session.
  func send(
    _ commands: [RedisCommand], of session: SessionName, completion: @escaping (Result<[RESPReply], RedisError>) -> Void
  ) {
    guard shard.asking[session] != nil else { return send(commands, completion: completion) }
    send(commands.flatMap { [.asking, $0] }) { result in
      completion(result.map { replies in stride(from: 1, to: replies.count, by: 2).map { replies[$0] } })
    }
  }

  private func later<Value>(
    _ completion: @escaping (Result<Value, RedisError>) -> Void, _ result: Result<Value, RedisError>
  ) { eventLoop.assumeIsolated().execute { completion(result) } }

  // MARK: evidence

  /// A write that changes nothing, for what only a write can tell: whether writes succeed.
  func tryWrite(completion: @escaping () -> Void = {}) {
    guard let connection = link?.connection else { return }
    let write = RedisCommand.writeOfNothing(shard.probeKey(prefix: configuration.keyPrefix))
    connection.send([write], deadline: eventLoop.now + CommandLink.patience) { [weak self] result in
      if let self {
        if let error = (try? result.get()).map({ $0.first?.error }) ?? .timedOut {
          if self.isInMotion(error) { return completion() }
          self.wrote(error)
        } else {
          // That the step may be run is not shown by it: trouble goes on.
          self.writesSince = self.writesSince ?? self.eventLoop.now
        }
      }
      completion()
    }
  }

  /// Changes the key that tails read to see that reads succeed, and leaves nothing. Where it is refused, notices are
  /// proven by the first change of a session.
  func provokeNotice() {
    let key = RedisCommand.Argument.string(shard.probeKey(prefix: configuration.keyPrefix))
    send([RedisCommand("XADD", key, "*", "-", "-"), RedisCommand("DEL", key)]) { _ in }
  }

  private func wrote(_ error: RedisError?) {
    guard let error else {
      writesSince = writesSince ?? eventLoop.now
      troubleSince = nil
      return
    }
    // Of one key: it says nothing of others.
    if error.code == "WRONGTYPE" { return }
    writesSince = nil
    if error.wantsMaster {
      failed(error)
      misplaced(error)
    }
  }

  private func failed(_ error: RedisError) {
    troubleSince = troubleSince ?? eventLoop.now
    (trouble, writesSince) = (error, nil)
  }

  /// Whether the step is allowed, and this is a master. What is refused is told to who needs it.
  private func tryStep(_ connection: RedisConnection, _ done: @escaping (Result<Void, RedisError>) -> Void) {
    let probe = ResponseWrite(response: "-", epoch: 0, generation: nil, token: "-", first: 1, items: [])
    let key = shard.probeKey(prefix: configuration.keyPrefix)
    let keys = ["", ":producers", ":inbox", ":keys"].map { key + $0 }
    run(.append(probe), keys, on: connection) { [weak self] result in
      guard let self else { return }
      if case .failure(let error) = result {
        if error.shuts { return done(.failure(error)) }
        if self.isInMotion(error) {
          self.troubleSince = nil
          return done(.success(()))
        }
        if error.meaning == .refusesThis || error.meaning == .refused {
          self.observe(.refused(.commands, nil, error))
          self.failed(error)
          return done(.success(()))
        }
      }
      connection.send([.writeOfNothing(key)], deadline: self.eventLoop.now + CommandLink.patience) {
        [weak self] result in
        guard let self, case .success(let replies) = result else { return done(result.map { _ in }) }
        if let error = replies.first?.error {
          if error.wantsMaster || error.meaning == .refusesThis { self.failed(error) } else { self.troubleSince = nil }
          self.observe(.refused(.commands, nil, error))
        } else {
          self.wrote(nil)
        }
        done(.success(()))
      }
    }
  }
}

extension RedisCommand {
  /// Refused as any other XADD would be, and nothing else: there is no such stream.
  static func writeOfNothing(_ key: String) -> RedisCommand {
    RedisCommand("XADD", .string(key), "NOMKSTREAM", "*", "-", "-")
  }
}
