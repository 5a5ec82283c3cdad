import NIOCore
import NIOEmbedded
import Testing

@testable import BatonRedis
@testable import BatonStore

/// Since when a node counts as not ready: `/readyz` is 503 30 s after that.
@Suite struct ReadinessTests {
  private final class Stand: @unchecked Sendable {
    let loop = EmbeddedEventLoop()
    let redis = ModelRedisServer()
    let network: ModelNetwork
    private(set) var store: SessionStore?
    /// Nil: ready.
    private(set) var unreadySince: NIODeadline? = .uptimeNanoseconds(0)

    init() throws {
      network = ModelNetwork(loop: loop, servers: [redis], seed: 1)
      network.lateness = 0
      redis.now = { [network] in network.now }
      let network = network
      store = try SessionStore(
        StoreConfiguration(), on: loop,
        connector: { role, limits in ModelNetwork.Connector(network: network, node: 0, role: role, limits: limits) },
        random: { 0.5 },
        observe: { [weak self] event in
          switch event {
          case .ready: self?.unreadySince = nil
          case .unready(let since, _): self?.unreadySince = since
          default: break
          }
        })
      store?.start()
      advance(5)
    }

    func advance(_ seconds: Int64) { for _ in 0..<seconds * 50 { loop.advanceTime(by: .milliseconds(20)) } }
    func stop() {
      store?.stop()
      network.kill()
      loop.run()
    }
  }

  /// Milliseconds from a fault to the moment from which it counts, and whether the node is ready again after it.
  private func judge(_ fault: (Stand) -> Void, _ end: (Stand) -> Void) throws {
    let stand = try Stand()
    #expect(stand.unreadySince == nil)
    let began = stand.loop.now
    fault(stand)
    stand.advance(40)
    let since = try #require(stand.unreadySince)
    #expect(since - began <= .seconds(2), "it counts from \(since - began) after the fault")
    end(stand)
    stand.advance(15)
    #expect(stand.unreadySince == nil)
    stand.stop()
  }

  @Test func aServerThatHangs() throws {
    // Nothing that is sent while it hangs is lost.
    try judge({ $0.network.pausedUntil = $0.network.now + 40_000 }, { _ in })
  }

  @Test func aServerThatIsGone() throws {
    try judge(
      {
        $0.network.refusingUntil = $0.network.now + 40_000
        $0.network.kill()
      }, { _ in })
  }

  @Test(arguments: [ModelRedisServer.Mood.loading, .busy, .masterDown])
  func aServerThatAnswersNobody(mood: ModelRedisServer.Mood) throws {
    try judge({ $0.redis.mood = mood }, { $0.redis.mood = nil })
  }

  /// It serves those who read.
  @Test(arguments: [ModelRedisServer.Mood.oom, .misconf, .noReplicas])
  func aServerThatTakesNoWritesIsReady(mood: ModelRedisServer.Mood) throws {
    let stand = try Stand()
    stand.redis.mood = mood
    stand.advance(20)
    stand.network.kill()
    stand.advance(20)
    #expect(stand.unreadySince == nil)
    stand.stop()
  }

  /// On a busy machine the first connection takes its time: nothing has failed, and nothing is told of it.
  @Test func startingIsNoTrouble() throws {
    let loop = EmbeddedEventLoop()
    let connected = loop.makePromise(of: RedisConnection.self)
    let told = Told()
    let store = try SessionStore(
      StoreConfiguration(), on: loop, connector: { _, _ in Connecting(connected: connected.futureResult) },
      random: { 0.5 }, observe: { if case .unready(_, let why) = $0 { told.words.append(why) } })
    store.start()
    for _ in 0..<49 { loop.advanceTime(by: .milliseconds(100)) }
    #expect(told.words.isEmpty)
    for _ in 0..<5 { loop.advanceTime(by: .milliseconds(100)) }
    #expect(told.words == ["history: no connection to Redis has been made yet"])
    store.stop()
    connected.fail(RedisError.stopped)
    loop.run()
  }

  /// On one event loop.
  private final class Told: @unchecked Sendable { var words: [String] = [] }

  private struct Connecting: RedisConnecting {
    let connected: EventLoopFuture<RedisConnection>
    func connect(on eventLoop: any EventLoop) -> EventLoopFuture<RedisConnection> { connected }
  }
}
