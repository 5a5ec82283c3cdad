import BatonProtocol
import BatonRedis
import BatonSession
import NIOCore

/// Reads pages of history on a connection of its own.
final class HistoryReader {
  private struct Waiter {
    /// Whether it waits for the store to come back.
    let waits: Bool
    let answer: @Sendable (PageOutcome) -> Void
  }

  private let eventLoop: any EventLoop
  private let configuration: StoreConfiguration
  private let look: LookForm
  private let observe: (StoreEvent) -> Void
  private var link: RedisLink?
  private var pages: PageQueue<Waiter>

  init(
    _ configuration: StoreConfiguration, connector: RedisConnector, look: LookForm, on eventLoop: any EventLoop,
    observe: @escaping (StoreEvent) -> Void, changed: @escaping () -> Void
  ) {
    (self.eventLoop, self.configuration, self.look, self.observe) = (eventLoop, configuration, look, observe)
    pages = PageQueue(maxInFlight: max(1, min(4, configuration.historyBytes / (4 * configuration.maxStringBytes))))
    link = RedisLink(connector, on: eventLoop, setUp: ping) { [weak self] event in
      switch event {
      case .up:
        changed()
        self?.sendPages()
      case .down(let failure): observe(.disconnected(.history, failure.error))
      }
    }
  }

  func start() { link?.start() }
  func stop() { link?.stop() }
  var isUp: Bool { link?.connection != nil }

  /// `waits`: until the store is back, instead of `unavailable`.
  func read(_ request: PageRequest, waits: Bool, answer: @escaping @Sendable (PageOutcome) -> Void) {
    guard isUp || waits else { return answer(.unavailable) }
    pages.ask(request, Waiter(waits: waits, answer: answer))
    sendPages()
  }

  private func sendPages() {
    guard let connection = link?.connection else { return }
    while let request = pages.next() {
      let sent = eventLoop.now
      let form = look.now
      let key = request.session.key(prefix: configuration.keyPrefix)
      connection.send(request.commands(key: key, form), deadline: sent + .seconds(3)) { [weak self] result in
        guard let self else { return }
        var decoder = StreamDecoder(maxEntryBytes: self.configuration.maxEntryBytes)
        let outcome = result.flatMap { replies in
          Result { () throws(RedisError) in try request.outcome(replies, form, &decoder) }
        }
        let waiters = self.pages.answered(request)
        switch outcome {
        case .success(let page):
          self.observe(.answered(.history, after: self.eventLoop.now - sent))
          for waiter in waiters { waiter.answer(page) }
        case .failure(let error):
          self.observe(.refused(.history, request.session, error))
          if self.look.refused(form, error) {
            for waiter in waiters { self.pages.ask(request, waiter) }
            break
          }
          for waiter in waiters {
            if waiter.waits, error.reason != .server {
              self.pages.ask(request, waiter)
            } else {
              waiter.answer(.unavailable)
            }
          }
          if error.kind == .retry, error.reason == .server { connection.close() }
        }
        self.sendPages()
      }
    }
  }
}

/// A server that loads its data accepts a login and refuses this.
func ping(_ connection: RedisConnection, _ done: @escaping (Result<Void, RedisError>) -> Void) {
  connection.send(.ping, deadline: connection.eventLoop.now + .seconds(5)) { done($0.map { _ in }) }
}
