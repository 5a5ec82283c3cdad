import CBatonHiredis
import NIOCore

/// One reply or a part of one: a place in a flat array of nodes, whose strings are slices of one buffer.
package struct RESPReply: Sendable {
  package enum Value: Equatable, Sendable {
    case string(ByteBuffer)
    case status(ByteBuffer)
    case error(ByteBuffer)
    case integer(Int64)
    case null
    /// The number of elements that were kept; they are in ``RESPReply/elements``.
    case array(Int)
    /// So many bytes that were not kept: of a string, or of an entry's names and values.
    case elided(Int)
  }

  final class Storage: Sendable {
    let nodes: [BatonRESPNode]
    let bytes: ByteBuffer
    let isCut: Bool

    init(_ reply: BatonRESPReply) {
      nodes = Array(UnsafeBufferPointer(start: reply.nodes, count: reply.nodeCount))
      bytes = ByteBuffer(bytes: UnsafeBufferPointer(start: reply.bytes, count: reply.byteCount))
      isCut = reply.cut
    }

    /// The nodes, and where the bytes begin. Neither may be kept.
    func withContents<R>(_ body: (UnsafeBufferPointer<BatonRESPNode>, UnsafeRawPointer) -> R) -> R {
      nodes.withUnsafeBufferPointer { nodes in
        bytes.withUnsafeReadableBytes { bytes in
          body(nodes, bytes.baseAddress ?? UnsafeRawPointer(bitPattern: 8).unsafelyUnwrapped)
        }
      }
    }

    func slice(_ node: BatonRESPNode) -> ByteBuffer {
      bytes.getSlice(at: Int(node.offset), length: Int(node.length)) ?? ByteBuffer()
    }
  }

  let storage: Storage
  let index: Int

  init(storage: Storage, index: Int) {
    self.storage = storage
    self.index = index
  }

  init(_ reply: BatonRESPReply) {
    self.init(storage: Storage(reply), index: 0)
  }

  var node: BatonRESPNode { storage.nodes[index] }

  /// The end of the whole reply, of which this may be a part, was left out because of ``RESPLimits``. It is a fact
  /// about the reply, and nothing is known of what was left out: arrays end early, and those that would have followed
  /// are not there. An entry is there as a whole or not at all.
  package var isCut: Bool { storage.isCut }

  package var value: Value {
    let node = node
    return switch node.kind {
    case BatonRESPString: .string(storage.slice(node))
    case BatonRESPStatus: .status(storage.slice(node))
    case BatonRESPError: .error(storage.slice(node))
    case BatonRESPInteger: .integer(node.value)
    case BatonRESPArray: .array(Int(node.length))
    case BatonRESPElided: .elided(Int(node.value))
    default: .null
    }
  }

  package var isNull: Bool { node.kind == BatonRESPNull }

  /// A bulk or status string's bytes.
  package var bytes: ByteBuffer? {
    let node = node
    return node.kind == BatonRESPString || node.kind == BatonRESPStatus ? storage.slice(node) : nil
  }

  /// A bulk or status string as text, repaired where it is not UTF-8.
  package var text: String? { bytes.map { String(buffer: $0) } }

  /// An integer, or a string of decimal digits.
  package var integer: Int64? {
    node.kind == BatonRESPInteger ? node.value : text.flatMap { Int64($0) }
  }

  /// The server's refusal, if that is what it is.
  package var error: RedisError? {
    let node = node
    return node.kind == BatonRESPError ? .server(String(buffer: storage.slice(node))) : nil
  }

  /// Whether it is the server's refusal in just these words: to be asked where it is what mostly comes.
  package func isRefusal(_ words: StaticString) -> Bool {
    let node = node
    guard node.kind == BatonRESPError, Int(node.length) == words.utf8CodeUnitCount else { return false }
    return storage.withContents { _, bytes in
      UnsafeRawBufferPointer(start: bytes + Int(node.offset), count: Int(node.length))
        .elementsEqual(UnsafeBufferPointer(start: words.utf8Start, count: words.utf8CodeUnitCount))
    }
  }

  /// An array's elements; nil for everything else.
  package var elements: Elements? {
    node.kind == BatonRESPArray ? Elements(reply: self) : nil
  }

  /// Throws the server's refusal.
  @discardableResult
  package func accepted() throws(RedisError) -> RESPReply {
    if let error { throw error }
    return self
  }

  package struct Elements: Sequence, IteratorProtocol, Sendable {
    private let storage: Storage
    private var position: Int
    private let end: Int
    package let count: Int

    fileprivate init(reply: RESPReply) {
      let node = reply.node
      (storage, position, end) = (reply.storage, reply.index + 1, Int(node.offset))
      count = Int(node.length)
    }

    package var underestimatedCount: Int { count }

    package mutating func next() -> RESPReply? {
      guard position < end else { return nil }
      let reply = RESPReply(storage: storage, index: position)
      let node = reply.node
      position = node.kind == BatonRESPArray ? Int(node.offset) : position + 1
      return reply
    }
  }
}

extension RESPReply: CustomStringConvertible {
  package var description: String {
    if let elements { return "[\(elements.map(\.description).joined(separator: ", "))]" }
    return switch value {
    case .string(let bytes): "\"\(String(buffer: bytes))\""
    case .status(let bytes): String(buffer: bytes)
    case .error(let bytes): "-\(String(buffer: bytes))"
    case .integer(let value): "\(value)"
    case .elided(let bytes): "<\(bytes) bytes>"
    case .null, .array: "null"
    }
  }
}
