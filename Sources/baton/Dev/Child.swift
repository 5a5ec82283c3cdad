import Foundation
import NIOConcurrencyHelpers

/// A child process that ends with us: its standard input is a pipe that closes when we are gone, however that happens.
final class Child: Sendable {
  private let process: Process
  private let input = Pipe()
  private let unfinished = NIOLockedValueBox(Data())
  private let onLine: @Sendable (String) -> Void

  /// - Parameters:
  ///   - input: what it reads, to its end; at most 32 KiB. Without it its input stays open.
  ///   - onLine: each line of its standard error, on any thread.
  init(
    _ executable: URL, _ arguments: [String], environment: [String: String]? = nil, input data: Data? = nil,
    onLine: @escaping @Sendable (String) -> Void = { _ in }
  ) throws {
    let process = Process()
    self.process = process
    self.onLine = onLine
    process.executableURL = executable
    process.arguments = arguments
    if let environment { process.environment = environment }
    process.standardInput = input
    process.standardOutput = FileHandle.nullDevice
    let errors = Pipe()
    process.standardError = errors
    try Child.withoutBlockedSignals { try process.run() }
    if let data {
      // A child that is gone already reads nothing.
      try? input.fileHandleForWriting.write(contentsOf: data)
      try? input.fileHandleForWriting.close()
    }
    // A thread of its own: Foundation's `readabilityHandler` races its own end.
    Thread.detachNewThread { [weak self] in
      while case let data = Child.read(errors.fileHandleForReading.fileDescriptor), !data.isEmpty { self?.took(data) }
    }
  }

  /// Our threads block most signals, and a child would inherit that.
  private static func withoutBlockedSignals<T>(_ body: () throws -> T) rethrows -> T {
    var none = sigset_t()
    var old = sigset_t()
    sigemptyset(&none)
    pthread_sigmask(SIG_SETMASK, &none, &old)
    defer { pthread_sigmask(SIG_SETMASK, &old, nil) }
    return try body()
  }

  /// Waits for bytes; empty at the end. `FileHandle.availableData` would end the process where a read fails.
  private static func read(_ descriptor: Int32) -> Data {
    var bytes = [UInt8](repeating: 0, count: 64 << 10)
    var count = -1
    repeat { count = Foundation.read(descriptor, &bytes, bytes.count) } while count < 0 && errno == EINTR
    return Data(bytes.prefix(max(count, 0)))
  }

  private func took(_ data: Data) {
    let lines = unfinished.withLockedValue { rest in
      rest.append(data)
      var parts = rest.split(separator: UInt8(ascii: "\n"), omittingEmptySubsequences: false)
      rest = Data(parts.popLast() ?? Data())
      return parts.map { String(decoding: $0, as: UTF8.self) }
    }
    for line in lines { onLine(line) }
  }

  var isRunning: Bool { process.isRunning }
  var processIdentifier: Int32 { process.processIdentifier }

  /// Returns when it has ended.
  func exit() async { while process.isRunning { try? await Task.sleep(for: .milliseconds(20)) } }

  func signal(_ number: Int32) { if process.isRunning { kill(process.processIdentifier, number) } }

  /// Ends what waits for the end of its input.
  func endInput() async {
    try? input.fileHandleForWriting.close()
    await end(within: .seconds(5))
  }

  /// Asks it to end, and makes it after three seconds.
  func stop() async {
    signal(SIGTERM)
    await end(within: .seconds(3))
  }

  private func end(within patience: Duration) async {
    let deadline = ContinuousClock.now + patience
    while process.isRunning, ContinuousClock.now < deadline { try? await Task.sleep(for: .milliseconds(10)) }
    signal(SIGKILL)
    await exit()
  }
}
