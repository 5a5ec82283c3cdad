import NIOCore
import Testing

@testable import BatonRedis

@Suite struct ConnectionStateTests {
  private typealias State = RedisConnectionState<String>

  private func at(_ seconds: Int64) -> NIODeadline { .uptimeNanoseconds(0) + .seconds(seconds) }

  private func show(_ action: State.ReplyAction, _ state: State) -> String {
    switch action {
    case .wait: "wait"
    case .ready: "ready"
    case .complete(let who, let replies): "complete \(who) \(replies)"
    case .push(let message): "push \(message)"
    case .close(let failing): "close \(state.closeReason.map { $0.code ?? "\($0.reason)" } ?? "?") \(failing)"
    }
  }

  private func show(_ action: State.TimeAction, _ state: State) -> String {
    switch action {
    case .wait: "wait"
    case .wakeAt(let deadline): "wake at \(deadline.uptimeNanoseconds / 1_000_000_000)"
    case .close(let failing): "close \(state.closeReason.map { "\($0.reason)" } ?? "?") \(failing)"
    }
  }

  private func show(_ action: State.SendAction) -> String {
    switch action {
    case .write(let wakeAt): "write" + (wakeAt.map { ", wake at \($0.uptimeNanoseconds / 1_000_000_000)" } ?? "")
    case .refuse(let who, let error): "refuse \(who) \(error.reason)"
    }
  }

  private func make(_ url: String = "redis://h", maxPipelineBytes: Int = 1000) throws -> State {
    State(url: try RedisURL(url), clientName: "baton", maxPipelineBytes: maxPipelineBytes)
  }

  private func ready(maxPipelineBytes: Int = 1000) throws -> State {
    var state = try make(maxPipelineBytes: maxPipelineBytes)
    _ = state.connected(deadline: at(0))
    for _ in 0..<2 { _ = state.replyReceived(try reply("+OK\r\n")) }
    return state
  }

  @Test func logsIn() throws {
    var state = try make("redis://ann:secret@h/3")
    #expect(show(state.sendRequested([.ping], deadline: at(9), completion: "early")) == "refuse early connectionLost")
    let commands = state.connected(deadline: at(5))
    #expect(commands.map(\.name) == ["AUTH", "SELECT", "CLIENT", "PING"])
    #expect(String(buffer: commands[0].encoded).contains("$3\r\nann\r\n$6\r\nsecret\r\n"))
    #expect(show(state.replyReceived(try reply("+OK\r\n")), state) == "wait")
    #expect(show(state.replyReceived(try reply("+OK\r\n")), state) == "wait")
    #expect(show(state.replyReceived(try reply("-NOPERM client\r\n")), state) == "wait")
    #expect(show(state.replyReceived(try reply("+PONG\r\n")), state) == "ready")
  }

  @Test func givesTheFirstReasonForARefusedLogin() throws {
    var state = try make("redis://:bad@h")
    _ = state.connected(deadline: at(5))
    #expect(show(state.replyReceived(try reply("-WRONGPASS no\r\n")), state) == "wait")
    #expect(show(state.replyReceived(try reply("-NOAUTH x\r\n")), state) == "wait")
    #expect(show(state.replyReceived(try reply("-NOAUTH x\r\n")), state) == "close WRONGPASS []")
    #expect(state.closeReason?.kind == .configuration)
  }

  @Test(arguments: [
    // A full disk refuses PING and serves reads; a name and a PING are only nice to have.
    ("+OK\r\n", "-MISCONF Errors writing to the AOF file: No space left on device\r\n", "ready"),
    ("-unsupported command 'client'\r\n", "+PONG\r\n", "ready"),
    ("-NOPERM client\r\n", "-NOPERM ping\r\n", "ready"),
    ("-ERR unknown command 'client'\r\n", "-ERR unknown command 'ping'\r\n", "ready"),
    ("+OK\r\n", "-LOADING Redis is loading the dataset in memory\r\n", "close LOADING []"),
    ("-NOAUTH Authentication required.\r\n", "-NOAUTH Authentication required.\r\n", "close NOAUTH []"),
  ])
  func letsInWhoCanRead(name: String, ping: String, expected: String) throws {
    var state = try make()
    _ = state.connected(deadline: at(5))
    #expect(show(state.replyReceived(try reply(name)), state) == "wait")
    #expect(show(state.replyReceived(try reply(ping)), state) == expected)
  }

