import BatonProtocol
import Collections

/// Reads of history, each sent once for all who ask for the same while it waits; a bounded number under way.
///
/// Nobody is answered by a read that was sent before they asked: it could be older than what they were promised.
package struct PageQueue<Waiter> {
  /// Reads under way at once at the most.
  package let maxInFlight: Int
  private var waiting: OrderedDictionary<PageRequest, [Waiter]> = [:]
  private var inFlight: [PageRequest: [Waiter]] = [:]

  package init(maxInFlight: Int = 4) {
    self.maxInFlight = maxInFlight
  }

  package mutating func ask(_ request: PageRequest, _ waiter: Waiter) {
    waiting[request, default: []].append(waiter)
  }

  /// The next read to send; nil while nothing may be sent.
  package mutating func next() -> PageRequest? {
    guard inFlight.count < maxInFlight,
      let index = waiting.keys.firstIndex(where: { inFlight[$0] == nil })
    else { return nil }
    let (request, waiters) = waiting.remove(at: index)
    inFlight[request] = waiters
    return request
  }

  /// Those who asked for the read that was answered.
  package mutating func answered(_ request: PageRequest) -> [Waiter] {
    inFlight.removeValue(forKey: request) ?? []
  }
}
