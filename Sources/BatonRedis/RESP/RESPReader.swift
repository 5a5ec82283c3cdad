import CBatonHiredis
import NIOCore

/// What one reply may cost.
package struct RESPLimits: Sendable, Equatable {
  /// A longer bulk string is never buffered: it is skipped as it arrives and read as ``RESPReply/Value/elided(_:)``.
  package var maxBulkBytes = 16 << 20
  /// Bytes of all strings of a reply. Beyond it strings longer than 48 bytes are elided, beyond twice as much all are.
  package var maxReplyBytes = 32 << 20
  /// Nodes of a reply; more is final for the connection.
  package var maxElements = 1 << 20
  /// Arrays within arrays, 1 to 7; more is final for the connection.
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