  @Test func anyRefusedLoginMustBeMended() throws {
    var state = try make("redis://:secret@h/99")
    _ = state.connected(deadline: at(5))
    _ = state.replyReceived(try reply("+OK\r\n"))
    _ = state.replyReceived(try reply("-a proxy's own words\r\n"))
    _ = state.replyReceived(try reply("+OK\r\n"))
    #expect(show(state.replyReceived(try reply("+PONG\r\n")), state) == "close a []")
    #expect(state.closeReason?.kind == .configuration && state.closeReason?.meaning == .shutsUntilMended)
  }

  @Test func keepsWhatCameBeforeTheClose() throws {
    for url in ["redis://h", "redis://:secret@h/2"] {
      var state = try make(url)
      _ = state.connected(deadline: at(5))
      #expect(show(state.replyReceived(try reply("-ERR max number of clients reached\r\n")), state) == "wait")
      #expect(state.closed(.connectionLost) == [])
      #expect(state.closeReason?.meaning == .shutsNewcomers && state.closeReason?.kind == .retry)
    }
  }

  @Test func givesUpALoginInTime() throws {
    var state = try make()
    _ = state.connected(deadline: at(5))
    #expect(show(state.timePassed(now: at(4)), state) == "wake at 5")
    #expect(show(state.timePassed(now: at(5)), state) == "close timedOut []")
  }

  @Test func answersInOrderOncePerRequest() throws {
    var state = try ready()
    #expect(show(state.sendRequested([.ping, .time], deadline: at(9), completion: "a")) == "write")
    #expect(show(state.sendRequested([.ping], deadline: at(9), completion: "b")) == "write")
    #expect(show(state.replyReceived(try reply(":1\r\n")), state) == "wait")
    #expect(show(state.replyReceived(try reply("-ERR x\r\n")), state) == "complete a [1, -ERR x]")
    #expect(show(state.replyReceived(try reply(":3\r\n")), state) == "complete b [3]")
    #expect(show(state.replyReceived(try reply(":4\r\n")), state) == "close protocolViolation []")
  }

  @Test func anyDeadlineCondemnsAllThatWaits() throws {
    var state = try ready()
    _ = state.timePassed(now: at(0))
    #expect(show(state.sendRequested([.ping], deadline: at(30), completion: "a")) == "write, wake at 30")
    #expect(show(state.sendRequested([.ping], deadline: at(10), completion: "b")) == "write, wake at 10")
    #expect(show(state.sendRequested([.ping], deadline: at(20), completion: "c")) == "write")
    #expect(show(state.replyReceived(try reply("+PONG\r\n")), state) == "complete a [PONG]")
    #expect(show(state.replyReceived(try reply("+PONG\r\n")), state) == "complete b [PONG]")
    #expect(show(state.timePassed(now: at(10)), state) == "wake at 20")
    #expect(show(state.sendRequested([.ping], deadline: at(25), completion: "d")) == "write")
    #expect(show(state.timePassed(now: at(20)), state) == "close timedOut [\"c\", \"d\"]")
    #expect(show(state.sendRequested([.ping], deadline: at(30), completion: "e")) == "refuse e timedOut")
    #expect(show(state.replyReceived(try reply("+late\r\n")), state) == "wait")
    #expect(show(state.timePassed(now: at(99)), state) == "wait")
  }

