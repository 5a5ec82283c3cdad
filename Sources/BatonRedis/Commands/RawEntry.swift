import CBatonHiredis
import NIOCore

/// An entry of a stream. It keeps the reply alive that it came with.
package struct RawEntry: Sendable {
  package let id: RedisStreamID
  /// Names and values together.
  package let byteCount: Int
  /// Pairs of name and value.
  package let fieldCount: Int
  /// The entry passed a limit, and its names and values were not kept: there are no `fields`.
  package let isElided: Bool
  package let fields: Fields

  /// In stored order; slices of the reply, made as they are asked for.
  package struct Fields: RandomAccessCollection, Sendable {
    fileprivate let storage: RESPReply.Storage
    fileprivate let first: Int
    package let endIndex: Int
    package var startIndex: Int { 0 }

    package subscript(position: Int) -> (name: ByteBuffer, value: ByteBuffer) {
      (storage.slice(storage.nodes[first + 2 * position]), storage.slice(storage.nodes[first + 2 * position + 1]))
    }
  }
}

/// Consecutive entries of one stream.
package struct RawEntries: Sendable {
  package let entries: [RawEntry]
  /// There were more entries than the reply had room for: read on after the last. Where nothing else was asked for,
  /// or XINFO before, there is at least one.
  package let isCut: Bool
}

extension RESPReply {
  /// The answer to XRANGE and XREVRANGE, and the inner part of XREAD's.
  package func decodedEntries(_ command: String = "XRANGE") throws(RedisError) -> RawEntries {
    try accepted()
    if isNull { return RawEntries(entries: [], isCut: false) }
    let list = node
    guard list.kind == BatonRESPArray else { throw .unexpectedReply(command) }
    var entries: [RawEntry] = []
    entries.reserveCapacity(Int(list.length))
    var at = index + 1
    while at < Int(list.offset) {
      guard let entry = decodedEntry(at: at) else { throw .unexpectedReply(command) }
      entries.append(entry)
      at = Int(storage.nodes[at].offset)
    }
    return RawEntries(entries: entries, isCut: list.value > Int64(list.length))
  }

  /// One entry, `[id, [name, value, …]]`; nil for any other shape.
  package var decodedEntry: RawEntry? { decodedEntry(at: index) }

  private func decodedEntry(at index: Int) -> RawEntry? {
    storage.nodes.withUnsafeBufferPointer { nodes in
      guard nodes[index].kind == BatonRESPArray, nodes[index].length == 2 else { return nil }
      let (idNode, list) = (nodes[index + 1], nodes[index + 2])
      guard idNode.kind == BatonRESPString, list.length % 2 == 0,
        let id = storage.bytes.withUnsafeReadableBytes({ bytes in
          let text = bytes[Int(idNode.offset)..<Int(idNode.offset) + Int(idNode.length)]
          return RedisStreamID(UnsafeRawBufferPointer(rebasing: text))
        })
      else { return nil }
      func entry(bytes: Int, kept: Int) -> RawEntry {
        RawEntry(
          id: id, byteCount: bytes, fieldCount: Int(list.length) / 2, isElided: list.kind == BatonRESPElided,
          fields: RawEntry.Fields(storage: storage, first: index + 3, endIndex: kept))
      }
      if list.kind == BatonRESPElided { return entry(bytes: Int(list.value), kept: 0) }
      guard list.kind == BatonRESPArray, Int(list.offset) == index + 3 + Int(list.length) else { return nil }
      var bytes = 0
      for node in nodes[index + 3..<Int(list.offset)] {
        guard node.kind == BatonRESPString else { return nil }
        bytes += Int(node.length)
      }
      return entry(bytes: bytes, kept: Int(list.length) / 2)
    }
  }
}
