import NIOCore
import NIOEmbedded
import Testing

@testable import BatonRedis

/// The shipping connection and link over channels without sockets, in virtual time.
@Suite struct EmbeddedTests {
  /// Hands out one embedded channel per attempt.
  private final class Network: RedisConnecting, @unchecked Sendable {
    let loop = EmbeddedEventLoop()
    var channels: [EmbeddedChannel] = []
    var isDown = false

    func connect(on eventLoop: any EventLoop) -> EventLoopFuture<RedisConnection> {
      if isDown { return loop.makeFailedFuture(RedisError.connectFailed("refused")) }
      let channel = EmbeddedChannel(loop: loop)
      channels.append(channel)
      do {
        let connection = try RedisConnection.logIn(over: channel, RedisURL("redis://h"))
        channel.connect(to: try SocketAddress(ipAddress: "127.0.0.1", port: 1), promise: nil)
        return connection
      } catch {
        return loop.makeFailedFuture(error)
      }
    }

    /// What was written since the last look.
    func written(_ channel: EmbeddedChannel) throws -> String {
      loop.run()
      var all = ""
      while let bytes = try channel.readOutbound(as: ByteBuffer.self) { all += String(buffer: bytes) }
      return all
    }

    func answer(_ channel: EmbeddedChannel, _ text: String) throws {
      try channel.writeInbound(ByteBuffer(string: text))
      loop.run()
    }

    /// A connection after its login.
    func open() throws -> (RedisConnection, EmbeddedChannel) {
      let future = connect(on: loop)
      let channel = try #require(channels.last)
      #expect(try written(channel).hasSuffix("PING\r\n"))
      try answer(channel, "+OK\r\n+PONG\r\n")
      return (try future.wait(), channel)
    }
  }

  @Test func aRequestThatIsRepeatedWhenItFailsDoesNotRecurse() throws {
    let network = Network()
    let (redis, channel) = try network.open()
    var (depth, deepest, asked) = (0, 0, 0)
    func ask() {
      depth += 1
      deepest = max(deepest, depth)
      asked += 1
      redis.send(.ping, deadline: .distantFuture) { result in
        #expect((try? result.get()) == nil)
        if asked < 100 { ask() }
      }
      depth -= 1
    }
    ask()
    _ = channel.close()
    while asked < 100 { network.loop.run() }
    #expect(deepest == 1)
  }

  @Test(arguments: ["closed by the peer", "closed here", "timed out", "overloaded", "nothing to send"])
  func completesAfterTheCallThatCausedIt(how: String) throws {
    let network = Network()
    let (redis, channel) = try network.open()
    var said: [String] = []
    redis.onClose = { said.append("close \($0.reason)") }
    func failed(_ name: String) -> (Result<[RESPReply], RedisError>) -> Void {
      { result in
        switch result {
        case .success: said.append("\(name) done")
        case .failure(let error): said.append("\(name) \(error.reason), closed: \(redis.closeReason != nil)")
        }
      }
    }
    redis.send([.ping], deadline: network.loop.now + .seconds(3), completion: failed("a"))
    redis.send([.ping, .ping], deadline: network.loop.now + .seconds(4), completion: failed("b"))
    network.loop.run()
    switch how {
    case "closed by the peer":
      channel.pipeline.fireChannelInactive()
      redis.send([.ping], deadline: .distantFuture, completion: failed("c"))
      #expect(said == [])
      network.loop.run()
      #expect(
        said == [
          "close connectionLost", "a connectionLost, closed: true", "b connectionLost, closed: true",
          "c connectionLost, closed: true",
        ])
    case "closed here":
      redis.close()
      #expect(said == [])
      network.loop.run()
      #expect(said == ["close stopped", "a stopped, closed: true", "b stopped, closed: true"])
      redis.onClose = { said.append("again \($0.reason)") }
      #expect(said.count == 3)
      network.loop.run()
      #expect(said.last == "again stopped")
    case "timed out":
      network.loop.advanceTime(by: .milliseconds(2999))
      #expect(said == [])
      network.loop.advanceTime(by: .milliseconds(1))
      #expect(said == ["close timedOut", "a timedOut, closed: true", "b timedOut, closed: true"])
    case "overloaded":
      let bytes = RedisCommand("ECHO", .bytes(ByteBuffer(repeating: 1, count: 16 << 20)))
      redis.send([bytes], deadline: .distantFuture, completion: failed("c"))
      #expect(said == [])
      network.loop.run()
      #expect(said == ["c overloaded, closed: false"])
    default:
      redis.send([], deadline: .distantFuture, completion: failed("c"))
      #expect(said == [])
      network.loop.run()
      #expect(said == ["c done"])
    }
  }

  @Test func aLoginHasItsTime() throws {
    let network = Network()
    let future = network.connect(on: network.loop)
    network.loop.advanceTime(by: .seconds(5))
    #expect(throws: RedisError.timedOut) { try future.wait() }
  }

  /// A link and what it said.
  private func link(_ network: Network, _ said: @escaping (String) -> Void) -> RedisLink {
    RedisLink(
      network, on: network.loop, keepAlive: nil, random: { 1 },
      report: { event in
        switch event {
        case .up: said("up")
        case .down(let failure):
          let name = failure.error.code ?? "\(failure.error.reason)"
          said("\(failure.attempt) \(name)\(failure.isRepeated ? " again" : "")")
        }
      })
  }

  @Test func aLinkCountsItsFailuresAndKeepsVirtualTime() throws {
    let network = Network()
    var said: [String] = []
    let link = link(network) { said.append($0) }
    network.isDown = true
    link.start()
    #expect(said == [])
    network.loop.run()
    #expect(said == ["1 connectFailed"])
    network.loop.advanceTime(by: .milliseconds(50))
    network.loop.advanceTime(by: .milliseconds(100))
    #expect(said == ["1 connectFailed", "2 connectFailed again", "3 connectFailed again"])
    network.isDown = false
    network.loop.advanceTime(by: .milliseconds(200))
    try network.answer(try #require(network.channels.last), "+OK\r\n+PONG\r\n")
    #expect(said.last == "up")

    // A request that failed with the connection finds the link down already.
    var seen: String?
    link.connection?.send(.ping, deadline: .distantFuture) { _ in
      seen = "\(said.last ?? "") \(link.connection == nil ? "nil" : "open")"
    }
    network.channels.last?.pipeline.fireChannelInactive()
    network.loop.run()
    #expect(seen == "4 connectionLost nil")
    link.stop()
  }

  @Test func aConnectionThatIsNotTheMastersIsLeftWithPatience() throws {
    let network = Network()
    var said: [String] = []
    let link = link(network) { said.append($0) }
    link.start()
    network.loop.run()
    let refusal = RedisError.server("READONLY You can't write against a read only replica.")
    #expect(refusal.wantsMaster)
    // Every 10 ms for two minutes the server says the same.
    for _ in 0..<12_000 {
      if let channel = network.channels.last, try network.written(channel).contains("PING") {
        try network.answer(channel, "+OK\r\n+PONG\r\n")
      }
      if let connection = link.connection { link.leave(connection, because: refusal) }
      network.loop.advanceTime(by: .milliseconds(10))
    }
    #expect(said.filter { $0.contains("READONLY") }.count == 8)
    #expect(network.channels.count == 9)
    // Left once more, after all has been well for longer: at once.
    network.loop.advanceTime(by: .seconds(60))
    let connection = try #require(link.connection)
    link.leave(connection, because: refusal)
    network.loop.run()
    #expect(link.connection == nil)
    link.stop()
  }
}
