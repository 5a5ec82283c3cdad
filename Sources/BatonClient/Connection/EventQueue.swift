import NIOConcurrencyHelpers

/// Events between the connection and the app, bounded in bytes: when it is full the connection is not read.
final class EventQueue: Sendable {
  typealias Event = SessionAttachment.Event
  typealias Rejection = SessionAttachment.Rejection
  private typealias Reader = CheckedContinuation<Result<Event?, Rejection>, Never>

  private struct State {
    var events: [(event: Event, bytes: Int)] = []
    var head = 0
    var bytes = 0
    var isFull = false
    var end: Result<Void, Rejection>?
    var reader: Reader?

    mutating func pop() -> Event? {
      guard head < events.count else { return nil }
      let (event, size) = events[head]
      head += 1
      bytes -= size
      if head == events.count {
        events.removeAll(keepingCapacity: true)
        head = 0
      } else if head >= 64, head * 2 >= events.count {
        events.removeFirst(head)
        head = 0
      }
      return event
    }
  }

  private let state = NIOLockedValueBox(State())
  private let maxBytes: Int
  private let drained: @Sendable () -> Void

  /// - Parameters:
  ///   - maxBytes: from which on it is full; one event may go beyond. It is drained at a half.
  ///   - drained: called when it was full and is no longer; on any thread.
  init(maxBytes: Int, drained: @escaping @Sendable () -> Void) {
    self.maxBytes = maxBytes
    self.drained = drained
  }

  var isFull: Bool { state.withLockedValue { $0.isFull } }
  var bytes: Int { state.withLockedValue { $0.bytes } }

  func push(_ event: Event, bytes: Int) {
    let reader = state.withLockedValue { state -> Reader? in
      guard state.end == nil else { return nil }
      if let reader = state.reader.take() { return reader }
      state.events.append((event, bytes))
      state.bytes += bytes
      state.isFull = state.isFull || state.bytes >= maxBytes
      return nil
    }
    reader?.resume(returning: .success(event))
  }

  /// What was pushed can still be read.
  func finish(_ end: Result<Void, Rejection>) {
    let reader = state.withLockedValue { state -> Reader? in
      guard state.end == nil else { return nil }
      state.end = end
      return state.reader.take()
    }
    reader?.resume(returning: end.map { nil })
  }

  /// Nil after the end, and in a cancelled task.
  ///
  /// - Throws: why the attachment ended, once.
  func next() async throws(Rejection) -> Event? {
    let result = await withTaskCancellationHandler {
      await withCheckedContinuation { (continuation: Reader) in
        take(continuation)
      }
    } onCancel: {
      state.withLockedValue { $0.reader.take() }?.resume(returning: .success(nil))
    }
    return try result.get()
  }

  private func take(_ continuation: Reader) {
    let isCancelled = Task.isCancelled
    let (result, wasDrained) = state.withLockedValue { state -> (Result<Event?, Rejection>?, Bool) in
      if let event = state.pop() {
        guard state.isFull, state.bytes <= maxBytes / 2 else { return (.success(event), false) }
        state.isFull = false
        return (.success(event), true)
      }
      if let end = state.end {
        state.end = .success(())
        return (end.map { nil }, false)
      }
      // A second reader at the same time gets nothing.
      if isCancelled || state.reader != nil { return (.success(nil), false) }
      state.reader = continuation
      return (nil, false)
    }
    if wasDrained { drained() }
    if let result { continuation.resume(returning: result) }
  }
}
