import CBatonHiredis
import NIOCore

/// A field's name or value as Redis holds it.
package enum RawBytes: Equatable, Sendable {
  /// A slice of the reply.
  case bytes(ByteBuffer)
  /// So many bytes that were not kept.
  case elided(Int)

  package var count: Int {
    switch self {
    case .bytes(let bytes): bytes.readableBytes
    case .elided(let count): count
    }
  }

  package var bytes: ByteBuffer? {
    if case .bytes(let bytes) = self { bytes } else { nil }
  }
}

/// An entry of a stream. It keeps the reply alive that it came with.
package struct RawEntry: Sendable {
  package let id: RedisStreamID
  /// Names and values together.
  package let byteCount: Int
  /// A name or value was not kept.
  package let isElided: Bool
  package let fields: Fields

  /// In stored order; slices are made as they are asked for.
  package struct Fields: RandomAccessCollection, Sendable {
    fileprivate let storage: RESPReply.Storage
    fileprivate let first: Int
    package let endIndex: Int
    package var startIndex: Int { 0 }

    package subscript(position: Int) -> (name: RawBytes, value: RawBytes) {
      (raw(first + 2 * position), raw(first + 2 * position + 1))
    }

    private func raw(_ index: Int) -> RawBytes {
      let node = storage.nodes[index]
      return node.kind == BatonRESPElided ? .elided(Int(node.value)) : .bytes(storage.slice(node))
    }
  }
}

/// Consecutive entries of one stream, of which the reply's limits may have cut the end.
package struct RawEntries: Sendable {
  package let entries: [RawEntry]
  /// There were more entries than the reply had room for (``RESPLimits/maxReplyBytes``): read on after the last.
  package let isCut: Bool
  /// The first entry that was left out. Its id and `byteCount` are right: if it is too large by itself, skip it. Nil
  /// where not even that was kept; never for the first stream of a reply.
  package let cut: RawEntry?
}

extension RESPReply {
  /// The answer to XRANGE and XREVRANGE, and the inner part of XREAD's.
  package func decodedEntries(_ command: String = "XRANGE") throws(RedisError) -> RawEntries {
    try accepted()
    if isNull { return RawEntries(entries: [], isCut: false, cut: nil) }
    let nodes = storage.nodes
    let list = node
    guard list.kind == BatonRESPArray else { throw .unexpectedReply(command) }
    var entries: [RawEntry] = []
    entries.reserveCapacity(Int(list.length))
    var at = index + 1
    while at < Int(list.offset) {
      guard let entry = decodedEntry(at: at) else {
        // Where twice the limit was passed, even ids are missing.
        if storage.isOverrun { return RawEntries(entries: entries, isCut: true, cut: nil) }
        throw .unexpectedReply(command)
      }
      at = Int(nodes[at].offset)
      if storage.isOverrun, entry.isElided { return RawEntries(entries: entries, isCut: true, cut: entry) }
      entries.append(entry)
    }
    return RawEntries(entries: entries, isCut: false, cut: nil)
  }

  /// One entry, `[id, [name, value, …]]`; nil for any other shape.
  package var decodedEntry: RawEntry? { decodedEntry(at: index) }

  private func decodedEntry(at index: Int) -> RawEntry? {
    storage.nodes.withUnsafeBufferPointer { nodes in
      guard nodes[index].kind == BatonRESPArray, nodes[index].length == 2 else { return nil }
      let (idNode, list) = (nodes[index + 1], nodes[index + 2])
      guard idNode.kind == BatonRESPString, list.kind == BatonRESPArray, list.length % 2 == 0,
        Int(list.offset) == index + 3 + Int(list.length),
        let id = storage.bytes.withUnsafeReadableBytes({ bytes in
          let text = bytes[Int(idNode.offset)..<Int(idNode.offset) + Int(idNode.length)]
          return RedisStreamID(UnsafeRawBufferPointer(rebasing: text))
        })
      else { return nil }
      var (bytes, isElided) = (0, false)
      for node in nodes[index + 3..<Int(list.offset)] {
        if node.kind == BatonRESPString {
          bytes += Int(node.length)
        } else if node.kind == BatonRESPElided {
          bytes += Int(node.value)
          isElided = true
        } else {
          return nil
        }
      }
      let fields = RawEntry.Fields(storage: storage, first: index + 3, endIndex: Int(list.length) / 2)
      return RawEntry(id: id, byteCount: bytes, isElided: isElided, fields: fields)
    }
  }
}
