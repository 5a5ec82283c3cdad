import BatonProtocol
import BatonSession
import BatonStore
import NIOCore

/// What append.lua does of that which a gateway's store asks for: `open`, `append`, `expire`, and `put` without an idempotency
/// key.
struct ModelAppendStep {
  let server: ModelRedisServer
  let keys: [String]
  let arguments: [ByteBuffer]

  func run() -> ModelReply {
    let words = arguments.map { $0.readableBytes < 256 ? String(buffer: $0) : "" }
    guard let operation = words.first else { return .error("ERR an argument is missing") }
    let types = ["stream", "hash", "stream", "hash"]
    for (index, key) in keys.prefix(operation == "append" ? 2 : 4).enumerated() {
      switch server.keys[key] {
      case nil: continue
      case .stream where types[index] == "stream": continue
      case .hash where types[index] == "hash": continue
      default: return .array([.text("wrong_type"), .text(key)])
      }
    }
    if server.keys[keys[0]] == nil, let known = server.hash(keys[1]), known.keys.contains(where: { !$0.hasPrefix("/") })
    {
      if let refused = server.writeRefusal { return .error(refused) }
      for key in keys { server.set(key, nil) }
      server.setField(keys[1], "/deleted", "\(server.now())")
    }
    switch operation {
    case "open", "append": return write(words, isOpening: operation == "open")
    case "expire": return expire(response: words[3], epoch: words[4], token: words[5])
    case "put": return put(words)
    default: return .error("ERR not modelled: \(operation)")
    }
  }

  private func record(_ response: String) -> ResponseRecord? {
    server.hash(keys[1])?[response].flatMap { ResponseRecord(String(buffer: $0)) }
  }

  private static func writer(_ token: String) -> Substring { token.prefix { $0 != "." } }

  private func write(_ words: [String], isOpening: Bool) -> ModelReply {
    let (response, token) = (words[3], words[6])
    guard var epoch = UInt64(words[4]), let first = UInt64(words[7]) else { return .error("ERR not a number") }
    let deleted = server.hash(keys[1])?["/deleted"].flatMap { UInt64(String(buffer: $0)) } ?? 0
    if let opened = UInt64(words[5]), deleted > opened { return .array([.text("deleted")]) }
    let known = record(response)
    if known == nil, !isOpening { return .array([.text("lost")]) }
    let isMine = known.map { Self.writer($0.token) == Self.writer(token) } ?? true
    if let known {
      if isOpening, epoch == 0 { epoch = isMine || known.state != .open ? known.epoch : known.epoch + 1 }
      if epoch < known.epoch || epoch == known.epoch && !isMine && known.state == .open {
        return .array([.text("fenced"), .text("\(known.epoch)")])
      }
    }
    epoch = max(epoch, 1)
    let had = known?.n ?? 0
    if first - 1 > had { return .array([.text("rewind"), .text("\(had)")]) }
    guard let new = entries(words, after: first - 1, had: had, isKnown: known != nil) else {
      return .error("ERR unknown kind of item")
    }
    var id = known?.id
    if let known, known.state != .open {
      guard isMine, epoch == known.epoch, new.n <= had, new.state == known.state else {
        return .array([.text("ended"), .text("\(had)"), .text(known.state.rawValue)])
      }
    } else {
      if let refused = server.writeRefusal { return .error(refused) }
      let isFirst = server.keys[keys[0]] == nil
      var entries = new.entries
      if known == nil, entries.isEmpty { entries = [Self.fields("event", "start", "response", response)] }
      for fields in entries { id = server.add(keys[0], fields)?.id }
      if isFirst { server.setField(keys[1], "/retention", "\(words[1].drop { $0 == "?" }) \(words[2]) producer") }
      let place = id?.description ?? "-"
      server.setField(
        keys[1], response, "\(epoch) \(new.n) \(new.state.rawValue) \(token) \(place) \(server.now())")
      if known?.token != token { server.renewed(keys[0], response) }
    }
    return .array(
      ["ok", "\(epoch)", "\(new.n)", new.state.rawValue, "\(deleted)", id?.description ?? "-", "0-0"].map { .text($0) })
  }

