import BatonCheck
import BatonGateway
import Foundation
import NIOConcurrencyHelpers
import NIOCore

/// A file that a command records to: each line is written at once, behind what the file holds already.
final class RecordingFile: Sendable {
  private let path: String
  private let command: String
  private let descriptor: Int32
  private let isOver = NIOLockedValueBox(false)
  private let begin = ContinuousClock.now
  private let wall = Int64(Date().timeIntervalSince1970 * 1000)

  /// - Parameters:
  ///   - path: made where it does not exist, for its owner alone: recordings hold the texts.
  ///   - command: who says what goes wrong.
  /// - Throws: ``CannotRecord``.
  init(_ path: String, by command: String) throws(CannotRecord) {
    (self.path, self.command) = (path, command)
    descriptor = open(path, O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0o600)
    guard descriptor >= 0 else { throw CannotRecord(path: path, errno: errno) }
    do {
      try endCutLine()
    } catch {
      close(descriptor)
      throw CannotRecord(path: path, errno: error.errno)
    }
  }

  deinit { close(descriptor) }

  /// Milliseconds since 1970, on a clock that never goes back as long as this recording lasts.
  var now: Int64 { wall + Int64((ContinuousClock.now - begin) / .milliseconds(1)) }

  /// Writes a line, made with the time that it is written at. What can't be written is said once, and the recording ends
  /// there, while the command goes on.
  func write(_ line: (_ at: Int64) -> ByteBuffer) {
    isOver.withLockedValue { isOver in
      guard !isOver else { return }
      do throws(Descriptor.Failure) {
        try Descriptor.write(Array(buffer: line(now)), to: descriptor)
      } catch {
        isOver = true
        say(command, "\(CannotRecord(path: path, errno: error.errno)); it ends here")
      }
    }
  }

  /// Whether every line was written so far.
  var isWhole: Bool { isOver.withLockedValue { !$0 } }

  /// A recording that was cut by a SIGKILL ends in the middle of a line.
  private func endCutLine() throws(Descriptor.Failure) {
    var status = stat()
    guard fstat(descriptor, &status) == 0, status.st_size > 0 else { return }
    var last: UInt8 = 0
    guard pread(descriptor, &last, 1, status.st_size - 1) == 1, last != UInt8(ascii: "\n") else { return }
    try Descriptor.write([UInt8(ascii: "\n")], to: descriptor)
  }
}

struct CannotRecord: Error, CustomStringConvertible {
  let path: String
  let errno: Int32

  var description: String { "the recording \(path) can't be written: \(String(cString: strerror(errno)))" }
}
