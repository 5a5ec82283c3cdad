import Dispatch
import Foundation
import Synchronization

/// The first interrupt or termination is told; a second one ends the process at once.
final class Signals {
  private let sources: [any DispatchSourceSignal]

  init(_ told: @escaping @Sendable () -> Void) {
    let count = Count()
    sources = [SIGINT, SIGTERM].map { number in
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

  deinit {
    for source in sources { source.cancel() }
  }

  private final class Count: Sendable {
    private let value = Mutex(0)

    func next() -> Int {
      value.withLock { value in
        value += 1
        return value
      }
    }
  }
}
