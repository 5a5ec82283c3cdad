import NIOCore
import NIOEmbedded
import Testing

@testable import BatonWebSocket

@Suite struct WebSocketHandlerTests {
  private final class Sink: ChannelInboundHandler {
    typealias InboundIn = WebSocketEvent
    var events: [WebSocketEvent] = []
    var violation: WebSocketViolation?
    func channelRead(context: ChannelHandlerContext, data: NIOAny) { events.append(unwrapInboundIn(data)) }
    func errorCaught(context: ChannelHandlerContext, error: any Error) { violation = error as? WebSocketViolation }
  }

  private let channel = EmbeddedChannel()
  private let sink = Sink()

  init() throws {
    try channel.connect(to: .init(unixDomainSocketPath: "/none")).wait()
    try channel.pipeline.syncOperations.addHandler(WebSocketHandler(role: .server, limits: WebSocketLimits()))
    try channel.pipeline.syncOperations.addHandler(sink)
  }

  /// Frames of a client, masked with zeros.
  private func receive(_ hex: String) { _ = try? channel.writeInbound(ByteBuffer(bytes: bytes(hex))) }

  private func sent() throws -> [UInt8] {
    var all: [UInt8] = []
    while let buffer = try channel.readOutbound(as: ByteBuffer.self) { all += Array(buffer: buffer) }
    return all
  }

  @Test func answersPingsAndPassesMessages() throws {
    receive("89 82 00 00 00 00 68 69  81 81 00 00 00 00 61")
    #expect(try sent() == bytes("8a 02 68 69"))
    #expect(sink.events == [.text(text("a"))])
  }

  /// While nothing can be written only the last ping is remembered.
  @Test func aFloodOfPingsCostsOnePong() throws {
    channel.isWritable = false
    for n in 0..<100 { receive("89 81 00 00 00 00 \(n % 10)\(n / 10)") }
    #expect(try sent().isEmpty)
    channel.isWritable = true
    channel.pipeline.fireChannelWritabilityChanged()
    #expect(try sent() == bytes("8a 01 99"))
  }

  @Test func echoesThePeersCloseAndEndsTCP() throws {
    receive("88 82 00 00 00 00 03 e8")
    #expect(try sent() == bytes("88 02 03 e8"))
    #expect(sink.events == [.close(.normal, reason: "")])
    channel.embeddedEventLoop.run()
    #expect(!channel.isActive)
  }

  @Test func afterAViolationNothingIsHeard() throws {
    receive("81 00")
    #expect(sink.violation?.code == .protocolError)
    #expect(try sent().prefix(4) == bytes("88 10 03 ea")[...])
    receive("81 81 00 00 00 00 61")
    #expect(sink.events.isEmpty)
  }

  @Test func aSilentPeerIsCutOff() throws {
    channel.triggerUserOutboundEvent(WebSocketClose(.goingAway, reason: "bye"), promise: nil)
    #expect(try sent() == bytes("88 05 03 e9 62 79 65"))
    #expect(throws: ChannelError.self) { try channel.writeOutbound(text("too late")) }
    channel.embeddedEventLoop.advanceTime(by: .milliseconds(4999))
    #expect(channel.isActive)
    channel.embeddedEventLoop.advanceTime(by: .milliseconds(1))
    #expect(!channel.isActive)
  }
}
