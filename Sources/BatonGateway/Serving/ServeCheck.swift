import BatonRedis
import BatonStore
import NIOPosix

/// `baton serve --check`: tries everything that a gateway does in Redis, and says what is missing.
enum ServeCheck {
  /// - Returns: what to tell, and the process's exit status: 0 where nothing is missing, 78 where somebody must mend it,
  ///   69 where Redis can't be reached or can't answer now.
  static func run(_ configuration: GatewayConfiguration) async -> (lines: [String], status: Int32) {
    do {
      let connector = try RedisConnector(configuration.redis)
      let connection = try await connector.connect(on: MultiThreadedEventLoopGroup.singleton.next()).get()
      defer { connection.eventLoop.execute { connection.close() } }
      let refusals = try await StoreCheck.run(configuration.store, on: connection)
      guard !refusals.isEmpty else { return (["\(configuration.redis) lets this gateway do all that it needs"], 0) }
      let passes = refusals.allSatisfy { $0.error.kind == .retry }
      return (refusals.map { "\($0)" }, passes ? 69 : 78)
    } catch {
      let isMistake = (error as? RedisError)?.kind == .configuration
      return (["\(error)"], isMistake ? 78 : 69)
    }
  }
}
