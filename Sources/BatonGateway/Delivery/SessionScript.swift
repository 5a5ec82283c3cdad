import BatonProtocol
import BatonRedis
import BatonSession
import BatonStore
import NIOCore

/// The atomic step on the node's connection for commands.
extension StreamStore {
  private static let script = RedisScript(AppendScript.source)
  /// A reply is due within this time.
  private static let patience = TimeAmount.seconds(5)

  /// On the store's event loop; answered there with the reply's strings.
  func run(
    _ call: AppendCall, _ session: SessionName, completion: @escaping (Result<[String], RedisError>) -> Void
  ) {
    guard let connection = commandConnection else { return completion(.failure(.connectionLost)) }
    let arguments = call.arguments(configuration.retention).map { argument -> RedisCommand.Argument in
      switch argument {
      case .string(let text): .string(text)
      case .bytes(let bytes): .bytes(bytes)
      }
    }
    connection.run(
      StreamStore.script, keys: SessionKeys(session, prefix: configuration.keyPrefix).all, arguments,
      deadline: .now() + StreamStore.patience
    ) { result in
      completion(
        result.flatMap { reply in
          guard let parts = reply.elements else { return .failure(.unexpectedReply("EVALSHA")) }
          return .success(parts.map { $0.text ?? "" })
        })
    }
  }

  /// From anywhere. Fails with a `Problem`.
  func run(_ call: AppendCall, _ session: SessionName) async throws -> [String] {
    do {
      return try await withCheckedThrowingContinuation { continuation in
        eventLoop.execute { self.run(call, session) { continuation.resume(with: $0) } }
      }
    } catch let error as RedisError {
      throw Problem(error, session)
    }
  }
}

extension Problem {
  init(_ error: RedisError, _ session: SessionName) {
    switch error.code {
    case "WRONGTYPE": self = .wrongType(session)
    case "OOM", "EXECABORT":
      self = Problem(
        .serviceUnavailable, "store-full", "Redis accepts no writes now (\(error.description)); nothing was appended."
      ).with(header: "Retry-After", "5")
    default: self = .storeUnavailable
    }
  }

  /// An answer of the script that it never gives.
  static let unexpectedAnswer = Problem(
    .internalServerError, "internal", "The append script answered in an unknown shape; is another version loaded?")
}
