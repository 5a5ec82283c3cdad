import BatonWebSocket
import Foundation
import Logging
import NIOConcurrencyHelpers
import NIOCore
import NIOHTTP1
import NIOPosix
import NIOSSL

/// Does what the machine says, on one event loop: it has the socket, the timer and the dice.
final actor Driver {
  nonisolated let loop: any EventLoop
  nonisolated var unownedExecutor: UnownedSerialExecutor { loop.executor.asUnownedSerialExecutor() }

  private let session: String
  private let endpoints: [Endpoint]
  private let options: SessionAttachment.Options
  private let queue: EventQueue
  private let tls: NIOSSLContext?

  private var machine: ClientMachine
  private var token: String?
  private var encoder = FrameEncoder(role: .client)
  private var channel: (any Channel)?
  /// Which connection is the current one; what older ones tell is dropped.
  private var generation = 0
  private var timer: Scheduled<Void>?
  /// False while the app's queue is full.
  private var isReading = true
  /// The app's queue is full, and something that was submitted waits for its answer.
  private var isSkimming = false
  private var isSuspended = false
  /// Why the last connection came to nothing.
  private var trouble: String?
  private var submissions: [String: Waiter] = [:]
  private var waiters = 0
  private var logger: Logger
  /// The app is being asked for a token, or will be.
  private var tokenTask: (isRunning: Bool, timer: Scheduled<Void>?)?

  private struct Waiter {
    let number: Int
    let continuation: CheckedContinuation<String, any Error>
    let deadline: Scheduled<Void>
  }

  /// - Throws: ``SessionAttachment/Invalid``.
  init(
    session: String, endpoints: [Endpoint], options: SessionAttachment.Options, queue: EventQueue, loop: any EventLoop,
    logger: Logger
  ) throws {
    self.session = session
    self.endpoints = endpoints
    self.options = options
    self.queue = queue
    self.loop = loop
    self.logger = logger
    self.logger[metadataKey: "session"] = "\(session)"
    token = try options.token.map { try SessionAttachment.Options.checked(token: $0) }
    tls = try endpoints.contains(where: \.isSecure) ? Self.makeTLS(options) : nil
    machine = ClientMachine(try options.machineOptions(urls: endpoints.count))
  }

  private static func makeTLS(_ options: SessionAttachment.Options) throws -> NIOSSLContext {
    var configuration = TLSConfiguration.makeClientConfiguration()
    if let path = options.trustedCertificates { configuration.trustRoots = .file(path) }
    do {
      return try NIOSSLContext(configuration: configuration)
    } catch {
      throw SessionAttachment.Invalid("the certificates to trust can't be used: \(error)")
    }
  }

  /// Runs on the event loop, in the order of the calls.
  nonisolated func enqueue(_ body: @escaping @Sendable (isolated Driver) -> Void) {
    loop.execute { self.assumeIsolated { body($0) } }
  }

  func handle(_ event: ClientMachine.Event) {
    let at = Int(loop.now.uptimeNanoseconds / 1_000_000)
    for action in machine.handle(event, at: at, random: .random(in: 0..<1)) { perform(action) }
  }

  func use(token: String) {
    self.token = token
    handle(.token(token))
  }

  /// - Throws: `SubmissionError`, `CancellationError`.
  func submit(_ submission: Submission, timeout: Duration) async throws -> String {
    guard ClientFrame.submission(submission).json.count <= 64 << 10 else { throw SubmissionError(.tooBig) }
    guard submissions[submission.key] == nil else { throw SubmissionError(.keyInUse) }
    guard machine.state != .ended else { throw SubmissionError(.ended) }
    waiters += 1
    let (key, number) = (submission.key, waiters)
    return try await withTaskCancellationHandler {
      try await withCheckedThrowingContinuation { continuation in
        let deadline = loop.scheduleTask(in: TimeAmount(timeout)) {
          self.assumeIsolated { $0.withdraw(key, number, SubmissionError(.timedOut, "no answer in \(timeout)")) }
        }
        submissions[key] = Waiter(number: number, continuation: continuation, deadline: deadline)
        handle(.submit(submission))
        skimIfNeeded()
      }
    } onCancel: {
      enqueue { $0.withdraw(key, number, CancellationError()) }
    }
  }

  private func withdraw(_ key: String, _ number: Int, _ error: any Error) {
    guard submissions[key]?.number == number else { return }
    handle(.withdraw(key: key))
    settle(key, .failure(error))
  }

  private func settle(_ key: String, _ result: Result<String, any Error>) {
    guard let waiter = submissions.removeValue(forKey: key) else { return }
    waiter.deadline.cancel()
    waiter.continuation.resume(with: result)
  }

  func suspend() {
    (isSuspended, isSkimming) = (true, false)
    handle(.suspend)
  }

  func resume() {
    isSuspended = false
    if !isReading, !submissions.isEmpty {
      skimIfNeeded()
    } else {
      handle(.resume)
    }
  }

  /// An answer never waits behind what the app has not read: a connection at the stream's end brings it.
  private func skimIfNeeded() {
    guard !isReading, !isSkimming, !isSuspended, !submissions.isEmpty else { return }
    isSkimming = true
    handle(.skim)
  }

  /// The app has taken enough from the queue.
  func drained() {
    guard !isReading, !queue.isFull else { return }
    isReading = true
    if isSkimming {
      isSkimming = false
      handle(.resume)
    } else {
      channel?.setOption(.autoRead, value: true).whenFailure { _ in }
    }
  }

  private func perform(_ action: ClientMachine.Action) {
    switch action {
    case .connect(let url, let query): connect(to: endpoints[url], query: query)
    case .disconnect(let code): disconnect(code)
    case .send(let frame): send(frame)
    case .timer(let milliseconds): startTimer(milliseconds)
    case .deliver(let frame): deliver(frame)
    case .settle(let key, let result): settle(key, result.mapError { $0 })
    case .needToken(let milliseconds): askForToken(after: milliseconds)
    case .state(let state):
      logger.debug("\(state.rawValue)", metadata: ["offset": "\(machine.offset ?? "0")", "why": "\(trouble ?? "")"])
      queue.push(.state(state, detail: trouble.take()), bytes: 64)
    case .end(let end): finish(end)
    }
  }

  // MARK: one connection

  private func connect(to endpoint: Endpoint, query: [ClientMachine.Parameter]) {
    generation += 1
    let generation = generation
    var headers: HTTPHeaders = [:]
    if let token { headers.add(name: "Authorization", value: "Bearer \(token)") }
    var random = SystemRandomNumberGenerator()
    let handshake = ClientHandshake(
      host: endpoint.authority, target: endpoint.target(session: session, query: query), subprotocols: ["baton.v1"],
      headers: headers, random: &random)
    let tls = tls
    ClientBootstrap(group: loop)
      .connectTimeout(.milliseconds(Int64(ClientMachine.Limits.connect)))
      .channelOption(.socketOption(.tcp_nodelay), value: 1)
      .channelInitializer { channel in
        channel.eventLoop.makeCompletedFuture {
          let pipeline = channel.pipeline.syncOperations
          if endpoint.isSecure, let tls {
            try pipeline.addHandler(Self.makeTLSHandler(tls, endpoint.host))
          }
          let encoder = HTTPRequestEncoder()
          let decoder = ByteToMessageHandler(HTTPResponseDecoder(leftOverBytesStrategy: .forwardBytes))
          let gate = UpgradeGate()
          let upgrade = UpgradeHandler(handshake: handshake, encoder: encoder, decoder: decoder, gate: gate) {
            channel, outcome in try self.assumeIsolated { try $0.upgraded(outcome, channel, generation) }
          }
          try pipeline.addHandlers([gate, encoder, decoder, upgrade])
        }
      }
      .connect(host: endpoint.host, port: endpoint.port)
      .whenComplete { result in self.assumeIsolated { $0.connected(result, endpoint, generation) } }
  }

  private static func makeTLSHandler(_ context: NIOSSLContext, _ host: String) throws -> NIOSSLClientHandler {
    let isAddress = (try? SocketAddress(ipAddress: host, port: 0)) != nil
    return try NIOSSLClientHandler(context: context, serverHostname: isAddress ? nil : host)
  }

  private func connected(_ result: Result<any Channel, any Error>, _ endpoint: Endpoint, _ generation: Int) {
    switch result {
    case .success(let channel):
      guard generation == self.generation else { return channel.close(promise: nil) }
      if channel.isActive { self.channel = channel }
    case .failure(let error):
      lost(.failed, because: "\(endpoint.authority): \(Self.describe(error))", generation)
    }
  }

  private static func describe(_ error: any Error) -> String {
    guard let error = error as? NIOConnectionError else { return "\(error)" }
    guard let first = error.connectionErrors.first else { return "the host's address is not known" }
    guard let io = first.error as? IOError else { return "\(first.error)" }
    return String(cString: strerror(io.errnoCode))
  }

  private func upgraded(_ outcome: UpgradeHandler.Outcome, _ channel: any Channel, _ generation: Int) throws {
    switch outcome {
    case .upgraded:
      guard generation == self.generation else { return channel.close(promise: nil) }
      self.channel = channel
      let pipeline = channel.pipeline.syncOperations
      let limits = WebSocketLimits(maxMessageBytes: options.maxFrameBytes)
      try pipeline.addHandler(WebSocketHandler(role: .client, limits: limits))
      try pipeline.addHandler(FrameHandler(driver: self, generation: generation))
      if !isReading, !isSkimming { channel.setOption(.autoRead, value: false).whenFailure { _ in } }
      handle(.opened)
    case .refused(let status, let retryAfterMs, let detail, let isProblem):
      let because = detail.map { "HTTP status \(status): \($0)" } ?? "HTTP status \(status)"
      lost(
        .refused(status: status, retryAfterMs: retryAfterMs, problem: isProblem), because: because, generation,
        detail: detail)
    case .failed(let why):
      lost(.failed, because: why, generation)
    }
  }

  fileprivate func received(_ text: ByteBuffer, _ generation: Int) {
    guard generation == self.generation else { return }
    do throws(Frame.NotJSON) {
      handle(.frame(try Frame(json: String(buffer: text))))
    } catch {
      garbled(generation)
    }
  }

  fileprivate func garbled(_ generation: Int) {
    guard generation == self.generation else { return }
    trouble = "the gateway sent something that is no frame"
    handle(.garbled)
  }

  fileprivate func closed(_ code: Int, reason: String, _ generation: Int) {
    let because = reason.isEmpty ? "closed with code \(code)" : "closed with code \(code): \(reason)"
    lost(.closed(code: code), because: because, generation, detail: reason.isEmpty ? nil : reason)
  }

  private var rejectionDetail: String?

  private func lost(_ event: ClientMachine.Event, because: String, _ generation: Int, detail: String? = nil) {
    guard generation == self.generation else { return }
    forgetChannel()
    trouble = because
    rejectionDetail = detail
    handle(event)
  }

  private func disconnect(_ code: Int) {
    guard let channel else {
      self.generation += 1
      return
    }
    forgetChannel()
    // The handshake's end must be read, even while the app reads nothing.
    channel.setOption(.autoRead, value: true).whenFailure { _ in }
    let close = WebSocketClose(CloseCode(rawValue: UInt16(clamping: code)))
    if (try? channel.pipeline.syncOperations.handler(type: WebSocketHandler.self)) != nil {
      channel.triggerUserOutboundEvent(close, promise: nil)
    } else {
      channel.close(promise: nil)
    }
  }

  private func forgetChannel() {
    generation += 1
    channel = nil
  }

  private func send(_ frame: ClientFrame) {
    var buffer = ByteBuffer()
    encoder.write(.text, ByteBuffer(bytes: frame.json), into: &buffer)
    channel?.writeAndFlush(buffer, promise: nil)
  }

  private func deliver(_ frame: Frame) {
    queue.push(.frame(frame), bytes: frame.json.utf8.count + 256)
    guard isReading, queue.isFull else { return }
    isReading = false
    channel?.setOption(.autoRead, value: false).whenFailure { _ in }
    // After the actions that are under way.
    if !submissions.isEmpty { enqueue { $0.skimIfNeeded() } }
  }

  private func startTimer(_ milliseconds: Int) {
    timer?.cancel()
    timer = loop.scheduleTask(in: .milliseconds(Int64(milliseconds))) {
      self.assumeIsolated { driver in
        // A socket that is not read can't be told dead by its silence.
        if !driver.isReading, !driver.isSkimming { driver.handle(.heard) }
        driver.handle(.timer)
      }
    }
  }

  private func askForToken(after milliseconds: Int) {
    if let task = tokenTask {
      guard !task.isRunning, milliseconds == 0 else { return }
      task.timer?.cancel()
    }
    guard milliseconds > 0 else { return renewToken() }
    logger.notice("a token that expires within a minute is too short-lived")
    let timer = loop.scheduleTask(in: .milliseconds(Int64(milliseconds))) { self.assumeIsolated { $0.renewToken() } }
    tokenTask = (false, timer)
  }

  private func renewToken() {
    guard machine.state != .ended, let renewToken = options.renewToken else { return }
    tokenTask = (true, nil)
    Task {
      do {
        let token = try SessionAttachment.Options.checked(token: try await renewToken())
        self.tokenTask = nil
        self.use(token: token)
      } catch {
        self.tokenTask = nil
        self.noToken(error)
      }
    }
  }

  /// Without a new token there is nothing to connect with; an open connection stays as long as it may.
  private func noToken(_ error: any Error) {
    guard machine.state == .unauthorized else { return }
    queue.finish(.failure(SessionAttachment.Rejection(reason: .status(401), detail: "no new token: \(error)")))
    handle(.close)
  }

  private func finish(_ end: ClientMachine.End) {
    timer?.cancel()
    tokenTask?.timer?.cancel()
    switch end {
    case .finished, .closed: queue.finish(.success(()))
    case .rejectedByCode(let code):
      reject(.closeCode(code))
    case .rejectedByStatus(let status):
      reject(.status(status))
    }
  }

  private func reject(_ reason: SessionAttachment.Rejection.Reason) {
    let rejection = SessionAttachment.Rejection(reason: reason, detail: rejectionDetail)
    logger.notice("\(rejection)", metadata: ["offset": "\(machine.offset ?? "0")"])
    queue.finish(.failure(rejection))
  }
}

