import BatonRedis
import BatonStore
import NIOCore
import NIOEmbedded
import TestSupport

/// A machine with a model server.
final class ModelHost {
  let server: ModelRedisServer
  let port: Int
  /// The server takes nothing in until then. Milliseconds.
  var pausedUntil: Int64 = 0
  /// Nobody listens until then.
  var refusingUntil: Int64 = 0
  /// In the order in which it came, also where one pause begins during another.
  fileprivate var held: [() -> Void] = []

  init(_ server: ModelRedisServer, port: Int) { (self.server, self.port) = (server, port) }

  var address: RedisURL.Address { .tcp(host: "127.0.0.1", port: port) }
}

/// Connections between gateways and model servers, in virtual time, with all that happens to connections.
final class ModelNetwork: @unchecked Sendable {
  let loop: EmbeddedEventLoop
  let hosts: [ModelHost]
  var dice: Dice
  private(set) var connections: [ModelConnection] = []

  /// Of all hosts.
  var pausedUntil: Int64 {
    get { hosts.map(\.pausedUntil).max() ?? 0 }
    set { for host in hosts { host.pausedUntil = newValue } }
  }
  var refusingUntil: Int64 {
    get { hosts.map(\.refusingUntil).max() ?? 0 }
    set { for host in hosts { host.refusingUntil = newValue } }
  }
  /// The server has no room for another client.
  var isFull = false
  /// Whoever connects is not answered.
  var isSilent = false
  /// `client-output-buffer-limit normal`.
  var outputLimit = Int.max
  /// Bytes that a connection takes in a millisecond.
  var bytesPerMillisecond = 100_000
  /// Replies come in pieces.
  var cutsReplies = true
  /// The chance in percent that something is late by up to 1.5 s.
  var lateness = 2.0

  /// What gateways did, by node.
  var commands: [Int: Int] = [:]
  var attempts: [Int: Int] = [:]
  var closedForNothing: (ModelConnection) -> Void = { _ in }

  /// - Parameter servers: at ports of their own, 6379 and up.
  init(loop: EmbeddedEventLoop, servers: [ModelRedisServer], seed: UInt64) {
    (self.loop, dice) = (loop, Dice(seed: seed))
    hosts = servers.enumerated().map { ModelHost($1, port: 6379 + $0) }
    for server in servers {
      server.executed = { [unowned self] client, _ in
        if let connection = self.connection(of: client) { self.commands[connection.node, default: 0] += 1 }
      }
    }
  }

  var now: Int64 { Int64(loop.now.uptimeNanoseconds / 1_000_000) }

  func connection(of client: ModelRedisServer.Client) -> ModelConnection? {
    connections.first { $0.client === client }
  }

  func delay() -> Int64 { dice.chance(lateness) ? Int64(dice.roll(0...1500)) : Int64(dice.roll(0...3)) }

  func at(_ time: Int64, _ body: @escaping () -> Void) {
    loop.scheduleTask(deadline: .uptimeNanoseconds(UInt64(max(time, now)) * 1_000_000), body)
  }

  /// Before it is done, whatever was sent earlier to a paused server has its turn.
  fileprivate func on(_ host: ModelHost, at time: Int64, _ body: @escaping () -> Void) {
    at(time) { [self] in
      if now >= host.pausedUntil, host.held.isEmpty { return body() }
      host.held.append(body)
      if host.held.count == 1 { release(host) }
    }
  }

  private func release(_ host: ModelHost) {
    at(host.pausedUntil) { [self] in
      if now < host.pausedUntil { return release(host) }
      let due = host.held
      host.held.removeAll()
      for body in due { body() }
    }
  }

  // MARK: connecting

  struct Connector: RedisConnecting, @unchecked Sendable {
    let network: ModelNetwork
    let node: Int
    let role: StoreConnection
    let limits: RESPLimits

    func connect(on eventLoop: any EventLoop) -> EventLoopFuture<RedisConnection> {
      network.connect(node, role, limits, to: network.hosts[0])
    }
  }

  struct ClusterConnector: ClusterConnecting, @unchecked Sendable {
    let network: ModelNetwork
    let node: Int
    let role: StoreConnection
    let limits: RESPLimits

    var seeds: [RedisURL.Address] { network.hosts.prefix(2).map(\.address) }
    var usesTLS: Bool { false }

    func connect(
      to address: RedisURL.Address, on eventLoop: any EventLoop
    ) -> EventLoopFuture<RedisConnection> {
      guard let host = network.hosts.first(where: { $0.address == address }) else {
        return eventLoop.makeFailedFuture(RedisError.connectFailed("no route to host"))
      }
      return network.connect(node, role, limits, to: host)
    }
  }

  private func connect(
    _ node: Int, _ role: StoreConnection, _ limits: RESPLimits, to host: ModelHost
  ) -> EventLoopFuture<RedisConnection> {
    attempts[node, default: 0] += 1
    if now < host.refusingUntil {
      return loop.makeFailedFuture(RedisError.connectFailed("connection refused"))
    }
    do {
      let connection = ModelConnection(self, node, role, host)
      var options = RedisConnector.Options()
      options.clientName = "baton-\(node)-\(role)"
      options.limits = limits
      let login = host.server.password.map { ":\($0)@" } ?? ""
      let url = "redis://\(login)127.0.0.1:\(host.port)"
      let loggedIn = try RedisConnection.logIn(over: connection.channel, RedisURL(url), options)
      connections.append(connection)
      connection.isSilent = isSilent
      let address = try SocketAddress(ipAddress: "127.0.0.1", port: host.port)
      at(now + delay()) { [self] in
        guard connection.isOpen else { return }
        connection.channel.connect(to: address, promise: nil)
        connection.accepted(isFull: isFull)
      }
      return loggedIn
    } catch {
      return loop.makeFailedFuture(error)
    }
  }

