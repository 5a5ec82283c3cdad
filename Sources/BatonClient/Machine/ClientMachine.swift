/// When to connect, to what, from which offset, and when to stop: everything that a Baton client decides.
///
/// It has no clock, no socket and no dice: each call is one event, with the time and a random number, and returns the
/// actions to take. `Tests/Conformance/client/README.md` names both; its cases run here and in `baton.js`.
struct ClientMachine {
  /// Milliseconds.
  enum Limits {
    /// Full jitter: the n-th attempt in a row waits up to base · 2ⁿ, and never longer than the cap.
    static let backoffBase = 250.0
    static let backoffCap = 10_000.0
    /// A connection that stayed attached this long starts the count anew.
    static let healthy = 5_000
    /// From the connect to `attached`.
    static let connect = 10_000
    /// Silence before a ping, where the gateway names no `pingMs`.
    static let ping = 25_000
    /// What a ping may take.
    static let pong = 10_000
    /// The longest wait that a gateway can ask for.
    static let retryAfter = 300_000.0
    /// Inputs and cancels that wait for their answer.
    static let unanswered = 64
  }

  struct Options {
    var urls = 1
    var offset: String?
    var last: Int?
    var response: String?
    var rollup: String?
    var until: String?
    var device: String?
    var renewsToken = false
    var maxUnanswered = Limits.unanswered
  }

  enum Event {
    case start
    case opened
    case frame(Frame)
    case garbled
    case closed(code: Int)
    case failed
    case refused(status: Int, retryAfterMs: Double)
    case timer
    case token(String)
    case submit(Submission)
    case suspend
    case resume
    case move
    case close
    /// Something came, or could have come if we were reading.
    case heard
  }

  enum Action {
    case connect(url: Int, query: [Parameter])
    case disconnect(code: Int)
    case send(ClientFrame)
    case timer(ms: Int)
    case deliver(Frame)
    case settle(key: String, Result<String, SubmissionError>)
    case needToken
    case state(ConnectionState)
    case end(End)
  }

  struct Parameter: Equatable {
    let name: String
    let value: String
  }

  enum End: Equatable {
    case finished
    case closed
    case rejectedByCode(Int)
    case rejectedByStatus(Int)
  }

  private let options: Options
  /// The place in the stream to go on after; nil until a gateway named one.
  private(set) var offset: String?
  private(set) var state: ConnectionState?
  private var url = 0
  private var unanswered: [Submission] = []
  /// Attempts in a row that came to nothing: what backoff counts.
  private var failures = 0

  // Of the current connection.
  private var attachedAt: Int?
  private var heardAt = 0
  private var pinged = false
  private var pingMs = Limits.ping
  private var retryAfterMs = 0.0

  // Of the current event.
  private var at = 0
  private var random = 0.0
  private var actions: [Action] = []

  init(_ options: Options) {
    self.options = options
    offset = options.offset
  }

  /// - Parameters:
  ///   - at: milliseconds on a clock that never goes back.
  ///   - random: in [0, 1).
  mutating func handle(_ event: Event, at: Int, random: Double) -> [Action] {
    guard state != .ended else { return [] }
    self.at = at
    self.random = random
    actions = []
    take(event)
    return actions
  }

  private mutating func take(_ event: Event) {
    switch event {
    case .start: if state == nil { connect() }
    case .opened: break
    case .frame(let frame): if isConnected { take(frame) }
    case .garbled: if isConnected { giveUpConnection() }
    case .closed(let code): if isConnected { closed(code) }
    case .failed: if isConnected { retry() }
    case .refused(let status, let retryAfterMs): if isConnected { refused(status, retryAfterMs) }
    case .timer: timer()
    case .token(let token): take(token: token)
    case .submit(let submission): submit(submission)
    case .suspend: suspend()
    case .resume: resume()
    case .move: move()
    case .close:
      if isConnected { actions.append(.disconnect(code: 1000)) }
      end(.closed)
    case .heard: heard()
    }
  }

  // MARK: what the app does

  private mutating func suspend() {
    if isConnected { actions.append(.disconnect(code: 4000)) }
    forgetConnection()
    become(.suspended)
  }

  private mutating func resume() {
    guard state == .suspended else { return }
    failures = 0
    connect()
  }

  private mutating func move() {
    guard isConnected || state == .waiting else { return }
    if isConnected { actions.append(.disconnect(code: 4000)) }
    failures = 0
    rotate()
    connect()
  }

  private mutating func submit(_ submission: Submission) {
    guard unanswered.count < options.maxUnanswered else {
      actions.append(.settle(key: submission.key, .failure(SubmissionError("too_many"))))
      return
    }
    unanswered.append(submission)
    if isAttached { actions.append(.send(.submission(submission))) }
  }

  private mutating func take(token: String) {
    if state == .unauthorized {
      if failures <= 1 { connect() } else { wait(jitter(failures - 1)) }
    } else if isAttached {
      actions.append(.send(.auth(token: token)))
    }
  }

  // MARK: what becomes of a connection

  private mutating func refused(_ status: Int, _ retryAfterMs: Double) {
    switch status {
    case 204: end(.finished)
    case 401: needToken(else: .rejectedByStatus(status))
    case 408, 425, 429: retry(after: retryAfterMs)
    case 400...499: end(.rejectedByStatus(status))
    default: retry(after: retryAfterMs)
    }
  }

