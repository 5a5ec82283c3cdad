import NIOConcurrencyHelpers
import NIOCore
import RedisServer
import TestSupport
import Testing

@testable import BatonRedis

@Suite struct LinkTests {
  /// A link, made and used on one loop, and what it said.
  private final class Probe: Sendable {
    let loop = loops.next()
    let said = NIOLockedValueBox<[String]>([])
    private let link: NIOLoopBoundBox<RedisLink?>

    init(_ url: String, keepAlive: TimeAmount? = nil, setUp: @escaping @Sendable () -> RedisCommand = { .ping }) throws
    {
      link = .makeEmptyBox(valueType: RedisLink.self, eventLoop: loop)
      let connector = try RedisConnector(RedisURL(url))
      loop.execute { [self] in
        link.value = RedisLink(
          connector, on: loop, keepAlive: keepAlive,
          setUp: { connection, done in
            connection.send(setUp(), deadline: .now() + .seconds(30)) { done($0.map { _ in }) }
          },
          report: { [said] event in
            said.withLockedValue {
              switch event {
              case .up: $0.append("up")
              case .down(let failure): $0.append(failure.error.code ?? "\(failure.error.reason)")
              }
            }
          })
        link.value?.start()
      }
    }

    func ask(_ command: RedisCommand) async throws -> String {
      let current = try await loop.submit { [self] in link.value?.connection }.get()
      let connection = try #require(current)
      return try await connection.ask(command).description == "PONG" ? "PONG" : "?"
    }

    func restart() async throws {
      try await loop.submit { [self] in link.value?.restart(because: .misplaced("a test")) }.get()
    }

    func stop() async throws { try await loop.submit { [self] in link.value?.stop() }.get() }

    func until(_ condition: @escaping ([String]) -> Bool) async throws {
      do {
        _ = try await eventually { condition(said.withLockedValue { $0 }) ? true : nil }
      } catch {
        Issue.record("it said \(said.withLockedValue { $0 })")
        throw error
      }
    }
  }

  @Test func comesBackWithTheServer() async throws {
    let server = try RedisServer()
    let probe = try Probe(server.unixURL)
    try await probe.until { $0 == ["up"] }
    server.stop()
    try await probe.until { $0.starts(with: ["up", "connectionLost"]) && $0.last == "connectFailed" }
    try server.start()
    try await probe.until { $0.last == "up" }
    #expect(try await probe.ask(.ping) == "PONG")
    try await probe.stop()
    let said = probe.said.withLockedValue { $0 }
    server.stop()
    #expect(try await eventually { probe.said.withLockedValue { $0 } } == said)
    #expect(try await probe.loop.submit { true }.get())
  }

  /// The old connection's end is nobody's failure, however late it is told.
  @Test func goesWhereTheServerIsNow() async throws {
    let server = try RedisServer()
    let probe = try Probe(server.unixURL)
    for turn in 1...20 {
      try await probe.until { $0.count { $0 == "up" } == turn && $0.last == "up" }
      try await probe.restart()
    }
    try await probe.until { $0.count { $0 == "up" } == 21 }
    #expect(try await probe.ask(.ping) == "PONG")
    #expect(probe.said.withLockedValue { $0 }.count == 41)
    try await probe.stop()
    server.stop()
  }

  @Test func setsUpEachConnectionOrTriesAgain() async throws {
    let server = try RedisServer()
    try server.cli("SET", "count", "text")
    let probe = try Probe(server.unixURL) { RedisCommand("INCR", "count") }
    try await probe.until { $0.filter { $0 == "ERR" }.count > 2 && !$0.contains("up") }
    try server.cli("DEL", "count")
    try await probe.until { $0.last == "up" }
    try server.cli("CLIENT", "KILL", "TYPE", "normal")
    try await probe.until { $0.last == "up" && $0.contains("connectionLost") }
    #expect(try server.cli("GET", "count") == "2")
    try await probe.stop()
    _ = try await eventually {
      try server.cli("CLIENT", "LIST").contains("name=baton") ? nil : true
    }
  }

  @Test func noticesAServerThatFellSilent() async throws {
    let server = try RedisServer()
    let probe = try Probe(server.unixURL, keepAlive: .milliseconds(500))
    // A busy machine may be late to answer without having been stopped.
    try await probe.until { $0.first == "up" }
    server.pause()
    try await probe.until { $0.starts(with: ["up", "timedOut"]) }
    server.resume()
    try await probe.until { $0.last == "up" }
    try await probe.stop()
  }

  @Test(.enabled(if: try RedisServer.version.get() >= 7, "Redis 6 looks up from loading only every 2 MiB"))
  func waitsWhileTheServerLoads() async throws {
    let server = try RedisServer()
    try server.cli("DEBUG", "POPULATE", "2000", "key", "200")
    try server.cli("SAVE")
    server.stop()
    try server.start("--key-load-delay", "10000", "--loading-process-events-interval-bytes", "1024")
    let probe = try Probe(server.unixURL)
    try await probe.until { $0.contains("LOADING") }
    try server.cli("CONFIG", "SET", "key-load-delay", "0")
    try await probe.until { $0.last == "up" }
    // On a busy machine a server that loads can be late to say so.
    #expect(probe.said.withLockedValue { Set($0.dropLast()).isSubset(of: ["LOADING", "timedOut"]) })
    try await probe.stop()
  }
}
