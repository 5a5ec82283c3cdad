import BatonSession
import NIOCore

/// The bytes of segments that devices of one event loop have just been sent: most devices of a session are sent the same.
/// Bounded in number and bytes, and forgotten within a second; on its event loop.
final class EncodingCache {
  private struct Known {
    let segment: Segment
    let encoding: Segment.Encoding
    let from: Int
    let bytes: ByteBuffer
  }

  static let maxEncodings = 8
  static let maxBytes = 4 << 20

  private var known: [Known] = []
  private var next = 0
  private(set) var bytes = 0

  /// The bytes of the entries from `from` on.
  func encoded(
    _ segment: Segment, _ encoding: Segment.Encoding, from: Int, _ make: () -> ByteBuffer
  ) -> ByteBuffer {
    for one in known where one.segment === segment && one.from == from && one.encoding == encoding { return one.bytes }
    let made = make()
    guard made.readableBytes <= EncodingCache.maxBytes / EncodingCache.maxEncodings else { return made }
    let one = Known(segment: segment, encoding: encoding, from: from, bytes: made)
    if known.count < EncodingCache.maxEncodings {
      known.append(one)
    } else {
      bytes -= known[next].bytes.readableBytes
      known[next] = one
      next = (next + 1) % EncodingCache.maxEncodings
    }
    bytes += made.readableBytes
    return made
  }

  func forget() {
    known.removeAll(keepingCapacity: true)
    (next, bytes) = (0, 0)
  }
}
