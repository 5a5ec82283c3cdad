import BatonProtocol
import BatonRedis
import BatonSession
import BatonStore
import NIOCore

/// Acts for one ``ResponseWriter`` on the event loop.
final class ResponseDriver {
  /// Somebody who waits; the number tells who when a task is cancelled.
  struct Waiter {
    let number: Int
    let continuation: CheckedContinuation<Void, any Error>

    func resume() { continuation.resume() }
    func resume(throwing error: any Error) { continuation.resume(throwing: error) }
    func resume(with result: Result<Void, any Error>) { continuation.resume(with: result) }
  }

  let keys: SessionKeys
  private(set) var inbox: InboxCursor
  /// Reads of the inbox that are under way.
  var looks = 0
  private(set) var writer: ResponseWriter

  private let eventLoop: any EventLoop
  private let call: (AppendCall, SessionKeys, @escaping (Result<RESPReply, RedisError>) -> Void) -> Void
  private let messages: MessageQueue
  /// A device has asked to stop.
  private(set) var isCancelled = false
  /// Told once when that happens.
  var onCancel: (() -> Void)? {
    didSet { if isCancelled { onCancel?() } }
  }
  /// Told of each acknowledgement.
  var onWritten: ((WriteReply.Written) -> Void)?
  /// Nobody holds the response any more.
  private var isLetGo = false
  /// Drawn anew with each connection: what was asked over another one is answered too late.
  private var connection = 0
  /// Over which the end was written.
  private var endConnection: Int?
  private var opening: [Waiter] = []
  private var ending: [Waiter] = []
  /// As many as there are callers of `append`, each with what it has.
  private var waiting: [(items: [KeptItems.Item], waiter: Waiter)] = []
  private var timer: (at: NIODeadline, task: Scheduled<Void>)?

  init(
    writer: ResponseWriter, keys: SessionKeys, messages: MessageQueue,
    on eventLoop: any EventLoop,
    call: @escaping (AppendCall, SessionKeys, @escaping (Result<RESPReply, RedisError>) -> Void) -> Void
  ) {
    (self.writer, self.keys, self.messages, self.eventLoop, self.call) = (writer, keys, messages, eventLoop, call)
    inbox = InboxCursor(response: writer.response, opened: .zero)
  }

  var isOpen: Bool { writer.phase == .open }
  var hasEndedOnItsConnection: Bool { endConnection == connection }
  var isReleased: Bool {
    switch writer.phase {
    case .released, .failed: true
    default: false
    }
  }

  func open(patience: TimeAmount, _ waiter: Waiter) {
    opening.append(waiter)
    eventLoop.assumeIsolated().scheduleTask(in: patience) { [weak self] in
      guard let self, writer.phase == .opening else { return }
      fail(.unavailable(writer.lastRefusal))
    }
    advance()
  }

  func append(_ items: [KeptItems.Item], _ waiter: Waiter) {
    waiting.append((items, waiter))
    advance()
  }

  /// The first end counts; a different one after it is refused.
  func end(_ end: ResponseEnd, _ fields: [Entry.Field], _ waiter: Waiter?) {
    if let first = writer.end, first != end {
      waiter?.resume(throwing: ProducerError.ended(first))
      return
    }
    if let waiter { ending.append(waiter) }
    writer.ended(end.state, fields, now: .now())
    advance()
  }

  /// Whoever waits under this number waits no longer.
  func cancel(_ number: Int) {
    func take(_ waiters: inout [Waiter]) {
      for waiter in waiters where waiter.number == number { waiter.resume(throwing: CancellationError()) }
      waiters.removeAll { $0.number == number }
    }
    take(&opening)
    take(&ending)
    for (_, waiter) in waiting where waiter.number == number { waiter.resume(throwing: CancellationError()) }
    waiting.removeAll { $0.waiter.number == number }
  }

  /// Nobody holds the response any more: without an end of its own it ends by `error`.
  func letGo() {
    isLetGo = true
    advance()
  }

