import HTTPTypes
import HummingbirdCore
import NIOConcurrencyHelpers
import NIOCore

extension Routes {
  /// How often it is looked whether a body has to give way.
  private static let glance = Duration.milliseconds(250)

  /// A JSON body, whole. It is in the call's memory until something else is.
  func body(_ call: Call) async throws -> ByteBuffer {
    let tooLarge = Problem(
      .payloadTooLarge, "body-too-large",
      "The body may have \(limits.maxBodyBytes) bytes; large content belongs beside the stream, with a link in the entry."
    )
    if let length = call.request.headers[.contentLength].flatMap({ Int($0) }), length > limits.maxBodyBytes {
      throw tooLarge
    }
    let maxBytes = limits.maxBodyBytes
    let watch = NIOLockedValueBox(BodyWatch(limits, now: .now))
    return try await withThrowingTaskGroup(of: ByteBuffer.self) { group in
      group.addTask {
        var all = ByteBuffer()
        do {
          for try await piece in call.body {
            watch.withLockedValue { $0.heard(piece.readableBytes, at: .now) }
            guard all.readableBytes + piece.readableBytes <= maxBytes else { throw tooLarge }
            try await call.gathered.hold(all.readableBytes + piece.readableBytes)
            all.writeImmutableBuffer(piece)
          }
        } catch let problem as Problem {
          throw problem
        } catch {
          throw Problem.bodyCut
        }
        try Task.checkCancellation()
        return all
      }
      group.addTask {
        while true {
          let (deadline, problem) = watch.withLockedValue { $0.deadline }
          if deadline <= .now { throw problem }
          if call.gathered.givesWay { throw Problem.shortOfMemory }
          try await Task.sleep(until: min(deadline, .now + Self.glance))
        }
      }
      defer { group.cancelAll() }
      guard let all = try await group.next() else { throw Problem.bodyCut }
      return all
    }
  }
}

/// When a JSON body is given up unless more of it comes.
private struct BodyWatch {
  private let limits: HTTPLimits
  private let began: ContinuousClock.Instant
  private var last: ContinuousClock.Instant
  private var bytes = 0

  init(_ limits: HTTPLimits, now: ContinuousClock.Instant) {
    self.limits = limits
    (began, last) = (now, now)
  }

  mutating func heard(_ count: Int, at now: ContinuousClock.Instant) {
    bytes += count
    last = now
  }

  var deadline: (ContinuousClock.Instant, Problem) {
    func time(_ amount: TimeAmount) -> Duration { .nanoseconds(amount.nanoseconds) }
    let (silence, most) = (time(limits.idleTimeout), time(limits.maxBodyTime))
    let slow = time(limits.headerTimeout) + .seconds(1) * bytes / limits.minBodyRate
    return [
      (last + silence, Problem.bodyTimeout(silence, "--idle-timeout")),
      (began + most, .bodyTime(most, "--max-body-time", .bodyTime)),
      (began + slow, .bodyTooSlow(limits.minBodyRate)),
    ].min { $0.0 < $1.0 } ?? (last + silence, .bodyCut)
  }
}
