import BatonGateway
import BatonProtocol
import Foundation
import NIOCore
import NIOPosix

/// Each line of standard input is one delta, its newline included.
struct StandardInput {
  func publish(to target: any PublishTarget) async throws {
    var progress = Progress()
    var lines = Lines()
    while true {
      let read = try await NIOThreadPool.singleton.runIfActive { try Self.read() }
      guard read.readableBytes > 0 else { break }
      for line in lines.received(read) {
        try await target.append(line)
        progress.appended()
      }
    }
    if let rest = lines.ended() {
      try await target.append(rest)
      progress.appended()
    }
    try await target.end(.end, nil)
    progress.ended("end")
  }

  /// All of it.
  static func all(limit: Int) async throws -> ByteBuffer {
    var all = ByteBuffer()
    while true {
      var read = try await NIOThreadPool.singleton.runIfActive { try Self.read() }
      if read.readableBytes == 0 { return all }
      all.writeBuffer(&read)
      if all.readableBytes > limit {
        throw PublishFailure(status: .usage, description: "the prompt has over \(limit) bytes")
      }
    }
  }

  /// Whatever is there, up to 64 KiB; nothing at the end.
  private static func read() throws(PublishFailure) -> ByteBuffer {
    var buffer = ByteBufferAllocator().buffer(capacity: 64 << 10)
    var count = -1
    repeat {
      count = buffer.withUnsafeMutableWritableBytes { Foundation.read(STDIN_FILENO, $0.baseAddress, $0.count) }
    } while count < 0 && errno == EINTR
    guard count >= 0 else { throw .unavailable("standard input can't be read: \(String(cString: strerror(errno)))") }
    buffer.moveWriterIndex(forwardBy: count)
    return buffer
  }
}

/// Takes bytes apart at newlines.
struct Lines {
  private var rest = ByteBuffer()

  /// A line that no entry could hold is taken apart, between characters.
  mutating func received(_ bytes: ByteBuffer) -> [ByteBuffer] {
    rest.writeImmutableBuffer(bytes)
    var lines: [ByteBuffer] = []
    while true {
      let view = rest.readableBytesView
      if let end = view.prefix(ByteBuffer.deltaLimit).firstIndex(of: UInt8(ascii: "\n")) {
        rest.readSlice(length: end - view.startIndex + 1).map { lines.append($0) }
      } else if view.count > ByteBuffer.deltaLimit, let piece = rest.readPiece() {
        lines.append(piece)
      } else {
        break
      }
    }
    rest.discardReadBytes()
    return lines
  }

  /// The last line, if it had no newline.
  mutating func ended() -> ByteBuffer? {
    rest.readableBytes > 0 ? rest.readSlice(length: rest.readableBytes) : nil
  }
}

/// One line about what goes on, on standard error if that is a terminal.
struct Progress {
  private let isShown = isatty(STDERR_FILENO) == 1
  private let start = ContinuousClock.now
  private var shown = ContinuousClock.now
  private var deltas = 0

  mutating func appended() {
    deltas += 1
    guard isShown, ContinuousClock.now - shown > .milliseconds(100) else { return }
    shown = .now
    write("")
  }

  func ended(_ how: String) {
    if isShown { write(" · \(how)\n") }
  }

  private func write(_ end: String) {
    let seconds = (ContinuousClock.now - start) / .seconds(1)
    let rate = String(format: "%.1f", Double(deltas) / max(seconds, 0.001))
    LineOutput.standardError.write("\r\u{1B}[K\(deltas) deltas · \(rate)/s\(end)")
  }
}