  func connected() {
    connection += 1
    writer.connected(now: .now())
    advance()
  }

  func disconnected(_ error: RedisError) {
    connection += 1
    writer.disconnected(error.description)
    if error.kind == .configuration, writer.phase == .opening { return fail(.refused(error.description)) }
    advance()
  }

  func fail(_ error: ProducerError) {
    writer.failed(error)
    advance()
  }

  func received(_ entries: [RawEntry]) {
    inbox.received(entries) { message in
      if message.kind == .cancel { cancelled() }
      return messages.push(message)
    }
  }

  func receivedBacklog(_ entries: [RawEntry]) { inbox.receivedBacklog(entries) { messages.push($0) } }

  /// Where inputs are to be read again, if there is room for one.
  var backlog: RedisStreamID? { messages.hasRoom ? inbox.backlog : nil }

  private func cancelled() {
    guard !isCancelled else { return }
    isCancelled = true
    onCancel?()
  }

  private func advance() {
    let now = NIODeadline.now()
    while !waiting.isEmpty, writer.phase == .open, !writer.isEnding, writer.hasRoom {
      let (items, waiter) = waiting.removeFirst()
      for item in items { writer.appended(item, now: now) }
      waiter.resume()
    }
    if isLetGo, writer.phase == .open, !writer.isEnding {
      writer.ended(.error, [Entry.Field("data", #"{"reason":"producer_lost"}"#)], now: now)
    }
    if let next = writer.next(now: now) {
      call(next, keys) { [weak self, connection] result in
        guard let self, connection == self.connection else { return }
        answered(result)
      }
    }
    settle()
    schedule()
  }

  private func answered(_ result: Result<RESPReply, RedisError>) {
    let now = NIODeadline.now()
    switch result {
    case .success(let reply):
      if let reply = WriteReply(reply.elements?.compactMap(\.text) ?? []) {
        let wasEnded = writer.phase == .ended
        writer.replied(reply, now: now)
        if !wasEnded, writer.phase == .ended { endConnection = connection }
        if case .written(let written) = reply { onWritten?(written) }
      } else {
        writer.failed(.refused("the script's answer has an unknown shape: \(reply)"))
      }
    case .failure(let error) where error.kind == .configuration: writer.failed(.refused(error.description))
    // Also where its words are not known: they may pass.
    case .failure(let error) where error.reason == .server || error.reason == .overloaded:
      writer.refused(error.description, now: now, random: .random(in: 0...1))
    case .failure(let error) where error.kind == .fault: writer.failed(.refused(error.description))
    case .failure(let error): writer.disconnected(error.description)
    }
    advance()
  }

  /// Tells those who wait.
  private func settle() {
    switch writer.phase {
    case .opening: return
    case .open:
      if inbox.opened != writer.inbox { inbox = InboxCursor(response: writer.response, opened: writer.inbox) }
      resume(&opening, .success(()))
      if let end = writer.end { refuseWaiting(.ended(end)) }
    case .ended, .released:
      messages.finish()
      resume(&ending, .success(()))
      refuseWaiting(.ended(writer.end ?? .end))
    case .failed(let error):
      messages.finish()
      resume(&opening, .failure(error))
      resume(&ending, .failure(error))
      refuseWaiting(error)
    }
  }

  private func resume(_ waiters: inout [Waiter], _ result: Result<Void, any Error>) {
    for waiter in waiters { waiter.resume(with: result) }
    waiters.removeAll()
  }

  private func refuseWaiting(_ error: ProducerError) {
    for (_, waiter) in waiting { waiter.resume(throwing: error) }
    waiting.removeAll()
  }

  private func schedule() {
    guard let at = writer.wakeAt else {
      timer?.task.cancel()
      timer = nil
      return
    }
    if let timer, timer.at <= at { return }
    timer?.task.cancel()
    let task = eventLoop.assumeIsolated().scheduleTask(deadline: at) { [weak self] in
      self?.timer = nil
      self?.advance()
    }
    timer = (at, task)
  }
}
