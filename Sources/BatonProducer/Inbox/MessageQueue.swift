import NIOConcurrencyHelpers

/// Messages between an inbox and the app: so many inputs, and a cancel before them all.
final class MessageQueue: Sendable {
  /// Inputs that are held; the others wait in Redis.
  static let capacity = 64

  private struct State {
    var cancel: DeviceMessage?
    var inputs: [DeviceMessage] = []
    var isFinished = false
    var reader: CheckedContinuation<DeviceMessage?, Never>?
  }

  private let state = NIOLockedValueBox(State())

  var hasRoom: Bool { state.withLockedValue { $0.inputs.count < Self.capacity } }

  /// - Returns: false where an input has no room. A cancel always has; of several that wait one is told.
  func push(_ message: DeviceMessage) -> Bool {
    let (taken, reader) = state.withLockedValue { state -> (Bool, CheckedContinuation<DeviceMessage?, Never>?) in
      if state.isFinished { return (true, nil) }
      if let reader = state.reader.take() { return (true, reader) }
      if message.kind == .cancel {
        state.cancel = state.cancel ?? message
        return (true, nil)
      }
      guard state.inputs.count < Self.capacity else { return (false, nil) }
      state.inputs.append(message)
      return (true, nil)
    }
    reader?.resume(returning: message)
    return taken
  }

  /// What waits can still be read.
  func finish() {
    let reader = state.withLockedValue { state in
      state.isFinished = true
      return state.reader.take()
    }
    reader?.resume(returning: nil)
  }

  /// Nil at the end, and in a cancelled task. For one reader: a second one gets nil.
  func next() async -> DeviceMessage? {
    await withTaskCancellationHandler {
      await withCheckedContinuation { continuation in
        let isCancelled = Task.isCancelled
        let message = state.withLockedValue { state -> DeviceMessage?? in
          if let cancel = state.cancel.take() { return cancel }
          if !state.inputs.isEmpty { return state.inputs.removeFirst() }
          if state.isFinished || isCancelled || state.reader != nil { return .some(nil) }
          state.reader = continuation
          return nil
        }
        if let message { continuation.resume(returning: message) }
      }
    } onCancel: {
      state.withLockedValue { $0.reader.take() }?.resume(returning: nil)
    }
  }
}
