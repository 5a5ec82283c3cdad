import AsyncHTTPClient
import BatonProducer
import BatonProtocol
import BatonUpstream
import Foundation
import Logging
import NIOConcurrencyHelpers
import NIOCore
import NIOHTTP1

/// Asks models on behalf of callers, and appends what they answer: detached from its caller, cancelled from anywhere.
package final class Relay: Sendable {
  package struct Options: Sendable {
    package var address: UpstreamAddress
    /// Sent as `Authorization: Bearer`; never a caller's.
    package var key: String?
    /// How long it may then be silent.
    package var idleLimit: Duration? = .seconds(120)
    /// Relays that are open at the same time.
    package var maxOpen = 1000
    /// The address is one resource, not an API with some below it.
    package var isOneResource = false
    /// Responses are asked for in the background, so that they go on without their reader and may be read again.
    package var asksInBackground = false

    package init(_ address: UpstreamAddress, key: String?) { (self.address, self.key) = (address, key) }
  }

  /// One request.
  package struct Request: Sendable {
    package var session: String
    package var response: String
    /// Below the upstream's address: `responses`, `chat/completions`; empty for the address itself.
    package var path: String
    package var body: ByteBuffer
    package var contentType: String? = "application/json"
    package var codec: any RelayCodec
    /// The caller's, as far as the upstream is to see them.
    package var headers: HTTPHeaders = [:]
    /// Between the upstream's word and the response's beginning; a response does not begin where it throws.
    package var accepted: (@Sendable () async throws -> Void)?

    package init(session: String, response: String, path: String, body: ByteBuffer, codec: any RelayCodec) {
      (self.session, self.response, self.path, self.body, self.codec) = (session, response, path, body, codec)
    }
  }

  package enum Outcome: Sendable {
    /// The response is open; what follows comes in its session.
    case started
    /// The upstream has not accepted, and nothing was appended: its answer.
    case refused(Answer)
  }

  package struct Answer: Sendable {
    package var status: Int
    package var contentType: String?
    /// Others that its clients know, such as `Retry-After` and `x-request-id`.
    package var headers: [(name: String, value: String)] = []
    package var body: ByteBuffer
  }

  package enum Failure: Error, Sendable {
    /// The target would lead elsewhere than below the upstream's address.
    case badTarget
    /// No answer came. In words.
    case unreachable(String)
    /// As many relays are open as may be.
    case full
    case store(ProducerError)
  }

  /// Bytes of an answer that is passed on as it is.
  private static let answerLimit = 16 << 20
  private static let rereadPause = Duration.milliseconds(100)

  private let options: Options
  private let web: WebClient
  private let producer: Producer
  private let logger: Logger
  private let chatOnly = NIOLockedValueBox(false)
  private let running = NIOLockedValueBox<[ObjectIdentifier: Reading]>([:])
  private let registered = NIOLockedValueBox<(any AnswerRegister)?>(nil)

  /// - Throws: ``WebClient/Invalid``.
  package init(_ options: Options, producer: Producer, logger: Logger) throws(WebClient.Invalid) {
    (self.options, self.producer, self.logger) = (options, producer, logger)
    web = try WebClient(for: options.address.completions, caFile: nil) {
      $0.mergeBodies()
      $0.connectionPool.concurrentHTTP1ConnectionsPerHostSoftLimit = options.maxOpen
    }
  }

  /// The upstream knows Chat Completions only, as far as it has shown.
  package var isChatOnly: Bool {
    get { chatOnly.withLockedValue { $0 } }
    set { chatOnly.withLockedValue { $0 = newValue } }
  }

  package var open: Int { running.withLockedValue { $0.count } }

  /// How many more may be.
  package var room: Int { max(0, options.maxOpen - open) }

  package var asksInBackground: Bool { options.asksInBackground }

  /// Nil: no other node hears of what it could go on with.
  package var register: (any AnswerRegister)? {
    get { registered.withLockedValue { $0 } }
    set { registered.withLockedValue { $0 = newValue } }
  }

  /// The node goes away: what is still open is handed over to another one, where that can go on with it, or ends by `error`.
  package func drain() async {
    for reading in running.withLockedValue({ Array($0.values) }) { reading.giveUp(RelayStop.drained) }
    let deadline = ContinuousClock.now + .seconds(5)
    while open > 0, ContinuousClock.now < deadline { try? await Task.sleep(for: .milliseconds(20)) }
  }

  /// Returns when the upstream has accepted or refused; what it answers then comes into the session, whoever listens.
  package func start(_ request: Request) async throws -> Outcome {
    let reading = try begin()
    return try await withCheckedThrowingContinuation { continuation in
      Task.detached { [self] in
        let began = Began(continuation)
        await run(request, reading, began)
        end(reading)
        began.resume(.failure(Failure.unreachable("it closed the connection")))
      }
    }
  }

  /// Goes on with a response whose relay died, where the upstream goes on with its answer and lets it be read again: all of
  /// it is read, and what the session has already is left out.
  /// - Parameter request: as it was started, without a body.
  /// - Returns: whether it is gone on with.
  package func goOn(with request: Request, by resumption: Resumption) async -> Bool {
    guard let reading = try? begin() else { return false }
    let outcome = try? await withCheckedThrowingContinuation { continuation in
      Task.detached { [self] in
        let began = Began(continuation)
        await run(request, reading, began, again: resumption)
        end(reading)
        began.resume(.failure(Failure.unreachable("it closed the connection")))
      }
    }
    if case .started? = outcome { return true }
    return false
  }

  /// A response that was promised, and for which the upstream is not asked (any more): it begins, and ends.
  /// - Throws: `ProducerError`.
  package func end(_ request: Request, by stop: RelayStop) async throws {
    let opened = try await producer.open(
      session: request.session, response: request.response, data: request.codec.start)
    var feed = RelayFeed(request.codec, to: opened)
    try await feed.end(stop)
  }

  package enum Passed: Sendable {
    case whole(Answer)
    case stream(PassedStream)
  }

  /// Any other request of the upstream's, with its answer: what is no JSON as it comes.
  /// - Parameter target: path and query below the upstream's address.
  package func pass(
    _ method: HTTPMethod, _ target: String, _ body: ByteBuffer, headers: HTTPHeaders = [:], contentType: String?
  ) async throws -> Passed {
    let reading = try begin()
    var isRead = true
    defer { if isRead { end(reading) } }
    let response = reading.response
    response.execute(try self.request(method, target, body, contentType: contentType, headers: headers), on: web.client)
    do {
      var head: HTTPResponseHead?
      var all = ByteBuffer()
      for try await part in response.parts {
        switch part {
        case .head(let received):
          head = received
          let type = received.headers.first(name: "content-type")?.lowercased() ?? "application/json"
          guard type.contains("json") else {
            isRead = false
            return .stream(
              PassedStream(Answer(received, all), response, idleLimit: options.idleLimit) { [weak self] in
                self?.end(reading)
              })
          }
        case .bytes(let bytes):
          response.taken(bytes.readableBytes)
          guard all.readableBytes + bytes.readableBytes <= Self.answerLimit else {
            throw Failure.unreachable("its answer has more than \(Self.answerLimit) bytes")
          }
          all.writeImmutableBuffer(bytes)
        }
      }
      guard let head else { throw Failure.unreachable("it closed the connection") }
      return .whole(Answer(head, all))
    } catch let failure as Failure {
      throw failure
    } catch let why as RelayStop {
      throw Failure.unreachable(why.words)
    } catch {
      throw Failure.unreachable(WebClient.words(error))
    }
  }

  private func begin() throws(Failure) -> Reading {
    let reading = Reading()
    let hasRoom = running.withLockedValue { running in
      guard running.count < options.maxOpen else { return false }
      running[ObjectIdentifier(reading)] = reading
      return true
    }
    guard hasRoom else { throw .full }
    return reading
  }

  private func end(_ reading: Reading) { running.withLockedValue { $0[ObjectIdentifier(reading)] = nil } }

  /// What is read of an upstream; asked for once more where it broke off.
  private final class Reading: Sendable {
    private let state = NIOLockedValueBox((response: UpstreamResponse(), why: RelayStop?.none))

    var response: UpstreamResponse { state.withLockedValue { $0.response } }
    /// Why it was given up; nil: it was not.
    var why: RelayStop? { state.withLockedValue { $0.why } }

    func giveUp(_ stop: RelayStop) {
      let response = state.withLockedValue { state in
        state.why = state.why ?? stop
        return state.response
      }
      response.giveUp(stop)
    }

    /// Another answer; nil where it was given up.
    func again() -> UpstreamResponse? {
      state.withLockedValue { state in
        guard state.why == nil else { return nil }
        state.response = UpstreamResponse()
        return state.response
      }
    }
  }

  /// Who waits for the upstream's word; told once.
  private final class Began: Sendable {
    private let waiting: NIOLockedValueBox<CheckedContinuation<Outcome, any Error>?>

    init(_ continuation: CheckedContinuation<Outcome, any Error>) { waiting = NIOLockedValueBox(continuation) }

    func resume(_ result: Result<Outcome, any Error>) { waiting.withLockedValue { $0.take() }?.resume(with: result) }
  }

  /// - Parameter again: somebody else has begun it, and so it is had again.
  private func run(
    _ request: Request, _ reading: Reading, _ began: Began, again: Resumption? = nil
  ) async {
    var feed: RelayFeed?
    var refusal: (head: HTTPResponseHead, body: ByteBuffer)?
    var stop: RelayStop?
    // How the upstream goes on with it, whoever reads.
    var alone = Alone(request, register)
    defer { alone.end { [self] in await forget($0) } }
    var listening: Task<Void, Never>?
    defer { listening?.cancel() }
    var (response, way) = (reading.response, again)
    while true {
      stop = nil
      var isSilent = false
      let watch = UpstreamWatch(response)
      defer { watch.end() }
      do {
        var asked =
          if let way {
            try self.request(.GET, way.target, ByteBuffer(), contentType: nil)
          } else {
            try self.request(
              .POST, request.path, request.body, contentType: request.contentType, headers: request.headers)
          }
        if way == nil, !options.isOneResource { asked.headers.add(name: "x-conversation-id", value: request.response) }
        response.execute(asked, on: web.client)
        reading: for try await part in response.parts {
          switch part {
          case .head(let head):
            let type = head.headers.first(name: "content-type")?.lowercased() ?? ""
            guard head.status.code / 100 == 2, type.hasPrefix("text/event-stream") else {
              if feed != nil { throw RelayStop.cut("it broke off, and can't be read again") }
              refusal = (head, ByteBuffer())
              continue
            }
            if feed != nil {
              feed?.beginAgain(request.codec)
              continue
            }
            let isLlama = !options.isOneResource && Self.isLlama(head)
            let opened: OpenResponse
            do {
              if again == nil { try await request.accepted?() }
              opened = try await producer.open(
                session: request.session, response: request.response, data: request.codec.start)
              let known = again != nil ? await opened.onAcknowledgement { _ in } : nil
              var made = RelayFeed(request.codec, to: opened, known: known)
              made.keepsUpstreamID = !options.isOneResource && !isLlama
              feed = made
            } catch let error as ProducerError {
              // Somebody else may read it.
              if again == nil, isLlama { alone.goesOn(by: .conversation(request.response)) }
              return began.resume(.failure(Failure.store(error)))
            } catch let error where request.accepted != nil {
              if isLlama { alone.goesOn(by: .conversation(request.response)) }
              return began.resume(.failure(error))
            }
            if let again {
              alone.goesOn(by: again)
            } else if isLlama {
              alone.goesOn(by: .conversation(request.response))
            }
            listening = Task {
              for await message in opened.messages where message.kind == .cancel {
                return reading.giveUp(RelayStop.cancelled)
              }
            }
            began.resume(.success(.started))
          case .bytes(let bytes):
            response.taken(bytes.readableBytes)
            if var refused = refusal {
              refused.body.writeImmutableBuffer(bytes)
              refusal = refused
              if refused.body.readableBytes > Self.answerLimit { break reading }
              continue
            }
            watch.expect(within: options.idleLimit)
            try await feed?.received(bytes)
            if options.asksInBackground, let id = feed?.upstreamID { alone.goesOn(by: .response(id)) }
            if feed?.isOver == true { break reading }
          }
        }
        try await feed?.ended()
      } catch let why as RelayStop {
        stop = why
      } catch let silence as UpstreamWatch.Silence {
        stop = .cut("nothing came for \(silence.seconds) s")
        isSilent = true
      } catch let error as ProducerError {
        // Deleted, fenced or ended by others: nothing is to be said any more.
        if case .fenced = error { alone.isAnothers() }
        logger.notice("a relay ends: \(error)", metadata: metadata(request))
        return
      } catch {
        stop = .cut(WebClient.words(error))
      }
      // Where it broke off it is read again, as long as more comes by that.
      guard let known = feed, !known.isOver, known.hasProgressed, !isSilent, stop?.isCut != false,
        let resumption = alone.resumption
      else { break }
      try? await Task.sleep(for: Self.rereadPause)
      guard let another = reading.again() else {
        stop = reading.why
        break
      }
      feed?.hasProgressed = false
      logger.notice("an answer broke off, and is read again", metadata: metadata(request))
      (response, way) = (another, resumption)
    }
    if let refusal { return began.resume(.success(.refused(Answer(refusal.head, refusal.body)))) }
    guard var feed else {
      return began.resume(.failure(Failure.unreachable(stop?.words ?? "it closed the connection")))
    }
    if feed.isOver { alone.isOver() }
    if case .drained? = stop, await alone.handsOver() { return await feed.answer.abandon() }
    do {
      try await feed.end(stop ?? .cut("it closed the connection"))
    } catch {
      logger.notice("a relay ends: \(error)", metadata: metadata(request))
    }
  }

  private func metadata(_ request: Request) -> Logger.Metadata {
    ["session": "\(request.session)", "response": "\(request.response)"]
  }

  // MARK: upstreams that go on alone

  /// What becomes of an answer that the upstream goes on with, whoever reads it.
  private struct Alone {
    private let request: Request
    private let register: (any AnswerRegister)?
    private(set) var resumption: Resumption?
    private var registering: Task<Void, Never>?

    init(_ request: Request, _ register: (any AnswerRegister)?) {
      (self.request, self.register) = (request, register)
    }

    mutating func goesOn(by way: Resumption) {
      guard resumption == nil else { return }
      resumption = way
      registering = Task { [register, request] in await register?.began(request.response, in: request.session) }
    }

    /// The upstream has said its end.
    mutating func isOver() { resumption = nil }

    /// Another node goes on with it.
    mutating func isAnothers() { (resumption, registering) = (nil, nil) }

    /// - Returns: whether another node may go on with it.
    mutating func handsOver() async -> Bool {
      guard resumption != nil, let register else { return false }
      await registering?.value
      guard await register.handsOver(request.response, in: request.session) else { return false }
      isAnothers()
      return true
    }

    /// - Parameter forget: ends it at the upstream, where nobody wants the rest of it.
    func end(_ forget: @escaping @Sendable (Resumption) async -> Void) {
      guard resumption != nil || registering != nil else { return }
      Task { [self] in
        if let resumption { await forget(resumption) }
        await registering?.value
        if registering != nil { await register?.ended(request.response, in: request.session) }
      }
    }
  }

  /// Its server goes on with an answer under a name (`X-Conversation-Id`), whoever reads it.
  private static func isLlama(_ head: HTTPResponseHead) -> Bool {
    head.headers.first(name: "server")?.lowercased().hasPrefix("llama.cpp") == true
  }

  /// Nobody wants the rest of it.
  private func forget(_ answer: Resumption) async {
    _ = try? await pass(answer.end.method, answer.end.target, ByteBuffer(), contentType: nil)
  }

  private func request(
    _ method: HTTPMethod, _ target: String, _ body: ByteBuffer, contentType: String?, headers: HTTPHeaders = [:]
  ) throws -> HTTPClient.Request {
    guard let url = options.isOneResource ? options.address.whole : options.address.target(target) else {
      throw Failure.badTarget
    }
    var request = try HTTPClient.Request(url: web.target(url), method: method)
    if let contentType { request.headers.add(name: "content-type", value: contentType) }
    request.headers.add(name: "accept", value: "text/event-stream, application/json")
    request.headers.add(name: "accept-encoding", value: "gzip, deflate")
    request.headers.add(contentsOf: headers)
    if headers.contains(name: "authorization") {
      // The caller's counts.
    } else if let key = options.key {
      request.headers.add(name: "authorization", value: "Bearer \(key)")
      request.headers.add(name: "api-key", value: key)
    } else if let login = options.address.login {
      request.headers.add(name: "authorization", value: "Basic \(Data(login.utf8).base64EncodedString())")
    }
    if body.readableBytes > 0 { request.body = .byteBuffer(body) }
    return request
  }
}

extension Relay.Answer {
  init(_ head: HTTPResponseHead, _ body: ByteBuffer) {
    status = Int(head.status.code)
    contentType = head.headers.first(name: "content-type")
    headers = head.headers.compactMap { name, value in
      let name = name.lowercased()
      let isKnown =
        ["retry-after", "retry-after-ms", "x-should-retry", "x-request-id", "content-disposition"].contains(name)
        || name.hasPrefix("x-ratelimit-") || name.hasPrefix("openai-")
      return isKnown ? (name, value) : nil
    }
    self.body = body
  }
}
