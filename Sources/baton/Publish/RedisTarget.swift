import BatonRedis
import BatonSession
import NIOCore
import NIOPosix

/// Appends straight to Redis.
actor RedisTarget: PublishTarget {
  private let connection: RedisConnection
  private let script = RedisScript(AppendScript.source)
  private let keys: SessionKeys
  private var write: ResponseWrite

  init(url: String, session: SessionName, prefix: String, response: String) async throws(PublishFailure) {
    keys = SessionKeys(session, prefix: prefix)
    let token = String(UInt64.random(in: 0 ... .max), radix: 36)
    write = ResponseWrite(response: response, epoch: 0, generation: nil, token: token, first: 1, items: [.start([])])
    do {
      connection = try await RedisConnector(RedisURL(url)).connect(on: MultiThreadedEventLoopGroup.singleton.any())
        .get()
    } catch {
      throw .redis(error)
    }
  }

  func open() async throws(PublishFailure) { try await send(AppendCall.open) }

  func append(_ delta: ByteBuffer) async throws(PublishFailure) {
    write.items = [.deltas([delta])]
    try await send(AppendCall.append)
  }

  func end(_ state: ResponseState, _ data: String?) async throws(PublishFailure) {
    write.items = [.end(state, data.map { [Entry.Field("data", $0)] } ?? [])]
    try await send(AppendCall.append)
  }

  private func send(_ call: (ResponseWrite) -> AppendCall) async throws(PublishFailure) {
    let reply: RESPReply
    do {
      let arguments = call(write).arguments(Retention()).map { argument -> RedisCommand.Argument in
        switch argument {
        case .string(let text): .string(text)
        case .bytes(let bytes): .bytes(bytes)
        }
      }
      reply = try await connection.run(script, keys: keys.all, arguments, timeout: .seconds(10))
    } catch {
      throw .redis(error)
    }
    switch WriteReply(reply.elements?.compactMap(\.text) ?? []) {
    case .written(let written):
      if write.epoch == 0 { write.first = written.n + 1 }
      (write.epoch, write.generation) = (written.epoch, written.generation)
      write.first += UInt64(write.items.reduce(0) { $0 + $1.count })
    case let refusal: throw .unavailable("the response was not appended to: \(String(describing: refusal))")
    }
  }
}

extension PublishFailure {
  static func redis(_ error: any Error) -> PublishFailure {
    guard let error = error as? RedisError else { return .unavailable("Redis: \(error)") }
    return switch error.kind {
    case .retry: .unavailable(error.description)
    case .configuration: .configuration(error.description)
    case .fault: .fault(error.description)
    }
  }
}
