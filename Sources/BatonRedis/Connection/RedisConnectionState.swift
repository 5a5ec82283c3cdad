import NIOCore

/// What a connection does: log in, pipeline, match replies with requests, give up in time.
///
/// Past-tense events in, actions out; `Completion` is the driver's handle for one request.
package struct RedisConnectionState<Completion> {
  package enum SendAction {
    /// Write the commands; look again at `wakeAt` if there is one.
    case write(wakeAt: NIODeadline?)
    case refuse(Completion, RedisError)
  }

  package enum ReplyAction {
    case wait
    case ready
    case complete(Completion, [RESPReply])
    /// A message to a subscriber.
    case push(RESPReply)
    /// Closed by itself, see ``RedisConnectionState/closeReason``.
    case close(failing: [Completion])
  }

  package enum TimeAction {
    case wait
    case wakeAt(NIODeadline)
    case close(failing: [Completion])
  }

  private struct Request {
    /// Nil for the login.
    var completion: Completion?
    var commands: Int
    var bytes: Int
    var deadline: NIODeadline
  }

  private enum Phase {
    case connecting
    case loggingIn
    case ready
    case closed(RedisError)
  }

  /// A reply that is late and on its way is waited for as long as so many bytes come in ``progressTime``.
  private static var progressBytes: Int { 256 << 10 }
  private static var progressTime: TimeAmount { .seconds(1) }

  private let url: RedisURL
  private let login: [RedisCommand]
  private let maxPipelineBytes: Int
  private var phase = Phase.connecting
  private var requests = CircularBuffer<Request>()
  /// To the first request.
  private var replies: [RESPReply] = []
  private var isSubscriber = false
  private var wakeAt: NIODeadline?
  /// When ``progressBytes`` had come in once more.
  private var progressedAt: NIODeadline?
  private var bytesSinceProgress = 0
  /// Bytes of commands not yet answered, at most `maxPipelineBytes`.
  package private(set) var pipelineBytes = 0

  package init(url: RedisURL, clientName: String, maxPipelineBytes: Int) {
    (self.url, self.maxPipelineBytes) = (url, maxPipelineBytes)
    var login: [RedisCommand] = []
    if let password = url.password {
      login.append(RedisCommand("AUTH", (url.username.map { [.string($0)] } ?? []) + [.string(password)]))
    }
    if url.database != 0 { login.append(RedisCommand("SELECT", .integer(Int64(url.database)))) }
    login.append(RedisCommand("CLIENT", "SETNAME", .string(clientName)))
    // Says what the others keep quiet: LOADING, MASTERDOWN, NOAUTH.
    login.append(RedisCommand("PING"))
    self.login = login
  }

  /// The first commands to write; look again at `deadline`.
  package mutating func connected(deadline: NIODeadline) -> [RedisCommand] {
    guard case .connecting = phase else { return [] }
    phase = .loggingIn
    requests.append(Request(completion: nil, commands: login.count, bytes: 0, deadline: deadline))
    wakeAt = deadline
    return login
  }

  /// Requests are answered in order, each by one reply per command.
  package mutating func sendRequested(
    _ commands: [RedisCommand], deadline: NIODeadline, completion: Completion
  ) -> SendAction {
    switch phase {
    case .ready: break
    case .closed(let error): return .refuse(completion, error)
    case .connecting, .loggingIn: return .refuse(completion, .connectionLost)
    }
    let bytes = commands.reduce(0) { $0 + $1.encoded.readableBytes }
    guard pipelineBytes + bytes <= maxPipelineBytes else { return .refuse(completion, .overloaded) }
    pipelineBytes += bytes
    isSubscriber = isSubscriber || commands.contains { $0.name == "SUBSCRIBE" }
    requests.append(Request(completion: completion, commands: commands.count, bytes: bytes, deadline: deadline))
    if let wakeAt, wakeAt <= deadline { return .write(wakeAt: nil) }
    wakeAt = deadline
    return .write(wakeAt: deadline)
  }

  package mutating func replyReceived(_ reply: RESPReply) -> ReplyAction {
    if case .closed = phase { return .wait }
    if isSubscriber, reply.isMessage { return .push(reply) }
    guard let commands = requests.first?.commands else {
      // Before it hangs up, a server may say why without having been asked.
      return .close(failing: closed(reply.error ?? .protocolViolation("a reply that nobody asked for")))
    }
    if replies.isEmpty { replies.reserveCapacity(commands) }
    replies.append(reply)
    guard replies.count == commands else { return .wait }
    let request = requests.removeFirst()
    let replies = replies
    self.replies = []
    pipelineBytes -= request.bytes
    if let completion = request.completion { return .complete(completion, replies) }

    for (command, reply) in zip(login, replies) {
      if let error = reply.error, let refusal = decisive(error, command) { return .close(failing: closed(refusal)) }
    }
    phase = .ready
    return .ready
  }

  /// What a refused command of the login decides: a name is only nice to have, and PING is there to be refused while
  /// nothing works (a server whose disk is full refuses it and answers reads).
  private func decisive(_ error: RedisError, _ command: RedisCommand) -> RedisError? {
    switch command.name {
    case "CLIENT": nil
    case "PING": error.shuts ? error : nil
    default:
      RedisError(
        login: error,
        hint: command.name == "AUTH" && url.isPasswordAlone
          ? " (a password, as it stands alone in the Redis URL; for a user without one write redis://USER:@HOST)" : "")
    }
  }

  package mutating func bytesReceived(_ count: Int, now: NIODeadline) {
    bytesSinceProgress += count
    if bytesSinceProgress < Self.progressBytes { return }
    (progressedAt, bytesSinceProgress) = (now, 0)
  }

  /// Replies come in order, so any deadline that has passed condemns the connection, unless a large reply is coming in.
  package mutating func timePassed(now: NIODeadline) -> TimeAction {
    if case .closed = phase { return .wait }
    wakeAt = requests.lazy.map(\.deadline).min()
    guard var deadline = wakeAt else { return .wait }
    if case .ready = phase, deadline <= now, let progressedAt { deadline = progressedAt + Self.progressTime }
    wakeAt = deadline
    return deadline <= now ? .close(failing: closed(.timedOut)) : .wakeAt(deadline)
  }

  /// The connection ended; the first reason counts. What to fail with it.
  package mutating func closed(_ error: RedisError) -> [Completion] {
    switch phase {
    case .closed: return []
    case .ready: phase = .closed(error)
    case .connecting, .loggingIn:
      let told = error.reason == .stopped ? error : refusalBeforeEnd ?? error
      phase = .closed(.noLogin(told, url, hasAnswered: !replies.isEmpty))
    }
    defer { requests.removeAll() }
    replies = []
    pipelineBytes = 0
    return requests.compactMap(\.completion)
  }

  /// A server that has no room for another client says so before it hangs up, in place of the first answer.
  private var refusalBeforeEnd: RedisError? {
    let refusals = zip(login, replies).compactMap { command, reply in reply.error.map { (command, $0) } }
    return refusals.lazy.compactMap { decisive($1, $0) }.first ?? refusals.last?.1
  }

  /// Why it ended, once it has.
  package var closeReason: RedisError? {
    if case .closed(let error) = phase { error } else { nil }
  }
}

extension RESPReply {
  fileprivate var isMessage: Bool {
    guard var elements, elements.count == 3, let kind = elements.next()?.bytes else { return false }
    return kind.readableBytesView.elementsEqual("message".utf8)
  }
}