  @Test func waitsForAReplyThatIsComingIn() throws {
    var state = try ready()
    _ = state.sendRequested([.ping], deadline: at(3), completion: "a")
    _ = state.sendRequested([.ping], deadline: at(4), completion: "b")
    for second in 1...8 as ClosedRange<Int64> {
      for _ in 0..<16 { state.bytesReceived(16 << 10, now: at(second)) }
      if second >= 3 { #expect(show(state.timePassed(now: at(second)), state) == "wake at \(second + 1)") }
    }
    // Too slow is no progress, nor is what came before.
    state.bytesReceived(255 << 10, now: at(9))
    #expect(show(state.timePassed(now: at(9)), state) == "close timedOut [\"a\", \"b\"]")

    state = try ready()
    state.bytesReceived(1 << 20, now: at(1))
    _ = state.sendRequested([.ping], deadline: at(3), completion: "a")
    #expect(show(state.timePassed(now: at(3)), state) == "close timedOut [\"a\"]")
  }

  @Test func boundsWhatIsUnanswered() throws {
    var state = try ready(maxPipelineBytes: 30)
    #expect(RedisCommand.ping.encoded.readableBytes == 14)
    #expect(show(state.sendRequested([.ping, .ping], deadline: at(9), completion: "a")) == "write")
    #expect(show(state.sendRequested([.ping], deadline: at(9), completion: "b")) == "refuse b overloaded")
    _ = state.replyReceived(try reply("+PONG\r\n"))
    _ = state.replyReceived(try reply("+PONG\r\n"))
    #expect(state.pipelineBytes == 0)
    #expect(show(state.sendRequested([.ping], deadline: at(9), completion: "c")) == "write")
  }

  @Test func tellsMessagesFromReplies() throws {
    let message = "*3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$1\r\nm\r\n"
    var state = try ready()
    _ = state.sendRequested([.ping], deadline: at(9), completion: "a")
    #expect(show(state.replyReceived(try reply(message)), state) == "complete a [[\"message\", \"c\", \"m\"]]")
    _ = state.sendRequested([.subscribeInvalidate, .ping], deadline: at(9), completion: "b")
    #expect(show(state.replyReceived(try reply("*3\r\n$9\r\nsubscribe\r\n$1\r\nc\r\n:1\r\n")), state) == "wait")
    #expect(show(state.replyReceived(try reply(message)), state) == "push [\"message\", \"c\", \"m\"]")
    #expect(show(state.replyReceived(try reply("*2\r\n$4\r\npong\r\n$0\r\n\r\n")), state).hasPrefix("complete b"))
  }

  @Test func failsEverythingOnce() throws {
    var state = try ready()
    _ = state.sendRequested([.ping, .ping], deadline: at(9), completion: "a")
    _ = state.replyReceived(try reply("+PONG\r\n"))
    #expect(state.closed(.connectionLost) == ["a"])
    #expect(state.closed(.stopped) == [])
    #expect(state.closeReason == .connectionLost)
  }
}

@Suite struct LinkStateTests {
  private func at(_ seconds: Int64) -> NIODeadline { .uptimeNanoseconds(0) + .seconds(seconds) }

  @Test func backsOffWithFullJitter() {
    var backoff = RedisBackoff()
    #expect(
      (0..<8).map { _ in backoff.next(random: 1).nanoseconds / 1_000_000 } == [
        50, 100, 200, 400, 800, 1600, 2000, 2000,
      ])
    #expect(backoff.next(random: 0.25) == .milliseconds(500))
    #expect(backoff.next(random: 0) == .zero)
    backoff.reset()
    #expect(backoff.next(random: 1) == .milliseconds(50))
  }

  @Test func keepsTrying() {
    var link = RedisLinkState()
    #expect(link.started() == .connect)
    #expect(link.failed(.connectionLost, now: at(0), random: 1)?.1 == .retry(after: .milliseconds(50)))
    #expect(link.failed(.connectionLost, now: at(0), random: 1)?.1 == nil)
    #expect(link.delayPassed() == .connect)
    #expect(link.connected() == .setUp)
    #expect(link.failed(.connectionLost, now: at(0), random: 1)?.1 == .retry(after: .milliseconds(100)))
    #expect(link.delayPassed() == .connect)
    #expect(link.connected() == .setUp)
    #expect(link.setUpSucceeded(now: at(1)) == .up)
    // Up for a moment only: the delays go on growing.
    #expect(link.failed(.connectionLost, now: at(2), random: 1)?.1 == .retry(after: .milliseconds(200)))
    _ = (link.delayPassed(), link.connected(), link.setUpSucceeded(now: at(3)))
    #expect(link.failed(.connectionLost, now: at(5), random: 1)?.1 == .retry(after: .milliseconds(50)))
    #expect(link.stopRequested() == .close)
    #expect(
      link.delayPassed() == .none && link.connected() == .close
        && link.failed(.connectionLost, now: at(9), random: 1)?.1 == nil)
  }
}
