import BatonRedis
import NIOCore
import RedisServer
import Synchronization
import TestSupport
import Testing

@testable import BatonProducer
@testable import BatonProtocol
@testable import BatonSession
@testable import BatonStore

/// The library over real servers.
@Suite struct ProducerTests {
  private func entries(_ server: RedisServer, _ session: String) async throws -> [[String]] {
    let connection = try await connect(server)
    defer { connection.eventLoop.execute { connection.close() } }
    let command = RedisCommand.xrange("baton:{\(session)}", from: .zero, through: .max, count: 10_000)
    return try await connection.send(command, timeout: .seconds(10)).decodedEntries().entries.map(\.texts)
  }

  private func text(_ entries: [[String]]) -> String {
    entries.compactMap { entry in
      entry.contains("n") ? entry.firstIndex(of: "data").map { entry[$0 + 1] } : nil
    }.joined()
  }

  @Test func anAnswer() async throws {
    let server = try RedisServer()
    let producer = try Producer(redis: server.unixURL)
    let answer = try await producer.open(session: "s", response: "r", data: "{}")
    try await answer.append("Hel")
    try await answer.append("lo")
    try await answer.append(event: "tool", data: "x", fields: [(name: "cost", value: "3")])
    try await answer.end(data: #"{"finish_reason":"stop"}"#)
    let entries = try await entries(server, "s")
    #expect(entries.first == ["event", "start", "response", "r", "data", "{}"])
    #expect(entries.contains(["response", "r", "n", "3", "event", "tool", "data", "x", "cost", "3"]))
    #expect(entries.last == ["event", "end", "response", "r", "data", #"{"finish_reason":"stop"}"#])
    #expect(text(Array(entries.filter { !$0.contains("tool") })) == "Hello")
    await #expect(throws: ProducerError.self) { try await answer.append("late") }
    await producer.shutdown()
  }

  @Test func aLargeDeltaIsCutBetweenCharacters() async throws {
    let server = try RedisServer()
    let producer = try Producer(redis: server.unixURL)
    let answer = try await producer.open(session: "s", response: "r")
    let long = "x" + String(repeating: "🙂", count: 100_000)
    try await answer.append(long)
    try await answer.end()
    let entries = try await entries(server, "s")
    #expect(text(entries) == long)
    #expect(entries.allSatisfy { $0.reduce(0) { $0 + $1.utf8.count } <= 256 << 10 })
    #expect(!entries.joined().contains { $0.contains("\u{FFFD}") })
  }

  @Test func whatNoDeviceWouldBeSentIsRefused() async throws {
    let server = try RedisServer()
    let producer = try Producer(redis: server.unixURL)
    let answer = try await producer.open(session: "s", response: "r")
    let large = String(repeating: "x", count: 256 << 10)
    await #expect(throws: ProducerError.self) { try await answer.append(event: "image", data: large) }
    await #expect(throws: ProducerError.self) { try await answer.end(data: large) }
    try await answer.append(event: "image", data: String(large.dropLast(200)))
    try await answer.end()
    #expect(try await entries(server, "s").count == 3)
    // In `respond` it ends the response by an error of the app's.
    await #expect(throws: ProducerError.self) {
      try await producer.respond(in: "s", response: "r2") { try await $0.append(event: "image", data: large) }
    }
    #expect(try await entries(server, "s").last?.contains(#"{"reason":"producer_error"}"#) == true)
  }

  @Test func namesThatCannotBeAreRefused() async throws {
    let server = try RedisServer()
    #expect(throws: ProducerError.self) { try Producer(redis: "nonsense") }
    let producer = try Producer(redis: server.unixURL)
    await #expect(throws: ProducerError.self) { try await producer.open(session: "a b") }
    await #expect(throws: ProducerError.self) { try await producer.open(session: "s", response: "") }
    let answer = try await producer.open(session: "s")
    await #expect(throws: ProducerError.self) { try await answer.append(event: "end") }
    await #expect(throws: ProducerError.self) { try await answer.append(event: "a b") }
    await #expect(throws: ProducerError.self) { try await answer.append(event: "x", fields: [(name: "n", value: "1")]) }
    try await answer.append("still alive")
    try await answer.end()
  }

