import BatonWebSocket
import NIOCore
import NIOHTTP1
import NIOPosix
import Synchronization
import TestSupport
import Testing

@testable import BatonClient

/// A gateway that does what the test tells it: it collects the connections, and the test plays the other end of each.
final class FakeGateway: Sendable {
  /// One WebSocket, or one request that was refused.
  final class Peer: Sendable {
    let request: HTTPRequestHead
    let channel: any Channel
    private let heard = Mutex<[String]>([])
    private let closeCode = Mutex<Int?>(nil)

    fileprivate init(_ request: HTTPRequestHead, _ channel: any Channel) {
      self.request = request
      self.channel = channel
    }

    var frames: [String] { heard.withLock { $0 } }
    var closedWith: Int? { closeCode.withLock { $0 } }
    var query: String { request.uri.split(separator: "?", maxSplits: 1).last.map(String.init) ?? "" }

    fileprivate func hear(_ frame: String) { heard.withLock { $0.append(frame) } }
    fileprivate func close(with code: Int) { closeCode.withLock { $0 = code } }

    func send(_ frames: String...) {
      var buffer = ByteBuffer()
      for frame in frames { buffer.writeWebSocketFrame(.text, payload: ByteBuffer(string: frame)) }
      channel.writeAndFlush(buffer, promise: nil)
    }

    func attached(at offset: String = "0", pingMs: Int = 25000) {
      send(#"{"type":"attached","session":"s","node":"fake","offset":"\#(offset)","pingMs":\#(pingMs)}"#)
    }

    func token(_ n: Int, _ text: String) {
      send(#"{"id":"\#(n)-0.0000000\#(n % 10)","event":"token","response":"r","n":\#(n),"data":"\#(text)"}"#)
    }

    func close(_ code: UInt16, _ reason: String = "") {
      channel.triggerUserOutboundEvent(WebSocketClose(CloseCode(rawValue: code), reason: reason), promise: nil)
    }

    /// Ends TCP without a word.
    func cut() { channel.close(promise: nil) }
  }

  struct Refusal: Error {
    var status: HTTPResponseStatus
    var headers: HTTPHeaders = [:]
    var body = ""
  }

  private let state = Mutex(State())
  private let server: any Channel

  private struct State {
    var peers: [Peer] = []
    var refusals: [Refusal] = []
    var greeting: (@Sendable (Peer) -> Void)?
  }

  var url: String { "http://127.0.0.1:\(server.localAddress?.port ?? 0)" }
  var peers: [Peer] { state.withLock { $0.peers } }

  /// The next requests get these answers, in turn.
  func refuse(_ refusals: Refusal...) { state.withLock { $0.refusals += refusals } }

  /// Said to the next peer in the moment of its upgrade.
  func greet(_ greeting: @escaping @Sendable (Peer) -> Void) { state.withLock { $0.greeting = greeting } }

  func stop() { server.close(promise: nil) }

  init() async throws {
    let owner = Owner()
    server = try await ServerBootstrap(group: MultiThreadedEventLoopGroup.singleton)
      .childChannelInitializer { channel in
        channel.eventLoop.makeCompletedFuture {
          let upgrader = ServerUpgrader(
            supported: ["baton.v1"],
            decide: { channel, _, _ in
              let refusal = owner.gateway?.state.withLock { $0.refusals.isEmpty ? nil : $0.refusals.removeFirst() }
              return refusal.map { channel.eventLoop.makeFailedFuture($0) }
                ?? channel.eventLoop.makeSucceededVoidFuture()
            },
            upgraded: { channel, request in
              let peer = Peer(request, channel)
              let pipeline = channel.pipeline.syncOperations
              try pipeline.removeHandler(pipeline.handler(type: RefusalHandler.self), promise: nil)
              try pipeline.addHandler(WebSocketHandler(role: .server, limits: WebSocketLimits()))
              try pipeline.addHandler(PeerHandler(peer))
              let greeting = owner.gateway?.state.withLock { state in
                state.peers.append(peer)
                return state.greeting.take()
              }
              greeting?(peer)
            })
          try channel.pipeline.syncOperations.configureHTTPServerPipeline(
            withServerUpgrade: (upgraders: [upgrader], completionHandler: { _ in }))
          try channel.pipeline.syncOperations.addHandler(RefusalHandler())
        }
      }
      .bind(host: "127.0.0.1", port: 0)
      .get()
    owner.box.withLock { $0 = self }
  }

  private final class Owner: Sendable {
    let box = Mutex<FakeGateway?>(nil)
    var gateway: FakeGateway? { box.withLock { $0 } }
  }

  /// The peer of the n-th connection, from 0, once it is there.
  func peer(_ n: Int) async throws -> Peer {
    try await eventually("connection \(n)") { self.peers.count > n }
    return peers[n]
  }

  private final class PeerHandler: ChannelInboundHandler {
    typealias InboundIn = WebSocketEvent
    private let peer: Peer
    init(_ peer: Peer) { self.peer = peer }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
      switch unwrapInboundIn(data) {
      case .text(let text): peer.hear(String(buffer: text))
      case .close(let code, _): peer.close(with: code.map { Int($0.rawValue) } ?? 1005)
      default: break
      }
    }

    func errorCaught(context: ChannelHandlerContext, error: any Error) { context.close(promise: nil) }
  }

  private final class RefusalHandler: ChannelInboundHandler, RemovableChannelHandler {
    typealias InboundIn = HTTPServerRequestPart
    typealias OutboundOut = HTTPServerResponsePart
    private var refusal = Refusal(status: .badRequest)

    func errorCaught(context: ChannelHandlerContext, error: any Error) {
      if let refusal = error as? Refusal { self.refusal = refusal }
    }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
      guard case .head = unwrapInboundIn(data) else { return }
      var headers = refusal.headers
      headers.add(name: "Content-Length", value: String(refusal.body.utf8.count))
      let head = HTTPResponseHead(version: .http1_1, status: refusal.status, headers: headers)
      context.write(wrapOutboundOut(.head(head)), promise: nil)
      context.write(wrapOutboundOut(.body(.byteBuffer(ByteBuffer(string: refusal.body)))), promise: nil)
      context.writeAndFlush(wrapOutboundOut(.end(nil)), promise: nil)
    }
  }
}
