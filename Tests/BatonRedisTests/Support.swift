import NIOCore
import NIOPosix
import Testing

@testable import BatonRedis

let loops = MultiThreadedEventLoopGroup.singleton

func connect(
  _ url: String, _ change: (inout RedisConnector.Options) -> Void = { _ in }
) async throws -> RedisConnection {
  var options = RedisConnector.Options()
  options.connectTimeout = .seconds(20)
  change(&options)
  return try await RedisConnector(RedisURL(url), options: options).connect(on: loops.next()).get()
}

extension RedisConnection {
  func ask(_ command: RedisCommand) async throws -> RESPReply { try await send(command, timeout: .seconds(30)) }

  func onLoop<T: Sendable>(_ body: @escaping @Sendable () -> T) async throws -> T {
    try await eventLoop.submit(body).get()
  }
}

/// All replies in `bytes`, fed in pieces.
func replies(_ bytes: [UInt8], limits: RESPLimits = RESPLimits(), pieces: (Int) -> Int = { $0 }) throws -> [RESPReply] {
  let reader = RESPReader(limits: limits)
  var all: [RESPReply] = []
  var rest = bytes[...]
  while !rest.isEmpty {
    let piece = rest.prefix(max(1, pieces(rest.count)))
    rest = rest.dropFirst(piece.count)
    try reader.read(ByteBuffer(bytes: piece)) { all.append($0) }
  }
  return all
}

func replies(_ text: String, limits: RESPLimits = RESPLimits()) throws -> [RESPReply] {
  try replies(Array(text.utf8), limits: limits)
}

func reply(_ text: String, limits: RESPLimits = RESPLimits()) throws -> RESPReply {
  try #require(try replies(text, limits: limits).first)
}
