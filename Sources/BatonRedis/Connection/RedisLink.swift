import NIOCore

/// Keeps one connection up on one event loop. Everything is called, and calls back, on that loop.
package final class RedisLink {
  /// Prepares each new connection before it is `up`: say how it went by the second argument, once.
  package typealias SetUp = (RedisConnection, @escaping (Result<Void, RedisError>) -> Void) -> Void

  package enum Event {
    case up(RedisConnection)
    /// The connection was lost, or an attempt failed; the link tries again by itself.
    case down(Failure)
  }

  package struct Failure: Sendable, Equatable {
    package let error: RedisError
    /// 1 and up: how many times in a row, without the link having been up for longer than its longest delay.
    package let attempt: Int
    /// The failure before, of the same row, was the same.
    package let isRepeated: Bool
  }

  package let eventLoop: any EventLoop
  /// Nil while down.
  package private(set) var connection: RedisConnection?

  private let connector: any RedisConnecting
  private let keepAlive: TimeAmount?
  private let random: () -> Double
  private let setUp: SetUp
  private let report: (Event) -> Void
  private var state: RedisLinkState
  /// From the login on; `connection` from `up` on.
  private var current: RedisConnection?
  private var retry: Scheduled<Void>?

  /// `keepAlive` sends a PING that often, and closes the connection where it is not answered within the same time.
  /// `random`, 0 to 1, is asked for each delay.
  package init(
    _ connector: any RedisConnecting, on eventLoop: any EventLoop, keepAlive: TimeAmount? = .seconds(5),
    backoff: RedisBackoff = RedisBackoff(), random: @escaping () -> Double = { .random(in: 0...1) },
    setUp: @escaping SetUp = { $1(.success(())) }, report: @escaping (Event) -> Void
  ) {
    (self.connector, self.eventLoop, self.keepAlive, self.random) = (connector, eventLoop, keepAlive, random)
    (self.setUp, self.report, state) = (setUp, report, RedisLinkState(backoff: backoff))
  }

  package func start() { act(state.started()) }

  /// No event comes after it. What is unanswered fails with ``RedisError/stopped``.
  package func stop() { act(state.stopRequested()) }

  /// Leaves a connection whose server says that it is not, or no longer, the right one (``RedisError/wantsMaster``),
  /// and makes another. Where the next one says the same, it is kept for 1 s before it is left, then for 2, 4 … 30 s.
  package func leave(_ connection: RedisConnection, because error: RedisError) {
    guard connection === self.connection, state.leaveRequested(now: eventLoop.now) else { return }
    connection.close(error)
  }

  /// Connects again at once, whatever it is doing: the server is to be found elsewhere.
  package func restart(because error: RedisError) {
    retry?.cancel()
    let wasUp = connection != nil
    let open = current
    (current, connection) = (nil, nil)
    open?.close(error)
    let action = state.restartRequested()
    if wasUp { report(.down(Failure(error: error, attempt: 1, isRepeated: false))) }
    act(action)
  }

  private func act(_ action: RedisLinkState.Action) {
    switch action {
    case .none: break
    case .connect: connect()
    case .setUp: prepare()
    case .up:
      connection = current
      if let current {
        scheduleKeepAlive(current)
        report(.up(current))
      }
    case .retry(let delay):
      retry = eventLoop.assumeIsolated().scheduleTask(in: delay) { self.act(self.state.delayPassed()) }
    case .close:
      retry?.cancel()
      let open = current
      (current, connection) = (nil, nil)
      open?.close()
    }
  }

  private func connect() {
    let attempt = state.attemptNumber
    eventLoop.flatSubmit { [connector, eventLoop] in
      connector.connect(on: eventLoop)
    }.assumeIsolated().whenComplete { result in
      guard attempt == self.state.attemptNumber else { return (try? result.get())?.close() ?? () }
      switch result {
      case .failure(let error): self.failed(error as? RedisError ?? .connectFailed("\(error)"))
      case .success(let connection):
        self.current = connection
        self.act(self.state.connected())
      }
    }
  }

  private func prepare() {
    guard let attempt = current else { return }
    attempt.onClose = { [weak self, weak attempt] error in
      guard let self, let attempt, self.current === attempt else { return }
      self.failed(error)
    }
    setUp(attempt) { [weak self, weak attempt] result in
      guard let self, let attempt, self.current === attempt else { return }
      switch result {
      case .success: self.act(self.state.setUpSucceeded(now: self.eventLoop.now))
      case .failure(let error): self.failed(error)
      }
    }
  }

  private func failed(_ error: RedisError) {
    let open = current
    (current, connection) = (nil, nil)
    open?.close()
    guard let (failure, action) = state.failed(error, now: eventLoop.now, random: random()) else { return }
    report(.down(failure))
    act(action)
  }

  private func scheduleKeepAlive(_ connection: RedisConnection) {
    guard let keepAlive else { return }
    eventLoop.assumeIsolated().scheduleTask(in: keepAlive) { [weak self, weak connection] in
      guard let self, let connection, self.connection === connection else { return }
      connection.send([.ping], deadline: self.eventLoop.now + keepAlive) { _ in }
      self.scheduleKeepAlive(connection)
    }
  }
}
