import BatonProducer
import BatonRelay
import NIOConcurrencyHelpers

/// What a gateway asks on behalf of its callers, and what it appends with.
package struct Relays: Sendable {
  /// Nil where no model server is named.
  var openAI: Relay?
  /// Nil where no backend is named.
  var aiSDK: Relay?
  /// Backends of whatever kind, by the path that each answers at.
  var paths: [String: Relay] = [:]
  /// For how long a message that has ended is still given to who asks whether there is one to resume.
  var grace = Duration.seconds(30)
  /// What a second question of a session does.
  var busy = BusyRule()
  /// Questions that wait here.
  let waiting = BoundedCount()
  /// Bytes of those whose callers do not wait with them.
  let waitingBytes = BoundedCount()
  /// Nil where nothing can be appended but by the store's own operations.
  var producer: SharedProducer?

  package init() {}

  var all: [Relay] { [openAI, aiSDK].compactMap(\.self) + paths.values }

  /// Answers that are on their way.
  var open: Int { all.reduce(0) { $0 + $1.open } }

  /// The node goes away.
  func drain() async {
    await withTaskGroup { group in
      for relay in all { group.addTask { await relay.drain() } }
    }
    // Those that nobody waits with say so in their sessions.
    let deadline = ContinuousClock.now + .seconds(5)
    while waiting.count > 0, ContinuousClock.now < deadline { try? await Task.sleep(for: .milliseconds(20)) }
  }
}

/// A producer that is there once it is needed: it keeps a connection of its own.
package final class SharedProducer: Sendable {
  private let make: @Sendable () throws(ProducerError) -> Producer
  private let made = NIOLockedValueBox<Producer?>(nil)

  init(_ make: @escaping @Sendable () throws(ProducerError) -> Producer) { self.make = make }

  func current() throws(ProducerError) -> Producer {
    let result = made.withLockedValue { made in
      if let made { return Result<_, ProducerError>.success(made) }
      let result = Result { () throws(ProducerError) in try make() }
      made = try? result.get()
      return result
    }
    return try result.get()
  }

  func shutdown() async { await made.withLockedValue { $0 }?.shutdown() }
}
