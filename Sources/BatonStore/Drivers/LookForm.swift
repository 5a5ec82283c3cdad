import BatonRedis
import NIOCore

/// How looks are taken on this node for now.
final class LookForm {
  private let eventLoop: any EventLoop
  private(set) var now = Look.transaction

  init(on eventLoop: any EventLoop) { self.eventLoop = eventLoop }

  /// A look that was refused because the server is full is taken in another way from now on: true where this is so.
  func refused(_ form: Look, _ error: RedisError) -> Bool {
    guard form == .transaction, error.code == "OOM" || error.code == "EXECABORT" else { return false }
    now = .script
    eventLoop.assumeIsolated().scheduleTask(in: .seconds(10)) { [weak self] in self?.now = .transaction }
    return true
  }
}