  private static func fields(_ words: String...) -> [ByteBuffer] { words.map { ByteBuffer(string: $0) } }

  /// What the items of a call add to a response that has `had` deltas; nil for an item of a kind that there is not.
  private func entries(
    _ words: [String], after position: UInt64, had: UInt64, isKnown: Bool
  ) -> (entries: [[ByteBuffer]], n: UInt64, state: ResponseState)? {
    var (position, at, entries, n, state) = (position, 8, [[ByteBuffer]](), had, ResponseState.open)
    let response = words[3]
    if let known = record(response) { state = known.state }
    func takeFields() -> ArraySlice<ByteBuffer> {
      let count = 2 * (Int(words[at]) ?? 0)
      defer { at += 1 + count }
      return arguments[(at + 1)..<(at + 1 + count)]
    }
    while at < words.count {
      let kind = words[at]
      at += 1
      switch kind {
      case "deltas":
        let count = Int(words[at]) ?? 0
        let there = n > position ? min(Int(n - position), count) : 0
        if count > there {
          var data = ByteBuffer()
          for delta in arguments[(at + 1 + there)..<(at + 1 + count)] { data.writeImmutableBuffer(delta) }
          var entry = Self.fields("response", response, "n", "\(position + UInt64(count))")
          if count > there + 1 { entry += Self.fields("joined", "\(count - there)") }
          entries.append(entry + Self.fields("data") + [data])
        }
        at += 1 + count
        position += UInt64(count)
      case "event":
        let fields = takeFields()
        position += 1
        if position > n { entries.append(Self.fields("response", response, "n", "\(position)") + fields) }
      case "start":
        let fields = takeFields()
        if !isKnown { entries.append(Self.fields("event", "start", "response", response) + fields) }
      case "end", "error", "cancelled":
        let fields = takeFields()
        if state == .open { entries.append(Self.fields("event", kind, "response", response) + fields) }
        state = ResponseState(rawValue: kind) ?? state
      default: return nil
      }
      n = max(n, position)
    }
    return (entries, n, state)
  }

  private func expire(response: String, epoch: String, token: String) -> ModelReply {
    let record = server.hash(keys[1])?[response].map { String(buffer: $0).split(separator: " ") } ?? []
    guard record.count == 6, record[2] == "open", record[0] == epoch, record[3] == token else {
      return .array([.text("changed")])
    }
    if let refused = server.writeRefusal { return .error(refused) }
    let fields = ["event", "error", "response", response, "data", "{\"reason\":\"producer_lost\"}"]
    guard let entry = server.add(keys[0], fields.map { ByteBuffer(string: $0) }) else { return .error("ERR id") }
    server.setField(keys[1], response, "\(epoch) \(record[1]) error - \(entry.id) \(server.now())")
    server.expired(keys[0], response)
    return .array([.text("ok"), .text(entry.id.description)])
  }

  private func put(_ words: [String]) -> ModelReply {
    if let refused = server.writeRefusal { return .error(refused) }
    let (place, scope) = (words[3], words[4])
    guard scope.isEmpty else { return .error("ERR not modelled: an idempotency key") }
    let fields = Array(arguments[9...])
    if place != "inbox", server.keys[keys[0]] == nil {
      let isGuest = words[1].hasPrefix("?")
      server.setField(
        keys[1], "/retention",
        "\(words[1].drop { $0 == "?" }) \(words[2]) \(isGuest ? "gateway" : "producer")")
    }
    let id = place == "inbox" ? nil : server.add(keys[0], fields)?.id
    var more: [ByteBuffer] = []
    for (name, value) in zip(["device", "subject", "key"], words[5...7]) where !value.isEmpty {
      more += [ByteBuffer(string: name), ByteBuffer(string: value)]
    }
    let inboxID = place == "stream" ? nil : server.add(keys[2], fields + more)?.id
    return .array([.text("ok"), .text(id?.description ?? "-"), .text(inboxID?.description ?? "-"), .text("new")])
  }
}