  @Test func messagesReachTheResponseTheyAreFor() async throws {
    let server = try RedisServer()
    let keys = SessionKeys(try #require(SessionName("s")), prefix: "baton:")
    let connection = try await connect(server)
    func put(_ fields: [Entry.Field]) async throws {
      _ = try await connection.reply(to: .put(EntryPut(.inbox, fields, device: "phone")), keys)
    }
    let cancel = [Entry.Field("event", "cancel"), Entry.Field("response", "r")]
    try await put([Entry.Field("event", "input"), Entry.Field("data", "the question")])
    try await put(cancel)
    let producer = try Producer(redis: server.unixURL)
    let answer = try await producer.open(session: "s", response: "r")
    let other = try await producer.open(session: "s", response: "other")
    try await put([Entry.Field("event", "input"), Entry.Field("data", "steer")])
    var messages = answer.messages.makeAsyncIterator()
    let first = await messages.next()
    let second = await messages.next()
    #expect(first?.kind == .cancel && first?.device == "phone")
    #expect(second?.kind == .input && second?.data == "steer")
    try await answer.end(.cancelled)
    #expect(await messages.next() == nil)
    var others = other.messages.makeAsyncIterator()
    #expect(await others.next()?.data == "steer")
    try await other.end()
    #expect(await others.next() == nil)
  }

  @Test func manyResponsesShareOneConnection() async throws {
    let server = try RedisServer()
    let producer = try Producer(redis: server.unixURL)
    try await withThrowingTaskGroup(of: Void.self) { group in
      for index in 0..<200 {
        group.addTask {
          let answer = try await producer.open(session: "s\(index % 50)", response: "r\(index)")
          for n in 0..<50 { try await answer.append("\(index).\(n) ") }
          try await answer.end()
        }
      }
      try await group.waitForAll()
    }
    #expect(try server.cli("CLIENT", "LIST").split(separator: "\n").filter { $0.contains("name=baton") }.count == 1)
    let entries = try await entries(server, "s7")
    for index in stride(from: 7, to: 200, by: 50) {
      let own = entries.filter { $0.contains("r\(index)") }
      #expect(text(own) == (0..<50).map { "\(index).\($0) " }.joined())
    }
  }

  @Test func aFullBufferMakesTheAppWait() async throws {
    let server = try RedisServer()
    var configuration = Producer.Configuration()
    configuration.keptBytes = 10_000
    let producer = try Producer(redis: server.unixURL, configuration)
    let answer = try await producer.open(session: "s", response: "r")
    server.pause()
    let taken = Atomic(0)
    let appended = Task {
      for n in 0..<100 {
        try await answer.append(String(repeating: "\(n % 10)", count: 1000))
        taken.add(1, ordering: .relaxed)
      }
      try await answer.end()
    }
    try await eventually { taken.load(ordering: .relaxed) >= 9 ? true : nil }
    #expect(taken.load(ordering: .relaxed) <= 10)
    server.resume()
    try await appended.value
    #expect(text(try await entries(server, "s")).count == 100_000)
  }

  @Test func aTailThatRedisLostIsAppendedAgain() async throws {
    let server = try RedisServer()
    let producer = try Producer(redis: server.unixURL)
    let answer = try await producer.open(session: "s", response: "r")
    for n in 0..<50 { try await answer.append("\(n) ") }
    try await eventually { text(try await entries(server, "s")).hasSuffix(" 49 ") ? true : nil }
    try server.cli("SAVE")
    for n in 50..<100 { try await answer.append("\(n) ") }
    try await eventually { text(try await entries(server, "s")).hasSuffix(" 99 ") ? true : nil }
    server.stop()
    try server.start()
    try await answer.append("100 ")
    try await answer.end()
    #expect(text(try await entries(server, "s")) == (0...100).map { "\($0) " }.joined())

    // The end as well, within 10 s.
    try server.cli("DEL", "baton:{s}", "baton:{s}:producers")
    try await eventually { try await entries(server, "s").last?.contains("end") == true ? true : nil }
    #expect(text(try await entries(server, "s")) == (0...100).map { "\($0) " }.joined())
    await producer.shutdown()
  }

  @Test func whatRedisRefusesForGoodIsSaid() async throws {
    let server = try RedisServer()
    try server.cli("LPUSH", "baton:{s}", "x")
    let producer = try Producer(redis: server.unixURL)
    await #expect(throws: ProducerError.refused("the key baton:{s} holds another type")) {
      try await producer.open(session: "s")
    }
    server.stop()
    var configuration = Producer.Configuration()
    configuration.openPatience = .milliseconds(100)
    let hasty = try Producer(redis: server.unixURL, configuration)
    await #expect(throws: ProducerError.self) { try await hasty.open(session: "s") }
  }

