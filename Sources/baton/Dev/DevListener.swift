import Foundation
import HummingbirdCore
import Logging
import NIOConcurrencyHelpers
import NIOCore
import NIOPosix

/// The page's server. It listens before there is anything to serve, because others have to know its port.
struct DevListener: Sendable {
  let port: Int
  private let routes: NIOLockedValueBox<DevRoutes?>
  private let task: Task<Void, any Error>

  init(host: String, port: Int) async throws {
    let routes = NIOLockedValueBox<DevRoutes?>(nil)
    let (ports, continuation) = AsyncStream<Int>.makeStream()
    let server = Server(
      childChannelSetup: HTTP1Channel(
        responder: { request, writer, channel in
          guard let routes = routes.withLockedValue({ $0 }) else { throw ChannelError.ioOnClosedChannel }
          try await routes.respond(to: request, writer, channel)
        }, configuration: .init(idleTimeout: .seconds(60))),
      configuration: ServerConfiguration(address: .hostname(host, port: port)),
      onServerRunning: { continuation.yield($0.localAddress?.port ?? 0) },
      eventLoopGroup: MultiThreadedEventLoopGroup.singleton,
      logger: Logger(label: "dev") { _ in SwiftLogNoOpLogHandler() })
    let task = Task {
      do {
        try await server.run()
      } catch {
        continuation.finish()
        throw error
      }
    }
    var iterator = ports.makeAsyncIterator()
    guard let port = await iterator.next() else {
      let reason = await task.result
      throw DevFailure.configuration("can't listen on \(host):\(port): \(reason.failure.map { "\($0)" } ?? "")")
    }
    self.port = port
    self.routes = routes
    self.task = task
  }

  func serve(_ routes: DevRoutes) { self.routes.withLockedValue { $0 = routes } }

  func stop() { task.cancel() }
}

extension Result {
  fileprivate var failure: Failure? {
    if case .failure(let error) = self { error } else { nil }
  }
}
