import NIOCore
import RedisServer
import Testing

@testable import BatonRedis

@Suite struct StreamTests {
  @Test func readsWhatWasAdded() async throws {
    let server = try RedisServer()
    let redis = try await connect(server.unixURL)
    let first = try await redis.ask(.xadd("s", fields: [("data", "Hel"), ("n", 1)])).decodedID()
    let second = try await redis.ask(.xadd("s", trim: .about(100), fields: [("data", "lo"), ("n", 2)])).decodedID()
    #expect(first < second)

    let read = try await redis.ask(.xread(count: 10, [("none", .zero), ("s", .zero)])).decodedStreams(["none", "s"])
    #expect(read.map(\.index) == [1])
    let entries = try #require(read.first).read.entries
    #expect(entries.map(\.id) == [first, second])
    #expect(entries.map(\.byteCount) == [9, 8])
    #expect(entries[0].fields.map { String(buffer: $0.value) } == ["Hel", "1"])

    let info = try RedisStreamInfo(try await redis.ask(.xinfoStream("s")))
    let counts = try RedisServer.version.get() >= 7
    #expect(info.length == 2 && info.entriesAdded == (counts ? 2 : nil) && info.lastGeneratedID == second)
    #expect(info.firstEntry?.id == first && info.lastEntry?.id == second)
    #expect(info.maxDeletedEntryID == (counts ? .zero : nil))
  }
}
