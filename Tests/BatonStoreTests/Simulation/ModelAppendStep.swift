import BatonProtocol
import BatonStore
import NIOCore

/// What append.lua does of that which a gateway's store asks for: the probe at a set-up, `expire`, and `put` without an
/// idempotency key.
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
    case "append": return server.hash(keys[1])?[words[3]] == nil ? .array([.text("lost")]) : .error("ERR not modelled")
    case "expire": return expire(response: words[3], epoch: words[4], token: words[5])
    case "put": return put(words)
    default: return .error("ERR not modelled: \(operation)")
    }
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
