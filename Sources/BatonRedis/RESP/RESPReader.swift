import CBatonHiredis
import NIOCore

/// What one reply, and one entry of a stream in it, may cost. None of these limits costs the connection.
package struct RESPLimits: Sendable, Equatable {
  /// A longer bulk string is never buffered: it is skipped as it arrives and read as ``RESPReply/Value/elided(_:)``.
  package var maxBulkBytes = 16 << 20
  /// Bytes of all names and values of an entry, at most 512 MiB. A larger entry is ``RawEntry/isElided``.
  package var maxEntryBytes = 8 << 20
  /// Pairs of name and value of an entry. One with more is ``RawEntry/isElided``.
  package var maxEntryFields = 1 << 14
  /// Bytes of all strings of a reply, at most 2 GiB and no less than four entries may have. Where there are more the
  /// reply is cut, see ``RESPReply/isCut``.
  package var maxReplyBytes = 32 << 20
  /// Nodes of a reply, no less than four entries may have. Where there are more the reply is cut.
  package var maxElements = 1 << 20
  /// Arrays within arrays, 1 to 7; more is final for the connection, as no reply to our commands has more.
  package var maxDepth = 7

  package init() {}
}

/// RESP2 bytes in, replies out. An error is final.
package struct RESPReader: ~Copyable {
  /// hiredis moves the unread rest of its buffer once per KiB read, so it is given little at a time.
  private static let sliceBytes = 16 << 10

  private let reader: OpaquePointer?

  package init(limits: RESPLimits = RESPLimits()) {
    reader = baton_resp_create(
      BatonRESPLimits(
        maxBulkBytes: UInt64(clamping: limits.maxBulkBytes),
        maxEntryBytes: UInt64(clamping: limits.maxEntryBytes),
        maxEntryFields: UInt32(clamping: limits.maxEntryFields),
        maxReplyBytes: UInt64(clamping: limits.maxReplyBytes),
        maxElements: UInt32(clamping: limits.maxElements),
        maxDepth: UInt8(clamping: min(limits.maxDepth, 7))))
  }

  deinit { baton_resp_free(reader) }

  /// Calls `body` with each reply that `bytes` completes, in order.
  package borrowing func read(_ bytes: ByteBuffer, _ body: (RESPReply) -> Void) throws(RedisError) {
    guard let reader else { throw .protocolViolation("no memory for a reader") }
    let violated = bytes.withUnsafeReadableBytes { input in
      var rest = input[...]
      repeat {
        let slice = rest.prefix(Self.sliceBytes)
        rest = rest.dropFirst(slice.count)
        let fed =
          slice.isEmpty
          || baton_resp_feed(
            reader, UnsafeRawBufferPointer(rebasing: slice).assumingMemoryBound(to: UInt8.self).baseAddress, slice.count
          )
        var reply = BatonRESPReply()
        var status = baton_resp_next(reader, &reply)
        while status == 1 {
          body(RESPReply(reply))
          status = baton_resp_next(reader, &reply)
        }
        if !fed || status < 0 { return true }
      } while !rest.isEmpty
      return false
    }
    if violated { throw .protocolViolation(String(cString: baton_resp_error(reader))) }
  }
}
