import Dispatch
import Foundation
import NIOConcurrencyHelpers

/// Lines on their way to a descriptor that may fail or block. A thread of its own writes them, so whoever has a line to
/// say never waits for who reads it. A line that can't be written, or for which there is no room, is lost and counted.
package final class LineOutput: Sendable {
  package static let standardError = LineOutput(STDERR_FILENO)

  /// Bytes of lines that may wait.
  package static let limit = 1 << 20

  private struct State {
    var waiting: [[UInt8]] = []
    /// Of what waits and of what is being written.
    var bytes = 0
    var dropped: UInt64 = 0
    var isStarted = false
    /// A flush has waited in vain since the last line that was written.
    var isStuck = false
    var flushes: [DispatchSemaphore] = []
  }

  private let descriptor: Int32
  private let state = NIOLockedValueBox(State())
  private let work = DispatchSemaphore(value: 0)

  package init(_ descriptor: Int32) { self.descriptor = descriptor }

  /// Lines that were lost since the process started.
  package var dropped: UInt64 { state.withLockedValue { $0.dropped } }

  /// - Parameter line: with its line end. Never blocks and never fails.
  package func write(_ line: String) {
    let bytes = Array(line.utf8)
    let (start, wake) = state.withLockedValue { state in
      guard state.bytes + bytes.count <= LineOutput.limit else {
        state.dropped += 1
        return (false, false)
      }
      let wake = state.waiting.isEmpty
      state.waiting.append(bytes)
      state.bytes += bytes.count
      defer { state.isStarted = true }
      return (!state.isStarted, wake)
    }
    if wake { work.signal() }
    if start { Thread.detachNewThread { self.writeForever() } }
  }

  /// For commands: the line, and what was said before it, stands there before what comes next on other descriptors,
  /// unless nobody has read for a second.
  package func tell(_ line: String) {
    write(line)
    if !state.withLockedValue({ $0.isStuck }) { flush(within: .seconds(1)) }
  }

  /// Returns once everything is written or lost, and in any case after this time.
  package func flush(within patience: DispatchTimeInterval) {
    let done = DispatchSemaphore(value: 0)
    let isEmpty = state.withLockedValue { state in
      if state.bytes > 0 { state.flushes.append(done) }
      return state.bytes == 0
    }
    if isEmpty { return }
    if done.wait(timeout: .now() + patience) == .timedOut { state.withLockedValue { $0.isStuck = true } }
  }

  private func writeForever() {
    while true {
      work.wait()
      let lines = state.withLockedValue { state in
        defer { state.waiting = [] }
        return state.waiting
      }
      for line in lines {
        let isWritten = (try? Descriptor.write(line, to: descriptor)) != nil
        let flushes = state.withLockedValue { state in
          state.bytes -= line.count
          state.isStuck = false
          if !isWritten { state.dropped += 1 }
          guard state.bytes == 0 else { return [DispatchSemaphore]() }
          defer { state.flushes = [] }
          return state.flushes
        }
        for flush in flushes { flush.signal() }
      }
    }
  }
}

/// Standard output: what a command was asked for. Failing to write it is the command's failure.
package enum StandardOutput {
  /// - Throws: `Descriptor.Failure`.
  package static func write(_ bytes: some Collection<UInt8>) throws(Descriptor.Failure) {
    try Descriptor.write(Array(bytes), to: STDOUT_FILENO)
  }

  package static func write(_ text: String) throws(Descriptor.Failure) { try write(text.utf8) }
}

package enum Descriptor {
  package struct Failure: Error, CustomStringConvertible {
    package let errno: Int32

    /// The other end of a pipe was closed: no failure of who writes.
    package var nobodyReads: Bool { errno == EPIPE }
    package var description: String { "standard output can't be written: \(String(cString: strerror(errno)))" }
  }

  /// All of it, however long that takes; a descriptor that others have made non-blocking is waited for.
  package static func write(_ bytes: [UInt8], to descriptor: Int32) throws(Failure) {
    var written = 0
    while written < bytes.count {
      let count = bytes[written...].withUnsafeBytes { Foundation.write(descriptor, $0.baseAddress, $0.count) }
      if count > 0 {
        written += count
      } else if count == 0 {
        throw Failure(errno: EIO)
      } else if errno == EAGAIN {
        var ready = pollfd(fd: descriptor, events: Int16(POLLOUT), revents: 0)
        _ = poll(&ready, 1, 1000)
      } else if errno != EINTR {
        throw Failure(errno: errno)
      }
    }
  }
}