  fileprivate func forget(_ connection: ModelConnection) { connections.removeAll { $0 === connection } }

  // MARK: what befalls connections

  func kill(where isMeant: (ModelConnection) -> Bool = { _ in true }) {
    for connection in connections where isMeant(connection) { connection.kill() }
  }
}

/// One connection: an embedded channel here, a client of the model server there, and what is on its way.
final class ModelConnection: @unchecked Sendable {
  let node: Int
  let role: StoreConnection
  let host: ModelHost
  let madeAt: Int64
  let channel: EmbeddedChannel
  private unowned let network: ModelNetwork
  private(set) var client: ModelRedisServer.Client?
  private(set) var isOpen = true
  /// Nothing arrives any more, and nobody says so.
  var isSilent = false { didSet { isExcused = isExcused || isSilent } }
  /// Whoever closes it has a reason that lies in this connection.
  var isExcused = false
  /// Notices that came over it.
  private(set) var notices = 0
  /// When what is under way arrives: neither way does anything overtake.
  private var upward: Int64 = 0
  private var downward: Int64 = 0
  private var pending = 0

  fileprivate init(_ network: ModelNetwork, _ node: Int, _ role: StoreConnection, _ host: ModelHost) {
    (self.network, self.node, self.role, self.host, madeAt) = (network, node, role, host, network.now)
    let end = End()
    channel = EmbeddedChannel(handler: end, loop: network.loop)
    end.connection = self
  }

  private final class End: ChannelOutboundHandler {
    typealias OutboundIn = ByteBuffer
    unowned var connection: ModelConnection!

    func write(context: ChannelHandlerContext, data: NIOAny, promise: EventLoopPromise<Void>?) {
      connection?.written(unwrapOutboundIn(data))
      promise?.succeed()
    }

    func flush(context: ChannelHandlerContext) {}

    func close(context: ChannelHandlerContext, mode: CloseMode, promise: EventLoopPromise<Void>?) {
      connection?.closedHere()
      context.close(mode: mode, promise: promise)
    }
  }

  fileprivate func accepted(isFull: Bool) {
    guard isOpen else { return }
    let client = host.server.connect { [unowned self] in self.replied($0) }
    self.client = client
    if isFull {
      isExcused = true
      replied(ByteBuffer(string: "-ERR max number of clients reached\r\n"))
      let last = downward
      network.at(last) { [self] in network.at(last) { [self] in kill() } }
    }
  }

  private func written(_ bytes: ByteBuffer) {
    upward = max(upward, network.now + network.delay())
    network.on(host, at: upward) { [self] in
      guard isOpen, !isSilent, let client else { return }
      host.server.receive(bytes, from: client)
    }
  }

  private func replied(_ bytes: ByteBuffer) {
    pending += bytes.readableBytes
    let isNotice = bytes.readableBytesView.starts(with: "*3\r\n$7\r\nmessage".utf8)
    var bytes = bytes
    var isLast = false
    if pending > network.outputLimit, role != .notices {
      // Redis hangs up; what the kernel had already taken still arrives.
      isExcused = true
      isLast = true
      bytes = bytes.readSlice(length: network.dice.roll(0...bytes.readableBytes)) ?? bytes
    }
    while bytes.readableBytes > 0 {
      var length = min(bytes.readableBytes, 64 << 10)
      if network.cutsReplies, network.dice.chance(10) { length = network.dice.roll(1...length) }
      guard let piece = bytes.readSlice(length: length) else { break }
      downward = max(
        downward + Int64(piece.readableBytes / network.bytesPerMillisecond), network.now + network.delay())
      let isNotice = isNotice && bytes.readableBytes == 0
      network.at(downward) { [self] in arrived(piece, isNotice: isNotice) }
    }
    if isLast { network.at(downward) { [self] in kill() } }
  }

  private func arrived(_ bytes: ByteBuffer, isNotice: Bool) {
    pending -= bytes.readableBytes
    guard isOpen, !isSilent else { return }
    if isNotice { notices += 1 }
    _ = try? channel.writeInbound(bytes)
  }

  /// Gone, with whatever was on its way.
  func kill() {
    guard isOpen else { return }
    isOpen = false
    if let client { host.server.disconnect(client) }
    network.forget(self)
    if network.dice.chance(50) {
      channel.pipeline.fireErrorCaught(IOError(errnoCode: 104, reason: "read"))
    }
    channel.close(promise: nil)
  }

  private func closedHere() {
    guard isOpen else { return }
    isOpen = false
    network.forget(self)
    if !isExcused { network.closedForNothing(self) }
    let client = client
    network.at(network.now + network.delay()) { [self] in if let client { host.server.disconnect(client) } }
  }
}
