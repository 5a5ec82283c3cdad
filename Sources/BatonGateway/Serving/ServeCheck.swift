import BatonRedis
import BatonStore
import NIOCore
import NIOPosix

/// `baton serve --check`: tries everything that a gateway does in Redis, on each master, and says what is missing.
enum ServeCheck {
  /// - Returns: what to tell, and the process's exit status: 0 where nothing is missing, 78 where somebody must mend it,
  ///   69 where Redis can't be reached or can't answer now.
  static func run(_ configuration: GatewayConfiguration) async -> (lines: [String], status: Int32) {
    do {
      let connector = try RedisConnector(configuration.redis)
      if configuration.redis.topology == .standalone {
        let connection = try await connector.connect(on: MultiThreadedEventLoopGroup.singleton.next()).get()
        defer { connection.eventLoop.execute { connection.close() } }
        return try await judged([("", "", connection)], configuration)
      }
      let masters = Masters(connector)
      defer { masters.stop() }
      return try await judged(masters.connected(prefix: configuration.keyPrefix), configuration)
    } catch {
      let isMistake = (error as? RedisError)?.kind == .configuration
      return (["\(error)"], isMistake ? 78 : 69)
    }
  }

  private typealias Master = (name: String, tag: String, connection: RedisConnection)

  private static func judged(
    _ masters: [Master], _ configuration: GatewayConfiguration
  ) async throws -> (lines: [String], status: Int32) {
    var (lines, passes): ([String], Bool) = ([], true)
    for (name, tag, connection) in masters {
      for refusal in try await StoreCheck.run(configuration.store, tag: tag, on: connection) {
        lines.append("\(name.isEmpty ? "" : "\(connection.address): ")\(refusal)")
        passes = passes && refusal.error.kind == .retry
      }
    }
    guard lines.isEmpty else { return (lines, passes ? 69 : 78) }
    return (["\(configuration.redis) lets this gateway do all that it needs"], 0)
  }

  /// The masters that Sentinels or a cluster name.
  private final class Masters: Sendable {
    /// For so long they are looked for.
    private static let patience = Duration.seconds(10)
    private let eventLoop: any EventLoop
    private let links: NIOLoopBoundBox<MasterLinks?>
    private let trouble: NIOLoopBoundBox<RedisError>

    init(_ connector: RedisConnector) {
      let eventLoop = MultiThreadedEventLoopGroup.singleton.next()
      self.eventLoop = eventLoop
      links = .makeEmptyBox(valueType: MasterLinks.self, eventLoop: eventLoop)
      trouble = .makeBoxSendingValue(.connectFailed("no master was found"), eventLoop: eventLoop)
      eventLoop.execute { [links, trouble] in
        links.value = MasterLinks(connector, on: eventLoop) { event in
          switch event {
          case .down(_, let failure): trouble.value = failure.error
          case .silent(let error): trouble.value = error
          case .up, .moved: break
          }
        }
        links.value?.start()
      }
    }

    func connected(prefix: String) async throws -> [Master] {
      let deadline = ContinuousClock.now + Self.patience
      while true {
        let found = try await eventLoop.submit { [links] () -> [Master]? in
          let masters = links.value?.masters(prefix: prefix) ?? []
          let connected = masters.compactMap { master, tag in
            links.value?.connection(to: master).map { (master, tag, $0) }
          }
          return masters.isEmpty || connected.count < masters.count ? nil : connected
        }.get()
        if let found { return found }
        if ContinuousClock.now >= deadline { throw try await eventLoop.submit { [trouble] in trouble.value }.get() }
        try await Task.sleep(for: .milliseconds(20))
      }
    }

    func stop() { eventLoop.execute { [links] in links.value?.stop() } }
  }
}
