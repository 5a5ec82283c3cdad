import BatonProtocol
import BatonRedis

extension SessionStoring {
  /// The id that a response has at the model server which keeps it: a hidden field of entries that the relay has appended,
  /// looked for from the response's last one backwards. Nil where none is found, within 20,000 entries.
  /// - Throws: ``RedisError``.
  package func upstreamID(
    of response: String, in session: SessionName, keyPrefix: String
  ) async throws -> String? {
    guard let last = try await record(of: response, in: session)?.id else { return nil }
    let key = SessionKeys(session, prefix: keyPrefix).stream
    var (place, count, looked) = ("\(last)", 16, 0)
    while looked < 20_000 {
      let command = RedisCommand(
        "XREVRANGE", .string(key), .string(place), "-", "COUNT", .integer(Int64(count)))
      guard let reply = try await send([command], of: session).first else { return nil }
      let page = try reply.accepted().decodedEntries("XREVRANGE")
      for entry in page.entries {
        let fields = entry.texts(of: ["response", "event", "_upstream"])
        guard fields["response"] == response else { continue }
        if let id = fields["_upstream"] { return id }
        if fields["event"] == "start" { return nil }
      }
      guard let first = page.entries.last, page.isCut || page.entries.count == count else { return nil }
      looked += page.entries.count
      place = "(\(EntryID(first.id.milliseconds, first.id.sequence))"
      count = 128
    }
    return nil
  }
}

extension RawEntry {
  /// Of these fields; of one that comes twice the first.
  fileprivate func texts(of names: Set<String>) -> [String: String] {
    var texts: [String: String] = [:]
    for (name, value) in fields {
      let name = String(buffer: name)
      if names.contains(name), texts[name] == nil { texts[name] = String(buffer: value) }
    }
    return texts
  }
}
