import CBatonHiredis

/// An entry of a stream while its reply is looked at: nothing of it may be kept.
package struct EntryBytes {
  package let id: RedisStreamID
  /// Names and values together.
  package let byteCount: Int
  /// Pairs of name and value that are there, of so many that were sent.
  package let pairCount: Int
  let fieldCount: Int
  /// The node of the first name.
  let first: Int
  /// The entry passed a limit, and its names and values were not kept.
  package let isElided: Bool
  private let nodes: UnsafePointer<BatonRESPNode>
  private let bytes: UnsafeRawPointer

  /// Nil for any other shape than `[id, [name, value, …]]`.
  init?(_ nodes: UnsafeBufferPointer<BatonRESPNode>, at index: Int, _ bytes: UnsafeRawPointer) {
    guard index + 2 < nodes.count, let start = nodes.baseAddress, nodes[index].kind == BatonRESPArray,
      nodes[index].length == 2
    else { return nil }
    let (idNode, list) = (nodes[index + 1], nodes[index + 2])
    guard idNode.kind == BatonRESPString, list.length % 2 == 0,
      let id = RedisStreamID(
        UnsafeRawBufferPointer(start: bytes + Int(idNode.offset), count: Int(idNode.length)))
    else { return nil }
    (self.id, self.nodes, self.bytes) = (id, start + index + 3, bytes)
    (first, fieldCount) = (index + 3, Int(list.length) / 2)
    isElided = list.kind == BatonRESPElided
    if isElided {
      (byteCount, pairCount) = (Int(list.value), 0)
      return
    }
    guard list.kind == BatonRESPArray, Int(list.offset) == index + 3 + Int(list.length) else { return nil }
    var sum = 0
    for at in index + 3..<Int(list.offset) {
      guard nodes[at].kind == BatonRESPString else { return nil }
      sum += Int(nodes[at].length)
    }
    (byteCount, pairCount) = (sum, fieldCount)
  }

  private func string(_ node: BatonRESPNode) -> UnsafeRawBufferPointer {
    UnsafeRawBufferPointer(start: bytes + Int(node.offset), count: Int(node.length))
  }

  package func pair(_ index: Int) -> (name: UnsafeRawBufferPointer, value: UnsafeRawBufferPointer) {
    (string(nodes[2 * index]), string(nodes[2 * index + 1]))
  }

  /// Names and values in stored order, each with its length in front of it in 4 bytes, big-endian.
  package var framed: UnsafeRawBufferPointer {
    guard pairCount > 0 else { return UnsafeRawBufferPointer(start: nil, count: 0) }
    return UnsafeRawBufferPointer(start: bytes + Int(nodes[0].offset) - 4, count: byteCount + 8 * pairCount)
  }
}

extension RESPReply {
  /// Calls `body` with each entry of XRANGE's or XREVRANGE's answer, or of the inner part of XREAD's, in its order.
  ///
  /// - Returns: whether there were more entries than the reply had room for: read on after the last. Where nothing else
  ///   was asked for, or XINFO before, there is at least one.
  /// - Throws: the server's refusal; `unexpectedReply` for any other answer.
  @discardableResult
  package func eachEntry(
    _ command: String = "XRANGE", _ body: (EntryBytes) -> Void
  ) throws(RedisError) -> Bool {
    try accepted()
    if isNull { return false }
    let list = node
    guard list.kind == BatonRESPArray else { throw .unexpectedReply(command) }
    let isWhole = storage.withContents { nodes, bytes in
      var at = index + 1
      while at < Int(list.offset) {
        guard let entry = EntryBytes(nodes, at: at, bytes) else { return false }
        body(entry)
        at = Int(nodes[at].offset)
      }
      return true
    }
    guard isWhole else { throw .unexpectedReply(command) }
    return list.value > Int64(list.length)
  }

  /// Whether this is one entry.
  var isEntry: Bool { storage.withContents { nodes, bytes in EntryBytes(nodes, at: index, bytes) != nil } }

  /// Whether this is a string of these bytes.
  func isString(_ text: StaticString) -> Bool {
    let node = node
    guard node.kind == BatonRESPString || node.kind == BatonRESPStatus, Int(node.length) == text.utf8CodeUnitCount
    else { return false }
    return storage.withContents { _, bytes in
      UnsafeRawBufferPointer(start: bytes + Int(node.offset), count: Int(node.length))
        .elementsEqual(UnsafeRawBufferPointer(start: text.utf8Start, count: text.utf8CodeUnitCount))
    }
  }

  /// Calls `body` where this is one entry.
  package func oneEntry(_ body: (EntryBytes) -> Void) {
    storage.withContents { nodes, bytes in EntryBytes(nodes, at: index, bytes).map(body) }
  }

  /// XREAD's answer: the streams with something new, by their place among the `keys` that were asked for, each for
  /// ``eachEntry(_:_:)``. Where the reply ``isCut``, nothing is known of the streams behind the last.
  package func streams(_ keys: [String]) throws(RedisError) -> [(index: Int, entries: RESPReply)] {
    try accepted()
    if isNull { return [] }
    guard let elements else { throw .unexpectedReply("XREAD") }
    var streams: [(index: Int, entries: RESPReply)] = []
    streams.reserveCapacity(elements.count)
    var index = 0
    for stream in elements {
      guard var pair = stream.elements, pair.count == 2, let key = pair.next(), let entries = pair.next() else {
        throw .unexpectedReply("XREAD")
      }
      let node = key.node
      guard node.kind == BatonRESPString else { throw .unexpectedReply("XREAD") }
      // Redis answers in the order of the question.
      storage.withContents { _, bytes in
        let name = UnsafeRawBufferPointer(start: bytes + Int(node.offset), count: Int(node.length))
        while index < keys.count, !name.elementsEqual(keys[index].utf8) { index += 1 }
      }
      guard index < keys.count else { throw .unexpectedReply("XREAD") }
      streams.append((index, entries))
      index += 1
    }
    return streams
  }
}
