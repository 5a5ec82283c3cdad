import BatonProtocol
import NIOCore
import Testing

@testable import BatonGateway
@testable import BatonSession

@Suite struct EncodingCacheTests {
  private let cache = EncodingCache()
  private let webSocket = Segment.Encoding(.webSocket, joined: false)

  private func segment(_ id: UInt64) -> Segment {
    var reader = EntryReader(maxEntryBytes: 1000)
    return Segment(Entries([reader.entry(EntryID(id, 0), [])]))
  }

  private func take(_ segment: Segment, _ encoding: Segment.Encoding? = nil, from: Int = 0, bytes: Int = 1) -> Bool {
    var isMade = false
    _ = cache.encoded(segment, encoding ?? webSocket, from: from) {
      isMade = true
      return ByteBuffer(repeating: 0, count: bytes)
    }
    return isMade
  }

  @Test func makesBytesOnceForAllWhoWantTheSame() {
    let (one, other) = (segment(1), segment(1))
    #expect(take(one) && !take(one) && !take(one))
    #expect(take(other), "another segment, whatever is in it")
    #expect(
      take(one, .init(.webSocket, joined: true)) && take(one, .init(.events, joined: false)) && take(one, from: 1))
    #expect(!take(one) && !take(other))
  }

  @Test func isBoundedAndForgets() {
    let segments = (0...8).map { segment(UInt64($0)) }
    for segment in segments.prefix(8) { #expect(take(segment, bytes: 1000)) }
    #expect(cache.bytes == 8000 && !take(segments[0]))
    #expect(take(segments[8], bytes: 500) && take(segments[0], bytes: 500), "the oldest went")
    #expect(cache.bytes == 7000)
    let large = segment(9)
    #expect(take(large, bytes: 1 << 20) && take(large, bytes: 1 << 20), "what is too large is not kept")
    cache.forget()
    #expect(cache.bytes == 0 && take(segments[8]))
  }
}
