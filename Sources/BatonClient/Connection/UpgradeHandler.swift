import BatonWebSocket
import Foundation
import NIOCore
import NIOHTTP1

/// Asks for the upgrade, then makes way for the WebSocket, or tells why it can't be.
final class UpgradeHandler: ChannelInboundHandler, RemovableChannelHandler {
  typealias InboundIn = HTTPClientResponsePart
  typealias OutboundOut = HTTPClientRequestPart

  private enum State { case asking, makingWay, done }

  enum Outcome {
    case upgraded
    /// `isProblem`: said in the gateway's own form; anything in between may answer in another.
    case refused(status: Int, retryAfterMs: Double, detail: String?, isProblem: Bool)
    case failed(String)
  }

  private let handshake: ClientHandshake
  private let encoder: HTTPRequestEncoder
  private let decoder: ByteToMessageHandler<HTTPResponseDecoder>
  private let gate: UpgradeGate
  private let done: (any Channel, Outcome) throws -> Void
  private var state = State.asking
  private var head: HTTPResponseHead?
  private var body = ByteBuffer()
  /// Bytes of a refusal's body that are looked at.
  private static let maxBodyBytes = 64 << 10

  /// - Parameters:
  ///   - encoder: removed after the upgrade, like the decoder.
  ///   - gate: opened after it.
  ///   - done: called once; after `upgraded` the bytes that follow go to the handlers it adds.
  init(
    handshake: ClientHandshake, encoder: HTTPRequestEncoder, decoder: ByteToMessageHandler<HTTPResponseDecoder>,
    gate: UpgradeGate, done: @escaping (any Channel, Outcome) throws -> Void
  ) {
    self.handshake = handshake
    self.encoder = encoder
    self.decoder = decoder
    self.gate = gate
    self.done = done
  }

  func handlerAdded(context: ChannelHandlerContext) {
    if context.channel.isActive { ask(context) }
  }

  func channelActive(context: ChannelHandlerContext) {
    ask(context)
    context.fireChannelActive()
  }

  private func ask(_ context: ChannelHandlerContext) {
    context.write(wrapOutboundOut(.head(handshake.request)), promise: nil)
    context.writeAndFlush(wrapOutboundOut(.end(nil)), promise: nil)
  }

  func channelRead(context: ChannelHandlerContext, data: NIOAny) {
    if case .asking = state { read(unwrapInboundIn(data), context) }
  }

  private func read(_ part: HTTPClientResponsePart, _ context: ChannelHandlerContext) {
    switch part {
    case .head(let head):
      self.head = head
    case .body(var piece):
      body.writeBuffer(&piece)
      if body.readableBytes > Self.maxBodyBytes { answered(context) }
    case .end:
      answered(context)
    }
  }

  func errorCaught(context: ChannelHandlerContext, error: any Error) {
    // After the upgrade was granted, the end that follows tells.
    if case .asking = state { finish(context, .failed("\(error)")) }
  }

  func channelInactive(context: ChannelHandlerContext) {
    if head != nil { answered(context) } else { finish(context, .failed("the connection was closed")) }
    context.fireChannelInactive()
  }

  private func answered(_ context: ChannelHandlerContext) {
    guard state == .asking else { return }
    guard let head else { return finish(context, .failed("the answer has no head")) }
    do throws(ClientHandshake.Failure) {
      _ = try handshake.check(head)
      makeWay(context)
    } catch {
      switch error {
      case .invalid(let why): finish(context, .failed(why))
      case .refused(let status):
        let problem = problem()
        finish(
          context,
          .refused(
            status: Int(status.code), retryAfterMs: Self.retryAfter(head.headers),
            detail: problem?.detail ?? problem?.title, isProblem: problem?.isOurs ?? false))
      }
    }
  }

  private func makeWay(_ context: ChannelHandlerContext) {
    state = .makingWay
    let pipeline = context.pipeline.syncOperations
    pipeline.removeHandler(encoder, promise: nil)
    pipeline.removeHandler(decoder).assumeIsolated().whenComplete { [self] _ in
      finish(context, .upgraded)
      pipeline.removeHandler(context: context, promise: nil)
      gate.open()
      pipeline.removeHandler(gate, promise: nil)
    }
  }

  private func finish(_ context: ChannelHandlerContext, _ outcome: Outcome) {
    guard state != .done else { return }
    state = .done
    do {
      try done(context.channel, outcome)
      if case .upgraded = outcome { return }
    } catch {}
    context.close(promise: nil)
  }

  /// An RFC 9457 body.
  private struct Problem: Decodable {
    let type: String?
    let title: String?
    let detail: String?

    var isOurs: Bool { type?.hasPrefix("urn:baton:problem:") == true }
  }

  private func problem() -> Problem? { try? JSONDecoder().decode(Problem.self, from: Data(body.readableBytesView)) }

  /// `Retry-After` in seconds (RFC 9110 section 10.2.3), in milliseconds; a date counts as nothing.
  private static func retryAfter(_ headers: HTTPHeaders) -> Double {
    headers.first(name: "Retry-After").flatMap(Double.init).map { $0.isFinite ? max(0, $0 * 1000) : 0 } ?? 0
  }
}
