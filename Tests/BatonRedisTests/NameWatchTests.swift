import NIOConcurrencyHelpers
import NIOCore
import RedisServer
import TestSupport
import Testing

@testable import BatonRedis

@Suite struct NameWatchTests {
  @Test func aNameThatLeadsElsewhereIsSeenAtTheSecondLook() async throws {
    let server = try RedisServer(tcp: true)
    let connector = try RedisConnector(RedisURL("redis://localhost:\(server.port)"))
    let loop = loops.next()
    let connection = try await connector.connect(on: loop).get()
    #expect(connection.remoteAddress?.ipAddress == "127.0.0.1")
    // Looks, and what they found when it was said that the name leads elsewhere.
    let state = NIOLockedValueBox(
      (answers: [["127.0.0.1"], ["::1"], ["::1", "127.0.0.1"], [], ["::1"]], looks: 0, moved: [Int]()))
    let watch = NIOLoopBoundBox.makeEmptyBox(valueType: NameWatch.self, eventLoop: loop)
    try await loop.submit {
      watch.value = NameWatch(
        connector.url, on: loop, interval: .milliseconds(1),
        resolve: { host in
          state.withLockedValue {
            #expect(host == "localhost")
            $0.looks += 1
            return $0.looks <= $0.answers.count ? $0.answers[$0.looks - 1] : ["::1"]
          }
        }, connection: { connection }, moved: { state.withLockedValue { $0.moved.append($0.looks) } })
      watch.value?.start()
    }.get()
    _ = try await eventually { state.withLockedValue { $0.moved.count >= 2 } ? true : nil }
    #expect(state.withLockedValue { $0.moved.prefix(2) } == [6, 8])
    try await loop.submit {
      watch.value?.stop()
      connection.close()
    }.get()
    server.stop()
  }

  @Test func addressesAndSocketsHaveNoName() throws {
    for url in ["redis://127.0.0.1", "redis://[::1]", "unix:///a", "redis+cluster://a,b", "redis+sentinel://a/m"] {
      #expect(NameWatch(try RedisURL(url), on: loops.next(), connection: { nil }, moved: {}) == nil)
    }
    #expect(try NameWatch.addresses(of: "localhost").contains("127.0.0.1"))
  }
}