  private mutating func closed(_ code: Int) {
    switch code {
    case 1000: end(.finished)
    case 4401: needToken(else: .rejectedByCode(code))
    case 1002, 1003, 1007, 1008, 1009, 4403: end(.rejectedByCode(code))
    default: retry(after: retryAfterMs)
    }
  }

  private mutating func timer() {
    switch state {
    case .waiting: connect()
    case .connecting: giveUpConnection()
    case .behind, .live, .stalled: checkPulse()
    case .unauthorized, .suspended, .ended, nil: break
    }
  }

  private mutating func take(_ frame: Frame) {
    heard()
    switch frame.kind {
    case .entry(let entry): take(entry, frame)
    case .attached(let attached): welcome(attached, frame)
    case .live: tell(frame, then: .live)
    case .behind, .reset: tell(frame, then: .behind)
    case .stalled: tell(frame, then: .stalled)
    case .skipped: tell(frame, then: nil)
    case .draining(let milliseconds):
      retryAfterMs = milliseconds
      tell(frame, then: nil)
    case .expiring:
      tell(frame, then: nil)
      if options.renewsToken { actions.append(.needToken) }
    case .accepted(let key, let inboxID):
      settle(key, .success(inboxID ?? ""))
    case .error(let code, let message, let key):
      if let key, settle(key, .failure(SubmissionError(code, message))) { return }
      tell(frame, then: nil)
    case .authenticated, .pong, .unknown: break
    }
  }

  private mutating func tell(_ frame: Frame, then state: ConnectionState?) {
    offset = frame.place ?? offset
    actions.append(.deliver(frame))
    if let state { become(state) }
  }

  private mutating func take(_ entry: Frame.Entry, _ frame: Frame) {
    offset = frame.place ?? offset
    if let wanted = options.response, entry.response != wanted { return }
    actions.append(.deliver(frame))
    if options.response != nil, entry.isEnding {
      actions.append(.disconnect(code: 1000))
      end(.finished)
    }
  }

  private mutating func welcome(_ attached: Frame.Attached, _ frame: Frame) {
    attachedAt = at
    pingMs = attached.pingMs.flatMap { (1000...300_000).contains($0) ? Int($0) : nil } ?? Limits.ping
    tell(frame, then: .behind)
    actions.append(.timer(ms: pingMs))
    for submission in unanswered { actions.append(.send(.submission(submission))) }
  }

  private mutating func heard() {
    heardAt = at
    pinged = false
  }

  private mutating func checkPulse() {
    if pinged { return giveUpConnection() }
    let silent = at - heardAt
    if silent < pingMs {
      actions.append(.timer(ms: pingMs - silent))
    } else {
      pinged = true
      actions.append(.send(.ping))
      actions.append(.timer(ms: Limits.pong))
    }
  }

  // MARK: how

  private var isAttached: Bool { state == .behind || state == .live || state == .stalled }
  private var isConnected: Bool { isAttached || state == .connecting }

  private mutating func become(_ new: ConnectionState) {
    guard state != new else { return }
    state = new
    actions.append(.state(new))
  }

  private mutating func forgetConnection() {
    attachedAt = nil
    pinged = false
    retryAfterMs = 0
  }

  private mutating func connect() {
    forgetConnection()
    become(.connecting)
    actions.append(.connect(url: url, query: query))
    actions.append(.timer(ms: Limits.connect))
  }

  private var query: [Parameter] {
    let start =
      if let offset {
        Parameter(name: "offset", value: offset)
      } else if let response = options.response {
        Parameter(name: "response", value: response)
      } else if let last = options.last {
        Parameter(name: "last", value: String(last))
      } else {
        Parameter(name: "offset", value: "0")
      }
    let others = [("rollup", options.rollup), ("until", options.until), ("device", options.device)]
    return [start] + others.compactMap { name, value in value.map { Parameter(name: name, value: $0) } }
  }

  private mutating func giveUpConnection() {
    actions.append(.disconnect(code: 4000))
    retry()
  }

  private mutating func rotate() { url = (url + 1) % max(1, options.urls) }

  private mutating func countFailure() {
    if let attachedAt, at - attachedAt >= Limits.healthy { failures = 0 }
    failures += 1
  }

  private func jitter(_ failures: Int) -> Int {
    let bound = min(Limits.backoffCap, Limits.backoffBase * Double(1 << min(failures, 30)))
    return Int(random * bound)
  }

  private mutating func retry(after milliseconds: Double = 0) {
    countFailure()
    rotate()
    wait(Int(min(max(milliseconds, 0), Limits.retryAfter)) + jitter(failures - 1))
  }

  private mutating func wait(_ milliseconds: Int) {
    forgetConnection()
    become(.waiting)
    actions.append(.timer(ms: milliseconds))
  }

  private mutating func needToken(else rejection: End) {
    guard options.renewsToken else { return end(rejection) }
    countFailure()
    forgetConnection()
    become(.unauthorized)
    actions.append(.needToken)
  }

  @discardableResult
  private mutating func settle(_ key: String, _ result: Result<String, SubmissionError>) -> Bool {
    guard let index = unanswered.firstIndex(where: { $0.key == key }) else { return false }
    unanswered.remove(at: index)
    actions.append(.settle(key: key, result))
    return true
  }

  private mutating func end(_ end: End) {
    for submission in unanswered {
      actions.append(.settle(key: submission.key, .failure(SubmissionError("ended"))))
    }
    unanswered = []
    become(.ended)
    actions.append(.end(end))
  }
}
