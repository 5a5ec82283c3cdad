import BatonClient
import BatonGateway
import BatonProtocol
import BatonRedis
import BatonRelay
import BatonSession
import BatonStore
import NIOCore

/// A stream's entries: whatever anybody has written, what devices are sent of it is JSON.
///
/// An input is entries between group separators (1D), fields between record separators (1E), each a name, a unit
/// separator (1F) and a value.
enum EntryChecks {
  static func check(_ input: [UInt8]) throws {
    let groups = input.split(separator: 0x1D).prefix(50)
    var reply = Array("*\(groups.count)\r\n".utf8)
    for (index, group) in groups.enumerated() {
      let fields = group.split(separator: 0x1E).map {
        $0.split(separator: 0x1F, maxSplits: 1, omittingEmptySubsequences: false)
      }
      reply += Array("*2\r\n".utf8) + bulk("7-\(index + 1)".utf8) + Array("*\(fields.count * 2)\r\n".utf8)
      for field in fields { reply += bulk(field[0]) + bulk(field.count > 1 ? field[1] : []) }
    }
    var limits = RESPLimits()
    limits.maxEntryBytes = 1000
    var result: Result<Void, any Error> = .success(())
    try RESPReader(limits: limits).read(ByteBuffer(bytes: reply)) { reply in
      result = Result { try check(reply, count: groups.count) }
    }
    try result.get()
  }

  private static func bulk(_ bytes: some Collection<UInt8>) -> [UInt8] {
    Array("$\(bytes.count)\r\n".utf8) + bytes + Array("\r\n".utf8)
  }

  private static func check(_ reply: RESPReply, count: Int) throws {
    var decoder = StreamDecoder(maxEntryBytes: 1000)
    let entries = try decoder.entries(reply).entries
    try require(entries.count == count, "\(entries.count) entries of \(count)")
    for joined in [false, true] {
      var frames: [ByteBuffer] = []
      EntryFrames.encode(entries, joined: joined) { bytes, _ in frames.append(bytes) }
      try require(joined || frames.count == count, "\(frames.count) frames of \(count) entries")
      for frame in frames {
        try require(JSONValue(frame)?.members != nil, "a frame that is no JSON: \(String(buffer: frame))")
        let read = try SessionAttachment.Frame(json: String(buffer: frame))
        switch read.kind {
        case .entry, .skipped: break
        default: throw Finding(description: "a frame that clients don't know: \(String(buffer: frame))")
        }
      }
      let head = EntryFrames.Head(
        length: { _ in 4 }, write: { $1.storeBytes(of: UInt32(truncatingIfNeeded: $0).bigEndian, as: UInt32.self) })
      var expected = ByteBuffer()
      for var frame in frames {
        expected.writeInteger(UInt32(truncatingIfNeeded: frame.readableBytes))
        expected.writeBuffer(&frame)
      }
      try require(EntryFrames.bytes(entries, joined: joined, head) == expected, "frames that differ side by side")
    }
    try check(wires: entries)
  }

  private static func check(wires entries: Entries) throws {
    var (responses, others, fold) = (ResponsesWire(), ResponseEvents(id: "r1"), ResponseFold())
    var (chat, messages) = (ChatWire(), UIMessageWire())
    for entry in entries {
      for event in others.take(entry) + [responses.event(RelayedEntry(entry))].compactMap({ $0 }) {
        let json = event.json
        try require(JSONValue(ByteBuffer(string: json.json)) != nil, "an event that is no JSON: \(json.json)")
        var bytes = ByteBuffer()
        event.write(into: &bytes)
        let told = "event: \(ResponseEvent.name(json))\ndata: \(json.json)\n\n"
        try require(String(buffer: bytes) == told, "an event is written in two ways: \(String(buffer: bytes))")
        try require(told.split(separator: "\n").count == 2, "an event of several lines: \(told)")
        fold.take(json)
      }
      if let chunk = chat.chunk(RelayedEntry(entry)) {
        try require(JSONValue(ByteBuffer(string: chunk.json)) != nil, "a chunk that is no JSON: \(chunk.json)")
      }
      var bytes = ByteBuffer()
      messages.write(entry, into: &bytes)
      for line in bytes.readableBytesView.split(separator: UInt8(ascii: "\n")) {
        let data = ByteBuffer(bytes: line.dropFirst(6))
        try require(
          line.starts(with: "data: ".utf8) && (data == ByteBuffer(string: "[DONE]") || JSONValue(data) != nil),
          "a UI message chunk that is no JSON: \(String(decoding: line, as: UTF8.self))")
      }
    }
    _ = fold.object?.json
  }
}

