import BatonRedis
import NIOCore

/// How looks are taken on this node for now.
final class LookForm {
  private let eventLoop: any EventLoop
  private(set) var now = Look.transaction

  init(on eventLoop: any EventLoop) { self.eventLoop = eventLoop }

  /// - Returns: Whether the look is to be taken again, in another form: this one was refused, whatever the words.
  func refused(_ form: Look, _ replies: ArraySlice<RESPReply>, _ error: RedisError) -> Bool {
    guard form == now else { return true }
    guard !error.shuts, form.isRefused(replies), let next = form.next else { return false }
    now = next
    // A server that is full, or whose rights were wrong, is not so for ever.
    eventLoop.assumeIsolated().scheduleTask(in: error.meaning == .refusesWrites ? .seconds(10) : .minutes(5)) {
      [weak self] in self?.now = .transaction
    }
    return true
  }
}
