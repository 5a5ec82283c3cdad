import NIOCore

/// A command, encoded as the RESP array that goes over the wire.
package struct RedisCommand: Sendable, CustomStringConvertible {
  package enum Argument: Sendable, ExpressibleByStringInterpolation, ExpressibleByIntegerLiteral {
    case string(String)
    case bytes(ByteBuffer)
    case integer(Int64)

    package init(stringLiteral value: String) { self = .string(value) }
    package init(integerLiteral value: Int64) { self = .integer(value) }
  }

  package let name: String
  package let encoded: ByteBuffer

  init(name: String, encoded: ByteBuffer) { (self.name, self.encoded) = (name, encoded) }

  package init(_ name: String, _ arguments: Argument...) { self.init(name, arguments) }

  package init(_ name: String, _ arguments: [Argument]) {
    var buffer = ByteBuffer()
    buffer.reserveCapacity(24 + name.utf8.count + arguments.reduce(0) { $0 + $1.size })
    buffer.writeStaticString("*")
    buffer.writeDecimal(Int64(arguments.count + 1))
    buffer.writeBulk(name)
    for argument in arguments {
      switch argument {
      case .string(let text): buffer.writeBulk(text)
      case .integer(let number): buffer.writeBulk(String(number))
      case .bytes(let bytes):
        buffer.writeStaticString("$")
        buffer.writeDecimal(Int64(bytes.readableBytes))
        buffer.writeImmutableBuffer(bytes)
        buffer.writeStaticString("\r\n")
      }
    }
    (self.name, encoded) = (name, buffer)
  }

  /// The name alone: arguments may be secrets.
  package var description: String { name }
}

/// Writes a command of many arguments, one by one.
struct RedisCommandWriter {
  private let name: String
  private var buffer = ByteBuffer()

  /// - Parameters:
  ///   - arguments: as many as follow.
  ///   - size: bytes of them all, about.
  init(_ name: String, arguments: Int, size: Int) {
    self.name = name
    buffer.reserveCapacity(size + 64)
    buffer.writeStaticString("*")
    buffer.writeDecimal(Int64(arguments + 1))
    buffer.writeBulk(name)
  }

  mutating func write(_ text: String) { buffer.writeBulk(text) }
  mutating func write(_ number: Int64) { buffer.writeBulk(String(number)) }
  mutating func write(_ id: RedisStreamID) { buffer.writeBulk(id.description) }

  var command: RedisCommand { RedisCommand(name: name, encoded: buffer) }
}

extension RedisCommand.Argument {
  fileprivate var size: Int {
    switch self {
    case .string(let text): text.utf8.count + 16
    case .bytes(let bytes): bytes.readableBytes + 16
    case .integer: 32
    }
  }
}

extension ByteBuffer {
  fileprivate mutating func writeBulk(_ text: String) {
    writeStaticString("$")
    writeDecimal(Int64(text.utf8.count))
    writeString(text)
    writeStaticString("\r\n")
  }

  fileprivate mutating func writeDecimal(_ number: Int64) {
    writeString(String(number))
    writeStaticString("\r\n")
  }
}
