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
    /// Attempts in a row without a word from a gateway, until the app is told.
    static let unreachable = 5
    /// A token that expires this soon after the last was asked for is short-lived …
    static let shortToken = 60_000
    /// … and the next one is asked for after half of what is left, and never sooner after the last than this.
    static let tokenPause = 5_000
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
    /// An HTTP answer in place of the upgrade. `problem`: in the gateway's own form (a problem document of ours); whatever
    /// else answers may stand in front of it.
    case refused(status: Int, retryAfterMs: Double, problem: Bool)
    case timer
    case token(String)
    case submit(Submission)
    /// The app waits no longer for the answer.
    case withdraw(key: String)
    /// The app takes no more events for now, but what is submitted must be answered.
    case skim
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
    /// Ask the app for a token, after this time; one question at a time.
    case needToken(afterMs: Int)
    case state(SessionAttachment.State)
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
  private(set) var state: SessionAttachment.State?
  private var url = 0
  private var unanswered: [Submission] = []
  /// Attempts in a row that came to nothing: what backoff counts.
  private var failures = 0
  /// Attempts in a row in which no gateway said a word.
  private var unheard = 0
  /// Connected for the sake of answers: at the stream's end, without moving the place.
  private var isSkimming = false
  private var askedAt: Int?
  /// While unauthorized: there is one to try when the timer has run out.
  private var hasNewToken = false

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
    case .refused(let status, let retryAfterMs, let problem): if isConnected { refused(status, retryAfterMs, problem) }
    case .timer: timer()
    case .token(let token): take(token: token)
    case .submit(let submission): submit(submission)
    case .withdraw(let key): unanswered.removeAll { $0.key == key }
    case .skim: skim()
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
    isSkimming = false
    become(.suspended)
  }

  private mutating func resume() {
    guard isSkimming || state == .suspended else { return }
    let skimmed = isSkimming
    isSkimming = false
    if isConnected { actions.append(.disconnect(code: 4000)) }
    guard isConnected || !skimmed else { return }
    failures = 0
    connect()
  }

  private mutating func skim() {
    guard !isSkimming else { return }
    isSkimming = true
    guard isConnected || state == .suspended else { return }
    if isConnected { actions.append(.disconnect(code: 4000)) }
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
      actions.append(.settle(key: submission.key, .failure(SubmissionError(.tooMany))))
      return
    }
    unanswered.append(submission)
    if isAttached { actions.append(.send(.submission(submission))) }
  }

  private mutating func take(token: String) {
    if state == .unauthorized {
      if failures <= 1 { connect() } else { actions.append(.timer(ms: jitter(failures - 1))) }
      hasNewToken = true
    } else if isAttached {
      actions.append(.send(.auth(token: token)))
    }
  }

  // MARK: what becomes of a connection

  private mutating func refused(_ status: Int, _ retryAfterMs: Double, _ isProblem: Bool) {
    guard isProblem else { return retry(after: retryAfterMs) }
    unheard = 0
    switch status {
    case 401: needToken(else: .rejectedByStatus(status))
    case 408, 425, 429: retry(after: retryAfterMs)
    case 400...499: end(.rejectedByStatus(status))
    default: retry(after: retryAfterMs)
    }
  }

  private mutating func closed(_ code: Int) {
    switch code {
    case 1000 where !isSkimming: end(.finished)
    case 4401: needToken(else: .rejectedByCode(code))
    case 4408, 4425, 4429: retry(after: retryAfterMs)
    case 1002, 1003, 1007, 1008, 1009, 4400...4499: end(.rejectedByCode(code))
    default: retry(after: retryAfterMs)
    }
  }

  private mutating func timer() {
    switch state {
    case .waiting: connect()
    case .unauthorized: if hasNewToken { connect() }
    case .connecting: giveUpConnection()
    case .behind, .live, .stalled: checkPulse()
    case .suspended, .ended, nil: break
    }
  }

  private mutating func take(_ frame: Frame) {
    heard()
    unheard = 0
    if isSkimming, !frame.kind.isAnswer {
      switch frame.kind {
      case .attached(let attached): welcome(attached)
      case .draining(let milliseconds): retryAfterMs = milliseconds
      case .expiring(let inMs): expiring(inMs)
      default: break
      }
      return
    }
    switch frame.kind {
    case .entry(let entry): take(entry, frame)
    case .attached(let attached):
      tell(frame, then: nil)
      welcome(attached)
    case .live: tell(frame, then: .live)
    case .behind, .reset: tell(frame, then: .behind)
    case .stalled: tell(frame, then: .stalled)
    case .skipped: tell(frame, then: nil)
    case .draining(let milliseconds):
      retryAfterMs = milliseconds
      tell(frame, then: nil)
    case .expiring(let inMs):
      tell(frame, then: nil)
      expiring(inMs)
    case .accepted(let key, let inboxID):
      settle(key, .success(inboxID ?? ""))
    case .error(let code, let message, let key):
      if let key, settle(key, .failure(SubmissionError(.init(rawValue: code), message))) { return }
      tell(frame, then: nil)
    case .authenticated, .pong, .unknown: break
    }
  }

  private mutating func tell(_ frame: Frame, then state: SessionAttachment.State?) {
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

  private mutating func welcome(_ attached: Frame.Attached) {
    attachedAt = at
    pingMs = attached.pingMs.flatMap { (1000...300_000).contains($0) ? Int($0) : nil } ?? Limits.ping
    become(.behind)
    actions.append(.timer(ms: pingMs))
    for submission in unanswered { actions.append(.send(.submission(submission))) }
  }

  /// A token that lives shorter than a gateway's warning must not be asked for without end.
  private mutating func expiring(_ inMs: Double) {
    guard options.renewsToken else { return }
    let sinceLast = askedAt.map { at - $0 } ?? .max
    let isShort = sinceLast < Limits.shortToken
    askForToken(afterMs: isShort ? max(Int(min(inMs, 1e9) / 2), Limits.tokenPause - sinceLast) : 0)
  }

  private mutating func askForToken(afterMs: Int = 0) {
    askedAt = at + afterMs
    actions.append(.needToken(afterMs: afterMs))
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

  private mutating func become(_ new: SessionAttachment.State) {
    guard state != new else { return }
    state = new
    actions.append(.state(new))
  }

  private mutating func forgetConnection() {
    attachedAt = nil
    pinged = false
    retryAfterMs = 0
    hasNewToken = false
  }

  private mutating func connect() {
    forgetConnection()
    become(.connecting)
    actions.append(.connect(url: url, query: query))
    actions.append(.timer(ms: Limits.connect))
  }

  private var query: [Parameter] {
    if isSkimming {
      let device = options.device.map { Parameter(name: "device", value: $0) }
      return [Parameter(name: "offset", value: "$")] + (device.map { [$0] } ?? [])
    }
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

  /// Says once that no gateway can be reached; the token may be why, where a refusal can't be read.
  private mutating func noteSilence() {
    guard attachedAt == nil else { return }
    unheard += 1
    guard unheard == Limits.unreachable else { return }
    let message = "no gateway said a word in \(unheard) attempts"
    actions.append(.deliver(Frame(.error(code: "unreachable", message: message, key: nil))))
    if options.renewsToken { askForToken() }
  }

  private func jitter(_ failures: Int) -> Int {
    let bound = min(Limits.backoffCap, Limits.backoffBase * Double(1 << min(failures, 30)))
    return Int(random * bound)
  }

  private mutating func retry(after milliseconds: Double = 0) {
    countFailure()
    noteSilence()
    rotate()
    wait(Int(min(max(milliseconds, 0), Limits.retryAfter)) + jitter(failures - 1))
  }

  private mutating func wait(_ milliseconds: Int) {
    forgetConnection()
    become(.waiting)
    actions.append(.timer(ms: milliseconds))
  }

  private mutating func needToken(else rejection: End) {
    unheard = 0
    guard options.renewsToken else { return end(rejection) }
    countFailure()
    forgetConnection()
    become(.unauthorized)
    askForToken()
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
      actions.append(.settle(key: submission.key, .failure(SubmissionError(.ended))))
    }
    unanswered = []
    become(.ended)
    actions.append(.end(end))
  }
}

extension SessionAttachment.Frame.Kind {
  /// An answer to something that this device has sent.
  fileprivate var isAnswer: Bool {
    switch self {
    case .accepted, .error(_, _, _?): true
    default: false
    }
  }
}
