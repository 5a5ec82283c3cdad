import NIOCore

/// What a model Redis answers, and its bytes in RESP2.
enum ModelReply {
  case status(String)
  case error(String)
  case integer(Int64)
  case text(String)
  case bytes(ByteBuffer)
  case null
  case nullArray
  case array([ModelReply])

  static let ok = ModelReply.status("OK")

  var isError: Bool { if case .error = self { true } else { false } }

  func write(into buffer: inout ByteBuffer) {
    switch self {
    case .status(let text): buffer.writeString("+\(text)\r\n")
    case .error(let text): buffer.writeString("-\(text)\r\n")
    case .integer(let value): buffer.writeString(":\(value)\r\n")
    case .text(let text): buffer.writeString("$\(text.utf8.count)\r\n\(text)\r\n")
    case .bytes(let bytes):
      buffer.writeString("$\(bytes.readableBytes)\r\n")
      buffer.writeImmutableBuffer(bytes)
      buffer.writeString("\r\n")
    case .null: buffer.writeString("$-1\r\n")
    case .nullArray: buffer.writeString("*-1\r\n")
    case .array(let parts):
      buffer.writeString("*\(parts.count)\r\n")
      for part in parts { part.write(into: &buffer) }
    }
  }
}

/// RESP2 arrays of bulk strings, as clients send them, cut anywhere.
struct ModelCommandParser {
  private var input = ByteBuffer()

  /// The commands that `bytes` completes.
  mutating func commands(_ bytes: ByteBuffer) -> [[ByteBuffer]] {
    input.writeImmutableBuffer(bytes)
    var commands: [[ByteBuffer]] = []
    while let command = next() { commands.append(command) }
    input.discardReadBytes()
    return commands
  }

  private mutating func next() -> [ByteBuffer]? {
    let start = input.readerIndex
    guard let count = header(UInt8(ascii: "*")) else { return nil }
    var command: [ByteBuffer] = []
    for _ in 0..<count {
      guard let length = header(UInt8(ascii: "$")), let argument = input.readSlice(length: length),
        input.readSlice(length: 2) != nil
      else {
        input.moveReaderIndex(to: start)
        return nil
      }
      command.append(argument)
    }
    return command
  }

  private mutating func header(_ kind: UInt8) -> Int? {
    let start = input.readerIndex
    guard let end = input.readableBytesView.firstIndex(of: UInt8(ascii: "\n")),
      let line = input.readString(length: end - start - 1), input.readSlice(length: 2) != nil,
      line.utf8.first == kind, let value = Int(line.dropFirst())
    else {
      input.moveReaderIndex(to: start)
      return nil
    }
    return value
  }
}
