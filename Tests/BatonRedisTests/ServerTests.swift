import Foundation
import NIOConcurrencyHelpers
import NIOCore
import RedisServer
import TestSupport
import Testing

@testable import BatonRedis

/// Against real servers: how one gets in, and what goes wrong there.
@Suite struct ServerTests {
  @Test func logsInAndSelects() async throws {
    let server = try RedisServer(tcp: true)
    try server.cli("ACL", "SETUSER", "ann", "on", ">s3cret/", "~*", "+@all", "-role")
    try server.cli("CONFIG", "SET", "requirepass", "top")
    let redis = try await connect("redis://ann:s3cret%2F@127.0.0.1:\(server.port)/3")
    let list = try #require(try await redis.ask(RedisCommand("CLIENT", "INFO")).text)
    #expect(list.contains("user=ann") && list.contains("db=3") && list.contains("name=baton"))
    let refused = await #expect(throws: RedisError.self) { try await redis.ask(.role) }
    #expect(refused?.code == "NOPERM" && refused?.kind == .configuration)
    #expect(try await connect("redis+unix://:top@\(server.socketPath)?db=1").ask(.ping).text == "PONG")

    for (url, code) in [
      (server.url, "NOAUTH"), ("redis://wrong@127.0.0.1:\(server.port)", "WRONGPASS"),
      ("redis://top@127.0.0.1:\(server.port)/99", "ERR"),
    ] {
      let error = await #expect(throws: RedisError.self) { try await connect(url) }
      #expect(error?.code == code && error?.kind == .configuration)
    }
  }

