import BatonProtocol
import BatonRedis
import NIOCore

/// Writes to sessions, by the atomic step, and reads what belongs to writing.
final class CommandLink {
  private static let script = RedisScript(AppendScript.source)
  /// A reply is due within this time.
  private static let patience = TimeAmount.seconds(5)

  private let eventLoop: any EventLoop
  private let configuration: StoreConfiguration
  private var link: RedisLink?

  init(
    _ configuration: StoreConfiguration, connector: RedisConnector, on eventLoop: any EventLoop,
    changed: @escaping (_ isUp: Bool) -> Void
  ) {
    (self.eventLoop, self.configuration) = (eventLoop, configuration)
    link = RedisLink(connector, on: eventLoop, setUp: ping) { event in
      if case .up = event { changed(true) } else { changed(false) }
    }
  }

  func start() { link?.start() }
  func stop() { link?.stop() }
  var isUp: Bool { link?.connection != nil }

  /// Answered with the reply's strings.
  func run(_ call: AppendCall, _ session: SessionName, completion: @escaping (Result<[String], RedisError>) -> Void) {
    guard let connection = link?.connection else { return completion(.failure(.connectionLost)) }
    let arguments = call.arguments(configuration.retention).map { argument -> RedisCommand.Argument in
      switch argument {
      case .string(let text): .string(text)
      case .bytes(let bytes): .bytes(bytes)
      }
    }
    connection.run(
      CommandLink.script, keys: SessionKeys(session, prefix: configuration.keyPrefix).all, arguments,
      deadline: eventLoop.now + CommandLink.patience
    ) { result in
      completion(
        result.flatMap { reply in
          guard let parts = reply.elements else { return .failure(.unexpectedReply("EVALSHA")) }
          return .success(parts.map { $0.text ?? "" })
        })
    }
  }

  /// Answered with a reply for each command, refusals among them.
  func send(_ commands: [RedisCommand], completion: @escaping (Result<[RESPReply], RedisError>) -> Void) {
    guard let connection = link?.connection else { return completion(.failure(.connectionLost)) }
    connection.send(commands, deadline: eventLoop.now + CommandLink.patience, completion: completion)
  }
}
