import BatonGateway
import BatonProtocol
import BatonSession
import BatonWebSocket
import Logging
import NIOConcurrencyHelpers
import NIOCore
import NIOPosix
import ServiceLifecycle
import TestSupport

@testable import BatonStore

/// Lets every device in, says `attached`, and does what the device's messages ask for.
final class FakeBackend: DeviceAttaching, SessionOperations {
  let devices = NIOLockedValueBox(0)
  let requests = NIOLockedValueBox<[DeviceRequest]>([])
  let appended = NIOLockedValueBox<[NewEntry]>([])

  var isShortOfMemory: Bool { false }

  func attach(
    _ request: DeviceRequest, on eventLoop: any EventLoop, until gone: EventLoopFuture<Void>
  ) -> EventLoopFuture<Admission> {
    requests.withLockedValue { $0.append(request) }
    switch request.attach.session.description {
    case "wrong-type": return eventLoop.makeFailedFuture(Problem.wrongType(request.attach.session))
    case "finished": return eventLoop.makeSucceededFuture(.finished)
    default: break
    }
    return eventLoop.makeSucceededVoidFuture().map { .admitted(Driver(self, request)) }
  }

  func history(_ request: HistoryRequest) async throws -> HistoryPage? {
    if request.session.description == "absent" { return nil }
    return HistoryPage(entries: [], first: nil, last: nil, more: false)
  }

  func append(_ entry: NewEntry, to session: SessionName, scope: String) async throws -> (id: EntryID, again: Bool) {
    appended.withLockedValue { $0.append(entry) }
    return (EntryID(7, 1), scope.hasSuffix(" again"))
  }

  func append(_ call: AppendCall, to session: SessionName) async throws -> WriteReply { throw Problem.storeUnavailable }

  func delete(_ session: SessionName) async throws {}

  func sessions(like prefix: String, from place: KeyPlace?) async throws -> SessionStep { SessionStep() }

  func response(_ response: String, in session: SessionName) async throws -> ResponseRecord? { nil }

  func submit(_ put: EntryPut, to session: SessionName) async throws -> (inboxID: EntryID, again: Bool) {
    (EntryID(7, 2), put.key == "again")
  }

  func responses(in session: SessionName) async throws -> ResponseList { ResponseList() }

  func entries(
    of session: SessionName, before id: EntryID?, limit: Int
  ) async throws -> (entries: [Entry], more: Bool) { ([], false) }

  func look(at response: String, in session: SessionName, after place: EntryID) async throws -> InboxLook {
    throw Problem.storeUnavailable
  }

  func upstreamID(of response: String, in session: SessionName) async throws -> String? { nil }

  func line(_ step: QuestionLine.Step, in session: SessionName) async throws -> QuestionLine? { nil }

  func watchLeases(of session: SessionName) {}

  /// On one event loop, as all drivers.
  private final class Driver: DeviceDriver, @unchecked Sendable {
    let backend: FakeBackend
    let request: DeviceRequest
    var wire: (any DeviceWire)?

    init(_ backend: FakeBackend, _ request: DeviceRequest) {
      self.backend = backend
      self.request = request
    }

    func start(_ wire: any DeviceWire) {
      self.wire = wire
      backend.devices.withLockedValue { $0 += 1 }
      wire.send(
        .attached(
          ControlFrame.Attached(
            session: request.attach.session.description, device: request.attach.device, node: "gw", offset: .zero,
            first: nil, last: nil, pingMs: 25000, features: [])))
    }

    func pump() {}

    func received(_ message: DeviceMessage) -> Bool {
      switch message.type {
      case "close": wire?.close(.normal, reason: "")
      default: return false
      }
      return true
    }

    func drain(retryAfterMs: Int) {
      wire?.send(.draining(retryAfterMs: retryAfterMs))
      wire?.close(.goingAway, reason: "")
    }

    func closed() { if wire != nil { backend.devices.withLockedValue { $0 -= 1 } } }
  }
}

/// A gateway on a free port, and what is behind it.
struct TestGateway {
  let backend: FakeBackend
  let parts: GatewayParts
  let port: Int
  private let group: ServiceGroup
  private let task: Task<Void, any Error>

