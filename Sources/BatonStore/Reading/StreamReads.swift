import BatonProtocol
import BatonRedis
import BatonSession

/// How the state of a stream and a read of it are taken at one moment.
package enum Look: Sendable {
  case transaction
  /// A server that is full refuses even to queue reads (`OOM` to MULTI), but runs them in a script.
  case script
  /// Without either (a proxy that knows no MULTI): the state before and after, which must be the same.
  case twice

  private static let source = "return {redis.pcall('XINFO','STREAM',KEYS[1]),redis.pcall(unpack(ARGV))}"

  /// What is left where this form is refused.
  var next: Look? {
    switch self {
    case .transaction: .script
    case .script: .twice
    case .twice: nil
    }
  }

  package var commandCount: Int {
    switch self {
    case .transaction: 4
    case .script: 1
    case .twice: 3
    }
  }

  package func commands(key: String, _ name: String, _ arguments: [RedisCommand.Argument]) -> [RedisCommand] {
    switch self {
    case .transaction: [.multi, .xinfoStream(key), RedisCommand(name, arguments), .exec]
    case .script: [RedisCommand("EVAL", [.string(Look.source), 1, .string(key), .string(name)] + arguments)]
    case .twice: [.xinfoStream(key), RedisCommand(name, arguments), .xinfoStream(key)]
    }
  }

  /// Whether it is the form that was refused, and not the key or the commands in it.
  func isRefused(_ replies: ArraySlice<RESPReply>) -> Bool {
    switch self {
    case .transaction:
      replies.first?.error != nil || replies.last?.error != nil && replies.dropLast().allSatisfy { $0.error == nil }
        || replies.contains { $0.error?.meaning == .refusesWrites }
    case .script: replies.first?.error != nil
    case .twice: false
    }
  }

  /// XINFO's reply and the read's; nil where the stream has changed in between.
  package func results(
    _ replies: ArraySlice<RESPReply>
  ) throws(RedisError) -> (info: RESPReply, read: RESPReply)? {
    var results = Array(replies)
    switch self {
    case .transaction: results = try decodeExec(results)
    case .script:
      guard let elements = try replies.first?.accepted().elements else { throw .unexpectedReply("EVAL") }
      results = Array(elements)
    case .twice:
      if results.count == 3, results[0].description != results[2].description { return nil }
      results = Array(results.prefix(2))
    }
    guard results.count == 2 else { throw .unexpectedReply("EXEC") }
    return (results[0], results[1])
  }
}

extension RedisCommand {
  /// A read of nothing: it succeeds where reads do, also by the rights of this user.
  static func probe(_ key: String) -> RedisCommand {
    RedisCommand("XREAD", "COUNT", 1, "STREAMS", .string(key), "0-0")
  }
}

extension [TailRead] {
  /// What came of reads that shared a command, one by one.
  ///
  /// - Parameter keys: of their sessions.
  /// - Throws: the refusal of the command, which may be the fault of one of them.
  package func outcomes(
    _ reply: RESPReply, keys: [String], _ decoder: inout StreamDecoder, _ body: (TailRead, TailOutcome) -> Void
  ) throws(RedisError) {
    let streams = try reply.streams(keys)
    var (next, last) = (0, -1)
    for (index, entries) in streams {
      for read in self[next..<index] { body(read, .entries(overlap: nil, Entries(), info: nil, more: false)) }
      body(self[index], try self[index].outcome(entries, info: nil, &decoder))
      (next, last) = (index + 1, index)
    }
    // Nothing is known of what lies behind a cut.
    for read in self[next...] {
      body(read, reply.isCut && last < endIndex ? .again : .entries(overlap: nil, Entries(), info: nil, more: false))
    }
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
    let (info, xread): (StreamInfo?, RESPReply)
    switch try decoder.taken(replies, look ? form : nil, "XREAD") {
    case .wrongType: return .wrongType
    case .moved: return .again
    case .taken(let taken): (info, xread) = taken
    }
    guard let stream = try xread.streams([key]).first else {
      return .entries(overlap: nil, Entries(), info: info, more: false)
    }
    return try outcome(stream.entries, info: info, &decoder)
  }

  fileprivate func outcome(
    _ entries: RESPReply, info: StreamInfo?, _ decoder: inout StreamDecoder
  ) throws(RedisError) -> TailOutcome {
    let (overlap, entries, isCut) = try decoder.entries(entries, known: overlap)
    return .entries(
      overlap: overlap, entries, info: info, more: isCut || entries.count + (overlap == nil ? 0 : 1) >= count)
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

  package func reply(
    _ replies: [RESPReply], _ form: Look, _ budget: HistoryBudget, _ decoder: inout StreamDecoder
  ) throws(RedisError) -> PageReply {
    switch try decoder.taken(replies[...], look ? form : nil, "XRANGE") {
    case .wrongType: return .outcome(.wrongType, entries: 0, bytes: 0)
    case .moved: return .moved
    case .taken(let (info, range)):
      let (_, entries, isCut) = try decoder.entries(range)
      if isCut, !entries.contains(where: { isBeyond($0.id) }) { return .cut }
      let page = Page(
        info: info, entries: entries, more: isCut || entries.count >= count,
        charge: budget.charge(entries.keptBytes))
      return .outcome(.page(page), entries: entries.count, bytes: entries.bytes + 64 * entries.count)
    }
  }

  /// Whether the entry is one that was asked for, and not the one before.
  private func isBeyond(_ id: EntryID) -> Bool {
    switch span {
    case .after(let known): limit == 0 || id > known
    case .before(let known): limit == 0 || known.map { id < $0 } ?? true
    }
  }
}

/// What came of one page read.
package enum PageReply {
  case outcome(PageOutcome, entries: Int, bytes: Int)
  /// The reply was cut before anything that was asked for.
  case cut
  /// The stream has changed during the look: read again.
  case moved
}

extension StreamDecoder {
  fileprivate enum Taken {
    /// The stream's state, where it was asked for, and the read's reply.
    case taken((info: StreamInfo?, read: RESPReply))
    /// The stream has changed during the look.
    case moved
    case wrongType
  }

  fileprivate mutating func taken(
    _ replies: ArraySlice<RESPReply>, _ form: Look?, _ command: String
  ) throws(RedisError) -> Taken {
    guard let form else {
      guard let reply = replies.first else { throw .unexpectedReply(command) }
      return reply.error?.code == "WRONGTYPE" ? .wrongType : .taken((nil, try reply.accepted()))
    }
    guard let (info, read) = try form.results(replies) else { return .moved }
    guard let known = try self.info(info), read.error?.code != "WRONGTYPE" else { return .wrongType }
    return .taken((known, try read.accepted()))
  }
}
