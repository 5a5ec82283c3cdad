import BatonProtocol
import BatonRedis
import BatonSession

/// How the state of a stream and a read of it are taken at one moment.
package enum Look: Sendable {
  case transaction
  /// A server that is full refuses even to queue reads (`OOM` to MULTI), but runs them in a script.
  case script

  private static let source = "return {redis.pcall('XINFO','STREAM',KEYS[1]),redis.pcall(unpack(ARGV))}"

  package var commandCount: Int { self == .transaction ? 4 : 1 }

  package func commands(key: String, _ name: String, _ arguments: [RedisCommand.Argument]) -> [RedisCommand] {
    switch self {
    case .transaction: [.multi, .xinfoStream(key), RedisCommand(name, arguments), .exec]
    case .script:
      [RedisCommand("EVAL", [.string(Look.source), 1, .string(key), .string(name)] + arguments)]
    }
  }

  /// XINFO's reply and the read's.
  package func results(_ replies: ArraySlice<RESPReply>) throws(RedisError) -> (info: RESPReply, read: RESPReply) {
    var results: [RESPReply] = []
    switch self {
    case .transaction: results = try decodeExec(Array(replies))
    case .script:
      guard let elements = try replies.first?.accepted().elements else { throw .unexpectedReply("EVAL") }
      results = Array(elements)
    }
    guard results.count == 2 else { throw .unexpectedReply("EXEC") }
    return (results[0], results[1])
  }
}

extension TailRead {
  /// How many commands, and so replies, this read is.
  package func commandCount(_ form: Look) -> Int { look ? form.commandCount : 1 }

  package func commands(key: String, _ form: Look) -> [RedisCommand] {
    let arguments: [RedisCommand.Argument] = [
      "COUNT", .integer(Int64(count)), "STREAMS", .string(key), .string(after.description),
    ]
    return look ? form.commands(key: key, "XREAD", arguments) : [RedisCommand("XREAD", arguments)]
  }

  /// Throws what is no property of this key.
  package func outcome(
    _ replies: ArraySlice<RESPReply>, key: String, _ form: Look, _ decoder: inout StreamDecoder
  ) throws(RedisError) -> TailOutcome {
    guard let (info, xread) = try decoder.taken(replies, look ? form : nil, "XREAD") else { return .wrongType }
    guard let raw = try xread.decodedStreams([key]).first?.read else { return .entries([], info: info, more: false) }
    let (entries, isCut) = decoder.entries(raw)
    return .entries(entries, info: info, more: isCut || entries.count >= count)
  }
}

extension PageRequest {
  package func commands(key: String, _ form: Look) -> [RedisCommand] {
    let name: String
    let bounds: [String]
    switch span {
    case .after(let id): (name, bounds) = ("XRANGE", [id.description, "+"])
    case .before(let id): (name, bounds) = ("XREVRANGE", [id?.description ?? "+", "-"])
    }
    let arguments: [RedisCommand.Argument] = [
      .string(key), .string(bounds[0]), .string(bounds[1]), "COUNT", .integer(Int64(count)),
    ]
    return look ? form.commands(key: key, name, arguments) : [RedisCommand(name, arguments)]
  }

  package func outcome(
    _ replies: [RESPReply], _ form: Look, _ decoder: inout StreamDecoder
  ) throws(RedisError) -> PageOutcome {
    guard let (info, range) = try decoder.taken(replies[...], look ? form : nil, "XRANGE") else { return .wrongType }
    let (entries, isCut) = decoder.entries(try range.decodedEntries())
    return .page(Page(info: info, entries: entries, more: isCut || entries.count >= count))
  }
}

extension StreamDecoder {
  /// The stream's state, where it was asked for, and the read's reply; nil where the key holds another type.
  fileprivate mutating func taken(
    _ replies: ArraySlice<RESPReply>, _ form: Look?, _ command: String
  ) throws(RedisError) -> (info: StreamInfo?, read: RESPReply)? {
    guard let form else {
      guard let reply = replies.first else { throw .unexpectedReply(command) }
      return reply.error?.code == "WRONGTYPE" ? nil : (nil, reply)
    }
    let (info, read) = try form.results(replies)
    guard let known = try self.info(info), read.error?.code != "WRONGTYPE" else { return nil }
    return (known, read)
  }
}
