import NIOCore

/// Runs tasks on an event loop: what is read and written there needs no other thread.
@available(macOS 15, iOS 18, *)
final class EventLoopTaskExecutor: TaskExecutor {
  private let eventLoop: any EventLoop

  init(_ eventLoop: any EventLoop) { self.eventLoop = eventLoop }

  func enqueue(_ job: consuming ExecutorJob) {
    let job = UnownedJob(job)
    eventLoop.execute { [self] in job.runSynchronously(on: asUnownedTaskExecutor()) }
  }
}

/// On the event loop, where the system can do that.
func run(on eventLoop: any EventLoop, _ body: () async throws -> Void) async throws {
  if #available(macOS 15, iOS 18, *) {
    try await withTaskExecutorPreference(EventLoopTaskExecutor(eventLoop), operation: body)
  } else {
    try await body()
  }
}