  @Test(arguments: [true, false]) func givesUpInTime(stopped: Bool) async throws {
    let server = try RedisServer()
    let redis = try await connect(server.unixURL)
    if stopped { server.pause() } else { try server.cli("CLIENT", "PAUSE", "60000", "ALL") }
    defer { server.resume() }
    let patient = Task { try await redis.send(.time, timeout: .seconds(60)) }
    await #expect(throws: RedisError.timedOut) { try await redis.send(.ping, timeout: .milliseconds(50)) }
    await #expect(throws: RedisError.timedOut) { try await patient.value }
    #expect(try await redis.onLoop { redis.closeReason } == .timedOut)
    await #expect(throws: RedisError.timedOut) { try await redis.ask(.ping) }
    if stopped {
      await #expect(throws: RedisError.timedOut) {
        try await connect(server.unixURL) { $0.connectTimeout = .milliseconds(50) }
      }
    }
  }

  @Test func pipelinesInOneTurn() async throws {
    let server = try RedisServer()
    let redis = try await connect(server.unixURL) { $0.maxPipelineBytes = 1 << 20 }
    let seen = NIOLockedValueBox<[String]>([])
    try await redis.onLoop {
      for i in 0..<1000 as Range<Int64> {
        redis.send([RedisCommand("ECHO", .integer(i)), .ping], deadline: .now() + .seconds(30)) { result in
          seen.withLockedValue { $0.append((try? result.get().map(\.description).joined()) ?? "failed") }
        }
      }
      let big = RedisCommand("ECHO", .bytes(ByteBuffer(repeating: 1, count: 1 << 20)))
      redis.send(big, deadline: .now() + .seconds(30)) { result in
        seen.withLockedValue { $0.append("\(result)".contains("maxPipelineBytes") ? "overloaded" : "sent") }
      }
    }
    _ = try await redis.ask(.ping)
    #expect(seen.withLockedValue { $0 } == ["overloaded"] + (0..<1000).map { "\"\($0)\"PONG" })
    #expect(try await redis.onLoop { redis.pipelineBytes } == 0)
  }

  /// What a gateway with default limits takes in.
  private func connectWithLimits(_ server: RedisServer) async throws -> RedisConnection {
    try await connect(server.unixURL) {
      $0.maxPipelineBytes = 64 << 20
      ($0.limits.maxBulkBytes, $0.limits.maxEntryBytes, $0.limits.maxReplyBytes) = (1 << 20, 1 << 20, 4 << 20)
    }
  }

  private func fields(_ count: Int, bytes: Int) -> [(name: RedisCommand.Argument, value: RedisCommand.Argument)] {
    let value = RedisCommand.Argument.bytes(ByteBuffer(repeating: 120, count: bytes))
    return (0..<count).map { ("f\($0)", value) }
  }

  /// Each of them once took a connection down, or stopped its session.
  @Test(arguments: [
    ("one string of 20 MB", 1, 20_000_000, 20_000_002), ("6 strings of 1 MB", 6, 1_000_000, 6_000_012),
    ("524,286 names and values", 262_143, 1, 1_986_034),
  ])
  func livesOnWithEntriesOverABound(name: String, count: Int, bytes: Int, total: Int) async throws {
    let server = try RedisServer()
    let redis = try await connectWithLimits(server)
    for i in 1...3 as ClosedRange<UInt64> {
      let entry = i == 2 ? fields(count, bytes: bytes) : [("n", 1)]
      _ = try await redis.ask(.xadd("s", id: RedisStreamID(1, i), fields: entry))
    }
    func check(_ read: RawEntries) {
      #expect(read.entries.map(\.id.sequence) == [1, 2, 3] && !read.isCut)
      #expect(read.entries.map(\.isElided) == [false, true, false])
      #expect(read.entries[1].byteCount == total && read.entries[1].fieldCount == count)
    }
    check(try await redis.ask(.xrange("s", count: 9)).decodedEntries())
    check(try #require(try await redis.ask(.xread(count: 9, [("s", .zero)])).decodedStreams(["s"]).first).read)
    // As the newest and the oldest entry.
    _ = try await redis.ask(RedisCommand("XDEL", "s", "1-1", "1-3"))
    let looks = try await redis.transaction([.xinfoStream("s"), .xrange("s", count: 9)], timeout: .seconds(30))
    let info = try RedisStreamInfo(looks[0])
    for entry in [info.firstEntry, info.lastEntry, try looks[1].decodedEntries().entries.first] {
      #expect(entry?.id == RedisStreamID(1, 2) && entry?.byteCount == total && entry?.isElided == true)
    }
    #expect(try await redis.onLoop { redis.closeReason } == nil)
  }

  @Test func livesOnWithRepliesOverABound() async throws {
    let server = try RedisServer()
    let redis = try await connectWithLimits(server)
    try server.cli("EVAL", "for i = 1, 600000 do redis.call('HSET', 'h', 'response-' .. i, '1') end", "0")
    let hash = try await redis.ask(RedisCommand("HGETALL", "h"))
    let kept = try #require(hash.elements)
    #expect(hash.isCut && kept.count > 100_000 && kept.allSatisfy { $0.bytes != nil })

    // Fifty of 200 KB: as many as fit, and the rest with the next reads.
    for i in 1...50 as ClosedRange<UInt64> {
      _ = try await redis.ask(.xadd("t", id: RedisStreamID(2, i), fields: fields(1, bytes: 200_000)))
    }
    var (read, rounds) = ([UInt64](), 0)
    while read.count < 50 {
      let from = RedisStreamID(2, UInt64(read.count + 1))
      let page = try await redis.ask(.xrange("t", from: from, count: 50)).decodedEntries()
      #expect(page.isCut == (read.count + page.entries.count < 50) && !page.entries.isEmpty)
      read += page.entries.map(\.id.sequence)
      rounds += 1
      if page.entries.isEmpty { break }
    }
    #expect(read == Array(1...50) && rounds == 3)

    // 512 entries of 1,100 fields are more nodes than a reply may have.
    try server.cli(
      "EVAL",
      "local f = {} for i = 1, 2200 do f[i] = 'x' end for i = 1, 512 do redis.call('XADD', 'u', '3-' .. i, unpack(f)) end",
      "0")
    let page = try await redis.ask(.xrange("u", count: 512)).decodedEntries()
    #expect(page.isCut && page.entries.count > 400 && page.entries.allSatisfy { $0.fields.count == 1100 })
    #expect(try await redis.onLoop { redis.closeReason } == nil)
  }

  @Test func transactsAndScripts() async throws {
    let server = try RedisServer()
    let redis = try await connect(server.unixURL)
    _ = try await redis.ask(RedisCommand("SET", "text", "x"))
    _ = try await redis.ask(.xadd("s", fields: [("a", 1)]))
    let results = try await redis.transaction(
      [.xinfoStream("s"), .xinfoStream("none"), .xrange("text", count: 1), .type("text")], timeout: .seconds(30))
    #expect(try RedisStreamInfo(results[0]).length == 1)
    #expect(results[1].error?.description.contains("no such key") == true)
    #expect(results[2].error?.code == "WRONGTYPE" && results[3].text == "string")
    let refused = await #expect(throws: RedisError.self) {
      try await redis.transaction([.ping, RedisCommand("NONSENSE")], timeout: .seconds(30))
    }
    #expect(refused?.kind == .configuration && refused?.description.contains("NONSENSE") == true)

    let script = RedisScript("return {KEYS[1], ARGV[1], #ARGV}")
    for _ in 0..<2 {
      let reply = try await redis.run(script, keys: ["k"], ["v", 2], timeout: .seconds(30))
      #expect(reply.description == "[\"k\", \"v\", 2]")
    }
    #expect(try server.cli("INFO", "commandstats").contains("cmdstat_eval:calls=1,"))

    #expect(try await redis.ask(.exists("s", "none")).integer == 1)
    #expect(try await redis.ask(.pexpire("s", milliseconds: 60_000)).integer == 1)
    #expect(try await redis.ask(.delete(["s", "none"])).integer == 1)
    #expect(try await redis.ask(.unlink(["text"])).integer == 1)
    #expect(try RedisRole(try await redis.ask(.role)) == .master(offset: 0))
    #expect(try await redis.ask(.time).decodedTime() > 1_600_000_000_000_000)
    #expect(try await redis.ask(.info("server")).decodedInfo()["redis_version"]?.isEmpty == false)
  }

  @Test func noticesChangesOfKeysThatDoNotExistYet() async throws {
    let server = try RedisServer()
    let listener = try await connect(server.unixURL)
    let redis = try await connect(server.unixURL)
    let notices = NIOLockedValueBox<[RedisInvalidation]>([])
    let subscribed: EventLoopFuture<Int64> = listener.eventLoop.flatSubmit {
      let promise = listener.eventLoop.makePromise(of: Int64.self)
      listener.onPush = { message in notices.withLockedValue { $0 += [RedisInvalidation(message)].compactMap(\.self) } }
      listener.send([.clientID, .subscribeInvalidate], deadline: .now() + .seconds(30)) { result in
        promise.completeWith(result.map { $0[0].integer ?? 0 }.mapError { $0 })
      }
      return promise.futureResult
    }
    _ = try await redis.ask(.trackingOn(redirect: try await subscribed.get()))

    func notice() async throws -> RedisInvalidation {
      try await eventually { notices.withLockedValue { $0.isEmpty ? nil : $0.removeFirst() } }
    }
    for change in [["XADD", "s", "*", "a", "b"], ["DEL", "s"], ["SET", "s", "x"]] {
      _ = try await redis.send([.xread(count: 1, [("s", .zero)])], timeout: .seconds(30))
      let process = try await connect(server.unixURL)
      _ = try await process.ask(RedisCommand(change[0], change.dropFirst().map { .string($0) }))
      #expect(try await notice() == .keys(["s"]))
    }
    // Read in the same breath, so that the key expires after it.
    _ = try await redis.send(
      [RedisCommand("SET", "s", "x", "PX", "50"), .xread(count: 1, [("s", .zero)])], timeout: .seconds(30))
    #expect(try await notice() == .keys(["s"]))
    try server.cli("FLUSHALL")
    #expect(try await notice() == .everything)
    // A subscriber answers PING between notices.
    #expect(try await listener.ask(.ping).elements?.count == 2)
  }
}
