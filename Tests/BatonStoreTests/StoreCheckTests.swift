import BatonRedis
import BatonStore
import NIOCore
import NIOPosix
import RedisServer
import Testing

@Suite struct StoreCheckTests {
  private func check(_ server: RedisServer, as user: String) async throws -> [String] {
    let connector = try RedisConnector(RedisURL("redis+unix://\(user):@\(server.socketPath)"))
    let connection = try await connector.connect(on: MultiThreadedEventLoopGroup.singleton.next()).get()
    let refusals = try await StoreCheck.run(StoreConfiguration(), on: connection)
    connection.eventLoop.execute { connection.close() }
    return refusals.map(\.what)
  }

  @Test func namesWhatIsMissingAndLeavesNothing() async throws {
    let server = try RedisServer()
    try server.cli("ACL", "SETUSER", "all", "on", "nopass", "~*", "&*", "+@all")
    #expect(try await check(server, as: "all") == [])
    try server.cli(
      "ACL", "SETUSER", "some", "on", "nopass", "~*", "resetchannels", "+@all", "-hexists", "-multi", "-evalsha")
    #expect(
      try await check(server, as: "some") == [
        "HEXISTS baton:{}:producers", "EVALSHA", "MULTI", "SUBSCRIBE __redis__:invalidate",
      ])
    try server.cli("ACL", "SETUSER", "keys", "on", "nopass", "~baton:*}", "&*", "+@all")
    let refused = try await check(server, as: "keys")
    #expect(refused.contains("XADD baton:{}:inbox") && !refused.contains("XADD baton:{}"))
    let connection = try await RedisConnector(RedisURL(server.unixURL)).connect(
      on: MultiThreadedEventLoopGroup.singleton.next()
    ).get()
    #expect(try await connection.send(RedisCommand("DBSIZE"), timeout: .seconds(10)).integer == 0)
  }
}
