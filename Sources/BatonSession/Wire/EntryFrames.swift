import BatonProtocol
import NIOCore

/// Turns entries into frames, one JSON object each (PROTOCOL 4), joining adjacent deltas where that is wanted.
package enum EntryFrames {
  /// UTF-8 data that a joined frame holds at the most.
  package static let maxJoinedBytes = 64 * 1024

  /// Calls `emit` once a frame, in stream order, with the frame's JSON and the entry that ends it.
  package static func encode(
    _ entries: some Collection<Entry>, joined: Bool, emit: (ByteBuffer, Entry) -> Void
  ) {
    var scratch = ByteBuffer()
    runs(entries, joined: joined) { run, last, deltas in
      scratch.clear()
      var json = JSONWriter(into: scratch)
      write(last, deltas: deltas, run, into: &json)
      scratch = json.buffer
      emit(scratch, last)
    }
  }

  /// Calls `body` once a frame with the entries it stands for, the last of them and the number of their deltas.
  package static func runs<Entries: Collection<Entry>>(
    _ entries: Entries, joined: Bool, _ body: (Entries.SubSequence, Entry, UInt64) -> Void
  ) {
    var index = entries.startIndex
    while index != entries.endIndex {
      var last = entries[index]
      var end = entries.index(after: index)
      var deltas = last.joined
      if joined, case .text(let text) = last.payload {
        var bytes = text.readableBytes
        while end != entries.endIndex, last.joins(entries[end]), case .text(let more) = entries[end].payload,
          bytes + more.readableBytes <= maxJoinedBytes
        {
          bytes += more.readableBytes
          last = entries[end]
          deltas += last.joined
          end = entries.index(after: end)
        }
      }
      body(entries[index..<end], last, deltas)
      index = end
    }
  }

  /// One entry, not joined to any other.
  package static func write(_ entry: Entry, into json: inout JSONWriter) {
    write(entry, deltas: entry.joined, CollectionOfOne(entry), into: &json)
  }

  private static func write(
    _ entry: Entry, deltas: UInt64, _ parts: some Collection<Entry>, into json: inout JSONWriter
  ) {
    if entry.payload == .tooBig {
      json.object { json in
        json.member("type", "skipped")
        json.member("offset", entry.offset.description)
        json.member("reason", "too_big")
        json.member("bytes", entry.bytes)
      }
      return
    }
    json.object { json in
      json.member("id", entry.offset.description)
      json.member("event", entry.event)
      if let response = entry.response { json.member("response", response) }
      if let n = entry.n { json.member("n", n) }
      if deltas > 1 { json.member("joined", deltas) }
      switch entry.payload {
      case .none, .tooBig: break
      case .binary(let bytes):
        json.name("data64")
        json.value(base64: bytes)
      case .text(let bytes):
        json.name("data")
        if parts.count == 1 {
          json.value(utf8: bytes)
        } else {
          json.joinedValue { append in
            for part in parts { if case .text(let bytes) = part.payload { append(bytes) } }
          }
        }
      }
      if !entry.fields.isEmpty {
        json.name("fields")
        fields(entry.fields, into: &json)
      }
    }
  }

  private static func fields(_ fields: [Entry.Field], into json: inout JSONWriter) {
    var order: [ByteBuffer] = []
    var values: [ByteBuffer: [ByteBuffer]] = [:]
    for field in fields {
      if values[field.name] == nil { order.append(field.name) }
      values[field.name, default: []].append(field.value)
    }
    json.object { json in
      for name in order {
        if UTF8Check.isValid(name) {
          json.name(String(buffer: name))
        } else {
          var encoded = ByteBuffer(string: "base64:")
          encoded.writeBase64(name)
          json.name(String(buffer: encoded))
        }
        let all = values[name] ?? []
        if all.count == 1 {
          value(all[0], into: &json)
        } else {
          json.array { json in for one in all { value(one, into: &json) } }
        }
      }
    }
  }

  private static func value(_ value: ByteBuffer, into json: inout JSONWriter) {
    if UTF8Check.isValid(value) {
      json.value(utf8: value)
    } else {
      json.object { json in
        json.name("base64")
        json.value(base64: value)
      }
    }
  }
}