/// Replies, whatever a server sends.
enum RESPChecks {
  static func check(_ input: [UInt8]) throws {
    var limits = RESPLimits()
    (limits.maxBulkBytes, limits.maxEntryBytes, limits.maxEntryFields) = (60, 100, 5)
    (limits.maxReplyBytes, limits.maxElements) = (400, 100)
    let runs = input.cuts.map { pieces in
      let reader = RESPReader(limits: limits)
      var seen: [String] = []
      for piece in pieces {
        do {
          try reader.read(ByteBuffer(bytes: piece)) { reply in
            seen.append(reply.description)
            decode(reply)
          }
        } catch {
          // Which rule it breaks first may differ.
          seen.append("!")
          break
        }
      }
      return seen
    }
    for run in runs.dropFirst() { try require(run == runs[0], "reads \(run) in pieces, \(runs[0]) at once") }
  }

  private static func decode(_ reply: RESPReply) {
    var decoder = StreamDecoder(maxEntryBytes: 80)
    _ = try? decoder.entries(reply)
    _ = try? decoder.info(reply)
    _ = try? reply.decodedStreams(["a", "b"])
    _ = try? reply.decodedEntries()
    _ = try? reply.decodedID()
    _ = try? reply.decodedInfo()
    _ = try? reply.decodedTime()
    _ = reply.error?.description
    _ = RedisInvalidation(reply)
    guard var elements = reply.elements else { return }
    while let element = elements.next() { _ = try? element.decodedEntries() }
  }
}

/// What nodes of a cluster say of each other, and addresses.
enum TopologyChecks {
  static func check(_ input: [UInt8]) throws {
    let text = String(decoding: input, as: UTF8.self)
    if let url = try? RedisURL(text), let password = url.password, password.count > 7 {
      if case .tcp(let host, _) = url.address {
        try require(!host.unicodeScalars.contains("@"), "takes a part of the login for the host")
      }
      let others = "\(url.username ?? "") \(url.address) \(url.seeds) \(url.topology)"
      try require(others.contains(password) || !url.description.contains(password), "shows a password")
    }
    var result: Result<Void, any Error> = .success(())
    let bulk = Array("$\(input.count)\r\n".utf8) + input + Array("\r\n".utf8)
    try RESPReader().read(ByteBuffer(bytes: bulk)) { reply in
      result = Result {
        guard let view = try? ClusterView(reply, asked: .tcp(host: "127.0.0.1", port: 7000), usesTLS: false) else {
          return
        }
        for slots in view.nodes.flatMap(\.slots) {
          try require((0..<RedisSlot.count).contains(slots.upperBound) && slots.lowerBound >= 0, "the slots \(slots)")
        }
      }
    }
    try result.get()
    try require((0..<RedisSlot.count).contains(RedisSlot.of(text)), "the slot of \(text)")
  }
}

/// What a gateway, or who passes for one, sends a client.
enum ClientChecks {
  static func check(_ input: [UInt8]) throws {
    let text = String(decoding: input, as: UTF8.self)
    guard let frame = try? SessionAttachment.Frame(json: text) else { return }
    if case .entry(let entry) = frame.kind {
      try require(
        entry.joined >= 1 && entry.n.map { $0 >= 1 } ?? true, "an entry of \(entry.joined) at \(entry.n ?? 0)")
    }
  }
}
