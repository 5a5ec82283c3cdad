import BatonProtocol
import BatonRedis
import BatonSession
import BatonStore
import NIOCore

/// Acts for one ``ResponseWriter`` on the event loop.
final class ResponseDriver {
  typealias Waiter = CheckedContinuation<Void, any Error>

  let keys: SessionKeys
  private(set) var inbox: InboxCursor
  private(set) var writer: ResponseWriter

  private let eventLoop: any EventLoop
  private let call: (AppendCall, SessionKeys, @escaping (Result<RESPReply, RedisError>) -> Void) -> Void
  private let messages: AsyncStream<DeviceMessage>.Continuation
  private var opening: [Waiter] = []
  private var ending: [Waiter] = []
  /// As many as there are callers of `append`, each with what it has.
  private var waiting: [(item: KeptItems.Item, waiter: Waiter)] = []
  private var timer: (at: NIODeadline, task: Scheduled<Void>)?

  init(
    writer: ResponseWriter, keys: SessionKeys, messages: AsyncStream<DeviceMessage>.Continuation,
    on eventLoop: any EventLoop,
    call: @escaping (AppendCall, SessionKeys, @escaping (Result<RESPReply, RedisError>) -> Void) -> Void
  ) {
    (self.writer, self.keys, self.messages, self.eventLoop, self.call) = (writer, keys, messages, eventLoop, call)
    inbox = InboxCursor(response: writer.response, opened: .zero)
  }

  var isOpen: Bool { writer.phase == .open }
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

  func append(_ item: KeptItems.Item, _ waiter: Waiter) {
    waiting.append((item, waiter))
    advance()
  }

  func end(_ state: ResponseState, _ fields: [Entry.Field], _ waiter: Waiter) {
    ending.append(waiter)
    writer.ended(state, fields, now: .now())
    advance()
  }

  func connected() {
    writer.connected(now: .now())
    advance()
  }

  func disconnected(_ error: RedisError) {
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
      if case .dropped = messages.yield(message) { false } else { true }
    }
  }

  private func advance() {
    let now = NIODeadline.now()
    while !waiting.isEmpty, writer.phase == .open, !writer.isEnding, writer.hasRoom {
      let (item, waiter) = waiting.removeFirst()
      writer.appended(item, now: now)
      waiter.resume()
    }
    if let next = writer.next(now: now) {
      call(next, keys) { [weak self] result in self?.answered(result) }
    }
    settle()
    schedule()
  }

  private func answered(_ result: Result<RESPReply, RedisError>) {
    let now = NIODeadline.now()
    switch result {
    case .success(let reply):
      if let reply = WriteReply(reply.elements?.compactMap(\.text) ?? []) {
        writer.replied(reply, now: now)
      } else {
        writer.failed(.refused("the script's answer has an unknown shape: \(reply)"))
      }
    case .failure(let error) where error.kind != .retry: writer.failed(.refused(error.description))
    case .failure(let error) where error.reason == .server || error.reason == .overloaded:
      writer.refused(error.description, now: now, random: .random(in: 0...1))
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
      if writer.isEnding { refuseWaiting(.stopped) }
    case .ended, .released:
      messages.finish()
      resume(&ending, .success(()))
      refuseWaiting(.stopped)
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
