import BatonWebSocket
import Foundation
import NIOCore
import NIOHTTP1
import NIOPosix

// Sends every message back. Test only: it exists for the conformance suite.
// Usage: websocket-echo [--port N] [--max-message BYTES] [--max-fragments N]

func option(_ name: String, default fallback: Int) -> Int {
  guard let index = CommandLine.arguments.firstIndex(of: name) else { return fallback }
  guard index + 1 < CommandLine.arguments.count, let value = Int(CommandLine.arguments[index + 1]) else {
    fail("\(name) wants a number")
  }
  return value
}

func fail(_ message: String) -> Never {
  FileHandle.standardError.write(Data("websocket-echo: \(message)\n".utf8))
  exit(64)
}

final class EchoHandler: ChannelInboundHandler {
  typealias InboundIn = WebSocketEvent
  typealias OutboundOut = ByteBuffer

  private var encoder = FrameEncoder(role: .server)

  func channelRead(context: ChannelHandlerContext, data: NIOAny) {
    var frame = ByteBuffer()
    switch unwrapInboundIn(data) {
    case .text(let payload): encoder.write(.text, payload, into: &frame)
    case .binary(let payload): encoder.write(.binary, payload, into: &frame)
    case .ping, .pong, .close: return
    }
    context.writeAndFlush(wrapOutboundOut(frame), promise: nil)
  }

  func errorCaught(context: ChannelHandlerContext, error: any Error) {
    // The handler before has closed after a violation; anything else ends the connection.
    if !(error is WebSocketViolation) { context.close(promise: nil) }
  }
}

final class RefusalHandler: ChannelInboundHandler, RemovableChannelHandler {
  typealias InboundIn = HTTPServerRequestPart
  typealias OutboundOut = HTTPServerResponsePart

  func channelRead(context: ChannelHandlerContext, data: NIOAny) {
    guard case .head(let request) = unwrapInboundIn(data) else { return }
    guard case .failure(let refusal) = ServerHandshake.validate(request) else { return }
    var headers = refusal.headers
    headers.add(name: "Content-Length", value: "0")
    let head = HTTPResponseHead(version: .http1_1, status: refusal.status, headers: headers)
    context.write(wrapOutboundOut(.head(head)), promise: nil)
    let channel = context.channel
    context.writeAndFlush(wrapOutboundOut(.end(nil))).whenComplete { _ in channel.close(promise: nil) }
  }
}

let limits = WebSocketLimits(
  maxMessageBytes: option("--max-message", default: 64 << 20),
  maxFragments: option("--max-fragments", default: 1 << 20))

let server = try await ServerBootstrap(group: MultiThreadedEventLoopGroup.singleton)
  .childChannelOption(.socketOption(.tcp_nodelay), value: 1)
  .childChannelInitializer { channel in
    channel.eventLoop.makeCompletedFuture {
      let upgrader = ServerUpgrader { channel, _ in
        let pipeline = channel.pipeline.syncOperations
        if let handler = try? pipeline.handler(type: RefusalHandler.self) {
          pipeline.removeHandler(handler, promise: nil)
        }
        try pipeline.addHandler(WebSocketHandler(role: .server, limits: limits))
        try pipeline.addHandler(EchoHandler())
      }
      try channel.pipeline.syncOperations.configureHTTPServerPipeline(
        withServerUpgrade: (upgraders: [upgrader], completionHandler: { _ in }))
      try channel.pipeline.syncOperations.addHandler(RefusalHandler())
    }
  }
  .bind(host: "127.0.0.1", port: option("--port", default: 0))
  .get()
FileHandle.standardOutput.write(Data("listening on ws://127.0.0.1:\(server.localAddress?.port ?? 0)\n".utf8))
try await server.closeFuture.get()
