/// What another machine is asked for: it is cancelled, and given up, where it takes longer.
///
/// - Throws: `failure` then; else as `work`.
func within<Value: Sendable>(
  _ time: Duration, or failure: any Error, _ work: @escaping @Sendable () async throws -> Value
) async throws -> Value {
  try await withThrowingTaskGroup(of: Value.self) { group in
    group.addTask(operation: work)
    group.addTask {
      try await Task.sleep(for: time)
      throw failure
    }
    defer { group.cancelAll() }
    guard let value = try await group.next() else { throw CancellationError() }
    return value
  }
}