/// What a WebSocket brings, to the driver.
private final class FrameHandler: ChannelInboundHandler {
  typealias InboundIn = WebSocketEvent

  private let driver: Driver
  private let generation: Int
  private var trouble = ""

  init(driver: Driver, generation: Int) {
    self.driver = driver
    self.generation = generation
  }

  func channelRead(context: ChannelHandlerContext, data: NIOAny) {
    let event = unwrapInboundIn(data)
    driver.assumeIsolated { [generation] driver in
      switch event {
      case .text(let text): driver.received(text, generation)
      case .binary: driver.garbled(generation)
      case .close(let code, let reason):
        driver.closed(code.map { Int($0.rawValue) } ?? 1005, reason: reason, generation)
      case .ping, .pong: break
      }
    }
  }

  func errorCaught(context: ChannelHandlerContext, error: any Error) {
    guard let violation = error as? WebSocketViolation else {
      trouble = "\(error)"
      context.close(promise: nil)
      return
    }
    // A frame beyond the app's own limit would come again; anything else may be the line's fault.
    let code = violation.code == .tooBig ? 1009 : 1006
    driver.assumeIsolated { [generation] in $0.closed(code, reason: violation.reason, generation) }
  }

  func channelInactive(context: ChannelHandlerContext) {
    driver.assumeIsolated { [generation, trouble] in $0.closed(1006, reason: trouble, generation) }
    context.fireChannelInactive()
  }
}

/// Lets the queue reach the driver that is made after it.
final class WeakDriver: Sendable {
  private let box = NIOLockedValueBox(Weak())

  private struct Weak: Sendable {
    weak var driver: Driver?
  }

  var driver: Driver? {
    get { box.withLockedValue { $0.driver } }
    set { box.withLockedValue { $0.driver = newValue } }
  }

  func wake() { driver?.enqueue { $0.drained() } }
}
