import NIOCore

/// How much of a connection is read at once: doubled with what comes, up to a bound. NIO keeps a connection's first buffer, as
/// large as it has become, to its end, so it begins small; and unlike NIO's own this fits into the channel.
struct ReceiveBuffers: RecvByteBufferAllocator {
  /// A device says little, and there are many: what it sends may cost no more than this.
  static let forDevices = ReceiveBuffers(most: 16_384)
  static let forRequests = ReceiveBuffers(most: 65_536)

  private static let least: Int32 = 256
  private let most: Int32
  private var size = ReceiveBuffers.least

  private init(most: Int32) { self.most = most }

  mutating func record(actualReadBytes: Int) -> Bool {
    if actualReadBytes >= Int(size), size < most {
      size *= 2
      return true
    }
    if actualReadBytes < Int(size) / 4, size > ReceiveBuffers.least { size /= 2 }
    return false
  }

  func buffer(allocator: ByteBufferAllocator) -> ByteBuffer { allocator.buffer(capacity: Int(size)) }

  func nextBufferSize() -> Int? { Int(size) }
}
