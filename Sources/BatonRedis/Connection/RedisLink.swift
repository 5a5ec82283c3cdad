import NIOCore

/// Keeps one connection up on one event loop. Everything is called, and calls back, on that loop.
package final class RedisLink {
  /// Prepares each new connection before it is `up`: say how it went by the second argument, once.
  package typealias SetUp = (RedisConnection, @escaping (Result<Void, RedisError>) -> Void) -> Void

  package enum Event {
    case up(RedisConnection)
    /// The connection was lost, or an attempt failed; the link tries again by itself.
    case down(RedisError)
  }

  package let eventLoop: any EventLoop
  /// Nil while down.
  package private(set) var connection: RedisConnection?

  private let connector: RedisConnector
  private let keepAlive: TimeAmount?
  private let setUp: SetUp
  private let report: (Event) -> Void
  private var state: RedisLinkState
  /// From the login on; `connection` from `up` on.
  private var current: RedisConnection?
  private var retry: Scheduled<Void>?

  /// `keepAlive` sends a PING that often, and closes the connection where it is not answered within the same time.
  package init(
    _ connector: RedisConnector, on eventLoop: any EventLoop, keepAlive: TimeAmount? = .seconds(5),
    backoff: RedisBackoff = RedisBackoff(), setUp: @escaping SetUp = { $1(.success(())) },
    report: @escaping (Event) -> Void
  ) {
    (self.connector, self.eventLoop, self.keepAlive) = (connector, eventLoop, keepAlive)
    (self.setUp, self.report, state) = (setUp, report, RedisLinkState(backoff: backoff))
  }

  package func start() { act(state.started()) }

  /// No event comes after it. What is unanswered fails with ``RedisError/stopped``.
  package func stop() { act(state.stopRequested()) }

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
    connector.connect(on: eventLoop).assumeIsolated().whenComplete { result in
      switch result {
      case .failure(let error): self.failed(RedisError(channel: error))
      case .success(let connection):
        self.current = connection
        self.act(self.state.connected())
      }
    }
  }

  private func prepare() {
    guard let attempt = current else { return }
    attempt.onClose = { [weak self, weak attempt] error in
      guard let self, self.current === attempt else { return }
      self.failed(error)
    }
    guard current === attempt else { return }
    setUp(attempt) { [weak self, weak attempt] result in
      guard let self, let attempt, self.current === attempt else { return }
      switch result {
      case .success: self.act(self.state.setUpSucceeded(now: .now()))
      case .failure(let error): self.failed(error)
      }
    }
  }

  private func failed(_ error: RedisError) {
    let open = current
    (current, connection) = (nil, nil)
    open?.close()
    if state.isStopped { return }
    let action = state.failed(now: .now(), random: .random(in: 0...1))
    report(.down(error))
    act(action)
  }

  private func scheduleKeepAlive(_ connection: RedisConnection) {
    guard let keepAlive else { return }
    eventLoop.assumeIsolated().scheduleTask(in: keepAlive) { [weak self, weak connection] in
      guard let self, let connection, self.connection === connection else { return }
      connection.send([.ping], deadline: .now() + keepAlive) { _ in }
      self.scheduleKeepAlive(connection)
    }
  }
}