  @Test func aScopeEndsItsResponseAsItEndsItself() async throws {
    struct Broken: Error {}
    let server = try RedisServer()
    let producer = try Producer(redis: server.unixURL)
    let whole = try await producer.respond(in: "s", response: "whole") { try await $0.append("a") }
    #expect(whole == .end)
    await #expect(throws: Broken.self) {
      try await producer.respond(in: "s", response: "broken") { answer in
        try await answer.append("b")
        throw Broken()
      }
    }
    let own = try await producer.respond(in: "s", response: "own") { try await $0.end(.error, data: "{}") }
    #expect(own == .error)
    let cancelled = Task {
      try await producer.respond(in: "s", response: "cancelled") { answer in
        try await answer.append("c")
        try await Task.sleep(for: .seconds(3600))
      }
    }
    try await eventually { text(try await entries(server, "s")).contains("c") ? true : nil }
    cancelled.cancel()
    await #expect(throws: CancellationError.self) { try await cancelled.value }
    try await eventually {
      try await entries(server, "s").contains { $0.contains("cancelled") && $0.contains("event") } ? true : nil
    }
    let ends = try await entries(server, "s").filter { !$0.contains("n") && !$0.contains("start") }.map {
      Array($0[1...3])
    }
    #expect(
      ends == [
        ["end", "response", "whole"], ["error", "response", "broken"], ["error", "response", "own"],
        ["cancelled", "response", "cancelled"],
      ])
    await producer.shutdown()
  }

  /// A device asks to stop behind more inputs than the app will ever read.
  @Test func aCancelIsHeardBehindAnyNumberOfInputs() async throws {
    let server = try RedisServer()
    let keys = SessionKeys(try #require(SessionName("s")), prefix: "baton:")
    let producer = try Producer(redis: server.unixURL)
    let isOpen = Atomic(false)
    let ended = Task {
      try await producer.respond(in: "s", response: "r") { answer in
        isOpen.store(true, ordering: .relaxed)
        while true {
          try await answer.append("x")
          try await Task.sleep(for: .milliseconds(1))
        }
      }
    }
    try await eventually { isOpen.load(ordering: .relaxed) ? true : nil }
    let connection = try await connect(server)
    for n in 0..<1000 {
      let input = [Entry.Field("event", "input"), Entry.Field("data", "\(n)")]
      _ = try await connection.reply(to: .put(EntryPut(.inbox, input)), keys)
    }
    let cancel = [Entry.Field("event", "cancel"), Entry.Field("response", "r")]
    _ = try await connection.reply(to: .put(EntryPut(.inbox, cancel)), keys)
    #expect(try await ended.value == .cancelled)
    #expect(try await entries(server, "s").last?.contains("cancelled") == true)
    connection.eventLoop.execute { connection.close() }
  }

  @Test func inputsThatHadNoRoomComeInOrder() async throws {
    let server = try RedisServer()
    let keys = SessionKeys(try #require(SessionName("s")), prefix: "baton:")
    let producer = try Producer(redis: server.unixURL)
    let answer = try await producer.open(session: "s", response: "r")
    let connection = try await connect(server)
    for n in 0..<300 {
      let input = [Entry.Field("event", "input"), Entry.Field("data", "\(n)")]
      _ = try await connection.reply(to: .put(EntryPut(.inbox, input)), keys)
    }
    var messages = answer.messages.makeAsyncIterator()
    for n in 0..<300 { #expect(await messages.next()?.data == "\(n)") }
    try await answer.end()
    connection.eventLoop.execute { connection.close() }
  }

  /// As when the model throws between `open` and `end`.
  @Test func aResponseThatIsLetGoEndsByError() async throws {
    let server = try RedisServer()
    let producer = try Producer(redis: server.unixURL)
    var answer: OpenResponse? = try await producer.open(session: "s", response: "r")
    try await answer?.append("a")
    answer = nil
    try await eventually { try await entries(server, "s").last?.contains("error") == true ? true : nil }
    #expect(
      try await entries(server, "s").last == [
        "event", "error", "response", "r", "data", #"{"reason":"producer_lost"}"#,
      ])
    await producer.shutdown()
  }

  @Test func aProducerThatNobodyHoldsClosesItsConnection() async throws {
    let server = try RedisServer()
    var producer: Producer? = try Producer(redis: server.unixURL)
    var answer = try await producer?.open(session: "s", response: "r")
    func connections() throws -> Int {
      try server.cli("CLIENT", "LIST").split(separator: "\n").filter { $0.contains("name=baton") }.count
    }
    #expect(try connections() == 1)
    if answer != nil { answer = nil }
    if producer != nil { producer = nil }
    try await eventually { try connections() == 0 ? true : nil }
    #expect(try await entries(server, "s").last?.contains("error") == true)
  }

  @Test func aCancelledTaskWaitsNoLonger() async throws {
    let server = try RedisServer()
    let producer = try Producer(redis: server.unixURL)
    let answer = try await producer.open(session: "s", response: "r")
    server.pause()
    let end = Task { try await answer.end() }
    let open = Task { _ = try await producer.open(session: "s", response: "other") }
    for task in [end, open] {
      task.cancel()
      await #expect(throws: CancellationError.self) { try await task.value }
    }
    server.resume()
    try await answer.end()
  }

  @Test func whatComesAfterAnEndSaysSo() async throws {
    let server = try RedisServer()
    let producer = try Producer(redis: server.unixURL)
    let answer = try await producer.open(session: "s", response: "r")
    try await answer.end()
    try await answer.end()
    await #expect(throws: ProducerError.ended(.end)) { try await answer.append("late") }
    await #expect(throws: ProducerError.ended(.end)) { try await answer.end(.error) }
    await producer.shutdown()
  }

  @Test func shuttingDownTellsWhoeverWaits() async throws {
    let server = try RedisServer()
    let producer = try Producer(redis: server.unixURL)
    let answer = try await producer.open(session: "s")
    await producer.shutdown()
    await #expect(throws: ProducerError.stopped) { try await answer.append("x") }
    await #expect(throws: ProducerError.stopped) { try await answer.end() }
    await #expect(throws: ProducerError.stopped) { try await producer.open(session: "s") }
  }
}
