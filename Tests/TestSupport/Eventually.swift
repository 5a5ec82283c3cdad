/// Something was waited for, and did not happen in time.
package struct NeverHappened: Error, CustomStringConvertible {
  package let description: String

  package init(_ description: String) { self.description = description }
}

/// Waits for a value, two minutes at the most.
@discardableResult
package func eventually<Value>(
  _ what: String = "the condition", _ value: () async throws -> Value?
) async throws -> Value {
  let deadline = ContinuousClock.now + .seconds(120)
  while true {
    if let value = try await value() { return value }
    guard ContinuousClock.now < deadline else { throw NeverHappened("\(what): not within two minutes") }
    try await Task.sleep(for: .milliseconds(2))
  }
}

/// Waits until something holds, two minutes at the most.
package func eventually(_ what: String = "the condition", holds: () async throws -> Bool) async throws {
  try await eventually(what) { try await holds() ? true : nil }
}
