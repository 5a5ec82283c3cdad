import NIOCore

/// One connection to each master of a deployment, be it one server, the master that Sentinels name, or a cluster's. Everything
/// is called, and calls back, on one event loop.
package final class MasterLinks {
  package enum Event {
    case up(master: String)
    case down(master: String, RedisLink.Failure)
    /// Keys have other masters now.
    case moved
    /// Nobody tells where the masters are.
    case silent(RedisError)
  }

  private let eventLoop: any EventLoop
  private let connector: RedisConnector
  private let report: (Event) -> Void
  private var links: [String: RedisLink] = [:]
  private var addresses: [String: RedisURL.Address] = [:]
  private var name: NameWatch?
  private var sentinels: SentinelWatch?
  private var cluster: ClusterWatch?
  private var isStopped = false

  /// The only master, where there is one only.
  private static let single = ""

  package init(_ connector: RedisConnector, on eventLoop: any EventLoop, report: @escaping (Event) -> Void) {
    (self.connector, self.eventLoop, self.report) = (connector, eventLoop, report)
    switch connector.url.topology {
    case .standalone:
      links[Self.single] = link(Self.single, connector)
      name = NameWatch(
        connector.url, on: eventLoop, connection: { [weak self] in self?.connection(to: Self.single) },
        moved: { [weak self] in
          self?.connection(to: Self.single)?.close(.misplaced("its name leads to another address now"))
        })
    case .sentinel(let master):
      let watch = SentinelWatch(connector, master: master, on: eventLoop)
      watch.moved = { [weak self] in
        self?.links[Self.single]?.restart(because: .misplaced("the Sentinels name another master now"))
      }
      sentinels = watch
      links[Self.single] = link(Self.single, SentinelConnector(connector, watch))
    case .cluster:
      cluster = ClusterWatch(
        connector, on: eventLoop, connections: { [weak self] in self?.links.values.compactMap(\.connection) ?? [] },
        observe: { [weak self] event in if case .silent(let error) = event { self?.report(.silent(error)) } },
        changed: { [weak self] in self?.mapChanged() })
    }
  }

  package func start() {
    name?.start()
    sentinels?.start()
    cluster?.start()
    for link in links.values { link.start() }
  }

  /// What is unanswered fails with ``RedisError/stopped``.
  package func stop() {
    isStopped = true
    name?.stop()
    sentinels?.stop()
    cluster?.stop()
    for link in links.values { link.stop() }
    links.removeAll()
  }

  /// Whose a key is; nil where nobody is known to have it.
  package func master(of key: String) -> String? {
    guard let cluster else { return Self.single }
    return cluster.map.owner(of: RedisSlot.of(key))
  }

  /// Every master, and what its own keys have between their braces. Empty while none is known.
  package func masters(prefix: String) -> [(master: String, tag: String)] {
    guard let map = cluster?.map else { return [(Self.single, "")] }
    return map.masters.sorted().map { ($0, map.tag(of: $0, prefix: prefix) ?? "") }
  }

  /// Nil while it is down.
  package func connection(to master: String) -> RedisConnection? { links[master]?.connection }

  private func link(_ master: String, _ connector: any RedisConnecting) -> RedisLink {
    let isNamed = self.connector.url.topology != .standalone
    return RedisLink(
      connector, on: eventLoop,
      setUp: { [weak self] connection, done in
        guard isNamed else { return done(.success(())) }
        connection.send(ServerIdentity.questions, deadline: connection.eventLoop.now + .seconds(5)) { result in
          do throws(RedisError) {
            let identity = try ServerIdentity(result.get())
            guard identity.isMaster else { throw .misplaced("this one is a replica") }
            self?.sentinels?.answered(identity)
            done(.success(()))
          } catch {
            done(.failure(error))
          }
        }
      },
      report: { [weak self] event in
        guard let self, !self.isStopped else { return }
        switch event {
        case .up: self.report(.up(master: master))
        case .down(let failure):
          self.sentinels?.lost()
          self.cluster?.refresh()
          self.report(.down(master: master, failure))
        }
      })
  }

  private func mapChanged() {
    guard let map = cluster?.map, !isStopped else { return }
    for master in map.masters { connect(to: master) }
    report(.moved)
    for master in links.keys where !map.masters.contains(master) { letGoLater(master) }
  }

  private func connect(to node: String) {
    guard let address = cluster?.map.address(of: node), addresses[node] != address, !isStopped else { return }
    links[node]?.stop()
    addresses[node] = address
    let link = link(node, connector.to(connector.url.server(at: address)))
    links[node] = link
    link.start()
  }

  /// Its answers are waited for.
  private func letGoLater(_ node: String) {
    eventLoop.assumeIsolated().scheduleTask(in: .seconds(10)) { [weak self] in
      guard let self, self.cluster?.map.masters.contains(node) == false else { return }
      self.links.removeValue(forKey: node)?.stop()
      self.addresses[node] = nil
    }
  }

  /// Whether a replica of this master has all that was written over its connection so far. True where it has no replicas, or
  /// does not tell; nil while it does not answer.
  package func isReplicated(_ master: String, completion: @escaping (Bool?) -> Void) {
    guard let connection = connection(to: master) else { return completion(nil) }
    // Without replicas the right to WAIT is not needed.
    connection.send([.info("replication")], deadline: connection.eventLoop.now + .seconds(5)) { result in
      guard case .success(let replies) = result else { return completion(nil) }
      let replicas = (try? replies.first?.decodedInfo())?["connected_slaves"].flatMap { Int($0) } ?? 0
      guard replicas > 0 else { return completion(true) }
      let wait = RedisCommand("WAIT", .integer(1), .integer(Self.glance.nanoseconds / 1_000_000))
      connection.send(wait, deadline: connection.eventLoop.now + .seconds(5)) { result in
        guard case .success(let reply) = result else { return completion(nil) }
        completion(reply.error != nil || (reply.integer ?? 0) > 0)
      }
    }
  }

  private static let glance = TimeAmount.milliseconds(100)

  /// For so long replicas are waited for, and with them whatever else is asked over the connection.
  private static let replication = TimeAmount.milliseconds(500)

  /// Runs a script where its keys are. A slot in motion is a refusal for the time being.
  /// - Parameter replicas: so many must have all that was written, else it counts as refused for the time being (`WAIT`).
  package func run(
    _ script: RedisScript, keys: [String], _ arguments: [RedisCommand.Argument], replicas: Int = 0,
    deadline: NIODeadline, completion: @escaping (Result<RESPReply, RedisError>) -> Void
  ) {
    func settle(_ result: Result<RESPReply, RedisError>, _ connection: RedisConnection) {
      guard replicas > 0, case .success = result else { return completion(result) }
      let wait = RedisCommand("WAIT", .integer(Int64(replicas)), .integer(Self.replication.nanoseconds / 1_000_000))
      connection.send(wait, deadline: deadline) { waited in
        completion(
          waited.flatMap { reply in
            let have = reply.integer ?? 0
            return have >= replicas ? result : .failure(.notReplicated(have, of: replicas))
          })
      }
    }
    guard let master = keys.first.flatMap(master(of:)), let connection = connection(to: master) else {
      return eventLoop.assumeIsolated().execute { completion(.failure(.connectionLost)) }
    }
    connection.run(script, keys: keys, arguments, deadline: deadline) { [weak self] result in
      guard case .failure(let error) = result, let self, let cluster = self.cluster else {
        if case .failure(let error) = result, error.wantsMaster { connection.close(error) }
        return settle(result, connection)
      }
      if let redirection = error.redirection {
        if let target = self.destination(redirection, cluster) {
          return target.run(script, keys: keys, arguments, isAsking: true, deadline: deadline) {
            settle($0.mapError { $0.redirection == nil ? $0 : .inMotion }, target)
          }
        }
        // Who sends it away knows to whom; the caller tries again.
        return cluster.ask(over: connection) { completion(.failure(.inMotion)) }
      }
      if error.wantsMaster { cluster.refresh() }
      completion(result)
    }
  }

  /// Who is to be asked next, with `ASKING`, where keys may be on their way there; nil where nobody can be asked yet.
  private func destination(_ redirection: RedisError.Redirection, _ cluster: ClusterWatch) -> RedisConnection? {
    guard case .ask(let address) = redirection, let node = cluster.map.node(at: address), cluster.map.isMaster(node)
    else { return nil }
    if links[node] == nil {
      // A master that has no slots yet.
      connect(to: node)
      letGoLater(node)
    }
    return connection(to: node)
  }

  /// Reads of one key each, where the master has it, or else where it says that the key is on its way to.
  /// - Parameter answer: told once of each, by its place among them; nil where it is to be asked again.
  package func read(
    _ reads: [RedisCommand], at master: String, deadline: NIODeadline, answer: @escaping (Int, RESPReply?) -> Void
  ) {
    guard let connection = connection(to: master) else {
      return eventLoop.assumeIsolated().execute { for index in reads.indices { answer(index, nil) } }
    }
    connection.send(reads, deadline: deadline) { [weak self] result in
      let replies = (try? result.get()) ?? []
      var unplaced: [Int] = []
      for index in reads.indices {
        let reply = index < replies.count ? replies[index] : nil
        guard let redirection = reply?.error?.redirection, let cluster = self?.cluster else {
          answer(index, reply)
          continue
        }
        guard let target = self?.destination(redirection, cluster) else {
          unplaced.append(index)
          continue
        }
        target.send([.asking, reads[index]], deadline: deadline) { answer(index, (try? $0.get())?.last) }
      }
      guard !unplaced.isEmpty else { return }
      self?.cluster?.ask(over: connection) { for index in unplaced { answer(index, nil) } }
    }
  }
}
