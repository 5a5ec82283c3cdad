import Dispatch
import Foundation
import NIOConcurrencyHelpers

/// The first interrupt or termination is told; a second one ends the process at once.
final class Signals {
  private let sources: [any DispatchSourceSignal]

  /// - Parameter hangup: whether the terminal's end is told, too; not where it is ignored already (nohup).
  init(hangup: Bool = false, _ told: @escaping @Sendable () -> Void) {
    let count = Count()
    sources = ([SIGINT, SIGTERM] + (hangup && !Self.isIgnored(SIGHUP) ? [SIGHUP] : [])).map { number in
      signal(number, SIG_IGN)
      let source = DispatchSource.makeSignalSource(signal: number, queue: .global())
      source.setEventHandler {
        if count.next() > 1 { exit(128 + number) }
        told()
      }
      source.resume()
      return source
    }
  }

  private static func isIgnored(_ number: Int32) -> Bool {
    var now = sigaction()
    sigaction(number, nil, &now)
    #if canImport(Glibc)
      return unsafeBitCast(now.__sigaction_handler.sa_handler, to: Int.self) == 1
    #else
      return unsafeBitCast(now.__sigaction_u.__sa_handler, to: Int.self) == 1
    #endif
  }

  deinit {
    for source in sources { source.cancel() }
  }

  private final class Count: Sendable {
    private let value = NIOLockedValueBox(0)

    func next() -> Int {
      value.withLockedValue { value in
        value += 1
        return value
      }
    }
  }
}
