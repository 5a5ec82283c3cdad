import BatonProtocol
import BatonRedis

/// The questions of a session that are being asked, or wait until nothing is answered there any more: a hash beside the
/// stream, which vanishes with them (PROTOCOL 9, `--on-busy`). Who is in it says so again and again.
package struct QuestionLine: Sendable, Equatable {
  package enum State: String, Sendable { case waiting, asked }

  package enum Step: Sendable {
    /// Takes the last place, or keeps the one that it has; at most `most` questions may be there.
    case keep(String, State, most: Int)
    case leave(String)
    case look
  }

  package struct Question: Sendable, Equatable {
    /// The response's name.
    package let response: String
    package let state: State
  }

  /// Who has said nothing for so long is gone. Milliseconds.
  static let patienceMs = 10_000
  /// How often one that waits for its upstream says that it is there.
  package static let interval = Duration.milliseconds(patienceMs / 4)

  private static let script = """
    local op, response, state, most, patience = unpack(ARGV)
    local time = redis.call('TIME')
    local now = time[1] * 1000 + math.floor(time[2] / 1000)
    local there, last, own = {}, 0, nil
    for _, name in ipairs(redis.call('HKEYS', KEYS[1])) do
      local ticket, seen, is = string.match(redis.call('HGET', KEYS[1], name), '^(%d+) (%d+) (%a+)$')
      ticket = tonumber(ticket)
      if name == response then
        own = op == 'keep' and ticket
        if not own then redis.call('HDEL', KEYS[1], name) end
      elseif not ticket or now - seen > tonumber(patience) then
        redis.call('HDEL', KEYS[1], name)
      else
        there[#there + 1] = { ticket, name, is }
      end
      if ticket then last = math.max(last, ticket) end
    end
    if op == 'keep' then
      if not own and #there >= tonumber(most) then return { 'full' } end
      own = own or last + 1
      redis.call('HSET', KEYS[1], response, string.format('%.0f %.0f %s', own, now, state))
      redis.call('PEXPIRE', KEYS[1], patience)
      there[#there + 1] = { own, response, state }
    end
    table.sort(there, function(a, b) return a[1] < b[1] end)
    local told = { 'ok' }
    for _, one in ipairs(there) do
      told[#told + 1] = one[2]
      told[#told + 1] = one[3]
    end
    return told
    """

  /// In the order in which they came.
  package private(set) var questions: [Question] = []

  /// Those that came before it.
  package func ahead(of response: String) -> [String] {
    questions.prefix { $0.response != response }.map(\.response)
  }

  package func has(_ response: String) -> Bool { questions.contains { $0.response == response } }

  static func command(_ step: Step, _ session: SessionName, prefix: String) -> RedisCommand {
    let words: [String] =
      switch step {
      case .keep(let response, let state, let most): ["keep", response, state.rawValue, "\(most)"]
      case .leave(let response): ["leave", response, "", "0"]
      case .look: ["look", "", "", "0"]
      }
    let key = SessionKeys(session, prefix: prefix).questions
    return RedisCommand("EVAL", ([script, "1", key] + words + ["\(patienceMs)"]).map { .string($0) })
  }

  /// Nil: there is no room for one more.
  init?(_ reply: RESPReply) throws(RedisError) {
    guard var words = try reply.accepted().elements, let first = words.next()?.text else {
      throw .unexpectedReply("EVAL")
    }
    if first == "full" { return nil }
    while let response = words.next()?.text, let state = words.next()?.text.flatMap(State.init(rawValue:)) {
      questions.append(Question(response: response, state: state))
    }
  }
}

extension SessionStoring {
  /// - Returns: all questions that are there; nil: there is no room for one more.
  /// - Throws: ``RedisError``.
  package func line(
    _ step: QuestionLine.Step, in session: SessionName, keyPrefix: String
  ) async throws -> QuestionLine? {
    let replies = try await send([QuestionLine.command(step, session, prefix: keyPrefix)], of: session)
    guard let reply = replies.first else { throw RedisError.unexpectedReply("EVAL") }
    return try QuestionLine(reply)
  }
}