  /// What SIGTERM does.
  func drain() { Task { await group.triggerGracefulShutdown() } }
  func finished() async throws { try await task.value }

  static func run<T: Sendable>(
    _ arguments: [String] = [], _ body: @Sendable (TestGateway) async throws -> T
  ) async throws -> T {
    let settings = try Settings(
      GatewaySettings.table, arguments: ["--listen", "127.0.0.1:0", "--threads", "1"] + arguments, environment: [:])
    let configuration = try await GatewayConfiguration(settings)
    let parts = GatewayParts(
      configuration: configuration, logger: Logger(label: "test") { _ in SwiftLogNoOpLogHandler() })
    let backend = FakeBackend()
    let (ports, continuation) = AsyncStream<Int>.makeStream()
    let serving = GatewayBackend(devices: backend, sessions: backend) { try await Task.sleep(for: .seconds(1 << 30)) }
    let gateway = Gateway(configuration: configuration, parts: parts, backend: serving) { address in
      continuation.yield(address.port ?? 0)
    }
    let group = ServiceGroup(
      configuration: ServiceGroupConfiguration(
        services: [.init(service: gateway, successTerminationBehavior: .gracefullyShutdownGroup)],
        logger: parts.logger))
    let task = Task { try await group.run() }
    var iterator = ports.makeAsyncIterator()
    let port = await iterator.next() ?? 0
    let test = TestGateway(backend: backend, parts: parts, port: port, group: group, task: task)
    do {
      let result = try await body(test)
      task.cancel()
      return result
    } catch {
      task.cancel()
      throw error
    }
  }
}

/// One TCP connection that keeps all that it received.
final class RawClient: Sendable {
  private let channel: any Channel
  private let inbox: Inbox

  private final class Inbox: ChannelInboundHandler, Sendable {
    typealias InboundIn = ByteBuffer
    let bytes = NIOLockedValueBox(ByteBuffer())

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
      let new = unwrapInboundIn(data)
      bytes.withLockedValue { _ = $0.writeImmutableBuffer(new) }
    }
  }

  init(port: Int) async throws {
    let inbox = Inbox()
    self.inbox = inbox
    channel = try await ClientBootstrap(group: MultiThreadedEventLoopGroup.singleton)
      .channelInitializer { $0.pipeline.addHandler(inbox) }
      .connect(host: "127.0.0.1", port: port).get()
  }

  var isClosed: Bool { !channel.isActive }
  var bytes: ByteBuffer { inbox.bytes.withLockedValue { $0 } }
  var text: String { inbox.bytes.withLockedValue { String(buffer: $0) } }

  func send(_ text: String) async throws { try await channel.writeAndFlush(ByteBuffer(string: text)) }
  func send(_ bytes: ByteBuffer) async throws { try await channel.writeAndFlush(bytes) }

  func wait(for text: String) async throws {
    try await eventually("\(text) in \(self.text)") {
      self.text.contains(text) || (self.isClosed && !self.text.contains(text))
    }
    guard self.text.contains(text) else { throw NeverHappened("closed before \(text): \(self.text)") }
  }

  func waitForClose() async throws { try await eventually("close") { self.isClosed } }
  func close() async throws { try? await channel.close() }

  /// A masked text frame.
  func sendText(_ text: String, opcode: Opcode = .text) async throws {
    var bytes = ByteBuffer()
    bytes.writeWebSocketFrame(opcode, payload: ByteBuffer(string: text), mask: 0x0102_0304)
    try await send(bytes)
  }
}

let upgrade = """
  Host: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r
  Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n
  """

extension ByteBuffer {
  /// Whether a close frame with this code is somewhere in it.
  func contains(closing code: CloseCode) -> Bool {
    let code = [UInt8(code.rawValue >> 8), UInt8(code.rawValue & 0xff)]
    let view = Array(readableBytesView)
    return view.indices.dropLast(3).contains { view[$0] == 0x88 && Array(view[$0 + 2...$0 + 3]) == code }
  }
}
