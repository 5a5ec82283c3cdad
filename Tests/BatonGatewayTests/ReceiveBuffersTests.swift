import NIOCore
import Testing

@testable import BatonGateway

@Suite struct ReceiveBuffersTests {
  @Test(arguments: [(ReceiveBuffers.forDevices, 16_384), (ReceiveBuffers.forRequests, 65_536)])
  func theyGrowWithWhatComesUpToABound(buffers: ReceiveBuffers, most: Int) {
    var buffers = buffers
    var sizes: [Int] = []
    for _ in 0..<12 {
      sizes.append(buffers.nextBufferSize() ?? 0)
      _ = buffers.record(actualReadBytes: buffers.nextBufferSize() ?? 0)
    }
    #expect(sizes.first == 256 && sizes.max() == most && sizes.last == most)
    for _ in 0..<12 { _ = buffers.record(actualReadBytes: 1) }
    #expect(buffers.nextBufferSize() == 256)
  }
}
