import NIOCore

/// Turns entries into frames, one JSON object each (PROTOCOL 4), joining adjacent deltas where that is wanted.
package enum EntryFrames {
  /// UTF-8 data that a joined frame holds at the most.
  package static let maxJoinedBytes = 64 * 1024

  /// Calls `body` once a frame with the entries it stands for, the last of them and the number of their deltas.
  package static func runs(_ entries: Entries, joined: Bool, _ body: (Entries, Entry, UInt64) -> Void) {
    frames(entries, joined: joined) { frame in
      body(entries[frame.range], entries[frame.range.upperBound - 1], frame.deltas)
    }
  }

  /// Calls `body` once a frame.
  package static func frames(_ entries: Entries, joined: Bool, _ body: (EntryFrame) -> Void) {
    var index = entries.startIndex
    while index < entries.endIndex {
      let first = index
      var (deltas, bytes) = entries.arena.withContents { records, bytes in
        (Entry.joined(records[first], bytes), Int(records[first].dataLength))
      }
      index += 1
      while joined, index < entries.endIndex, entries.joinsNext(index - 1) {
        let (more, length) = entries.arena.withContents { records, bytes in
          (Entry.joined(records[index], bytes), Int(records[index].dataLength))
        }
        if bytes + length > maxJoinedBytes { break }
        bytes += length
        deltas += more
        index += 1
      }
      body(EntryFrame(arena: entries.arena, range: first..<index, deltas: deltas))
    }
  }

  /// What stands in front of a frame's JSON, such as a WebSocket frame's header.
  package struct Head: Sendable {
    /// Its bytes, by those of the JSON.
    let length: @Sendable (Int) -> Int
    /// Writes it into memory of that length.
    let write: @Sendable (Int, UnsafeMutableRawBufferPointer) -> Void

    package init(
      length: @escaping @Sendable (Int) -> Int, write: @escaping @Sendable (Int, UnsafeMutableRawBufferPointer) -> Void
    ) {
      (self.length, self.write) = (length, write)
    }
  }

  /// All frames in stream order, each behind its head.
  package static func bytes(_ entries: Entries, joined: Bool, _ head: Head) -> ByteBuffer {
    withUnsafeTemporaryAllocation(of: Int.self, capacity: entries.count) { lengths in
      var (count, size) = (0, 0)
      // The JSON of other fields is made once: it is what takes long.
      var fields: [ByteBuffer] = []
      frames(entries, joined: joined) { frame in
        let own = frame.fields
        if let own { fields.append(own) }
        let length = frame.byteCount(with: own)
        lengths[count] = length
        count += 1
        size += head.length(length) + length
      }
      var bytes = ByteBuffer()
      bytes.writeWithUnsafeMutableBytes(minimumWritableBytes: size) { memory in
        var (index, nextFields, at) = (0, 0, 0)
        frames(entries, joined: joined) { frame in
          var own: ByteBuffer?
          if frame.hasFields { (own, nextFields) = (fields[nextFields], nextFields + 1) }
          let length = lengths[index]
          index += 1
          let start = at + head.length(length)
          head.write(length, UnsafeMutableRawBufferPointer(rebasing: memory[at..<start]))
          at =
            start + frame.write(to: UnsafeMutableRawBufferPointer(rebasing: memory[start..<start + length]), with: own)
        }
        return at
      }
      return bytes
    }
  }

  /// Calls `emit` once a frame, in stream order, with the frame's JSON and the entry that ends it.
  package static func encode(_ entries: Entries, joined: Bool, emit: (ByteBuffer, Entry) -> Void) {
    frames(entries, joined: joined) { emit($0.json, entries[$0.range.upperBound - 1]) }
  }

  /// One entry, not joined to any other.
  package static func write(_ entry: Entry, into json: inout JSONWriter) {
    json.value(json: frame(entry).json)
  }

  /// Bytes that ``write(_:into:)`` adds.
  package static func byteCount(_ entry: Entry) -> Int { frame(entry).byteCount }

  private static func frame(_ entry: Entry) -> EntryFrame {
    EntryFrame(arena: entry.arena, range: entry.index..<entry.index + 1, deltas: entry.joined)
  }
}

/// One frame: an entry, or adjacent deltas.
package struct EntryFrame {
  let arena: EntryArena
  package let range: Range<Int>
  package let deltas: UInt64

  /// Its JSON, in a buffer of its own.
  package var json: ByteBuffer {
    let fields = fields
    var buffer = ByteBuffer()
    buffer.writeWithUnsafeMutableBytes(minimumWritableBytes: byteCount(with: fields)) { write(to: $0, with: fields) }
    return buffer
  }

  /// Whether it has other fields than those that a delta has: their JSON is not written straight from the arena.
  fileprivate var hasFields: Bool { arena.withContents { records, _ in records[range.upperBound - 1].hasFields } }

  /// Bytes that its JSON takes.
  var byteCount: Int { byteCount(with: fields) }

  fileprivate func byteCount(with fields: ByteBuffer?) -> Int {
    arena.withContents { records, bytes in
      let last = records[range.upperBound - 1]
      let offset = RawWriter.length(last.offset)
      if last.kind == .tooBig {
        return #"{"type":"skipped","offset":"","reason":"too_big","bytes":}"#.utf8.count + offset
          + RawWriter.length(UInt64(last.bytes))
          + (last.responseLength > 0 ? #","response":"""#.utf8.count + Int(last.responseLength) : 0)
      }
      var size = #"{"id":"","event":""}"#.utf8.count + offset
      size += last.eventLength == 0 ? Entry.token.utf8.count : Int(last.eventLength)
      if last.responseLength > 0 { size += #","response":"""#.utf8.count + Int(last.responseLength) }
      if last.partLength > 0 { size += #","part":"""#.utf8.count + Int(last.partLength) }
      if last.hasMore { size += #","more":true"#.utf8.count }
      if last.hasN { size += #","n":"#.utf8.count + RawWriter.length(last.n) }
      if deltas > 1 { size += #","joined":"#.utf8.count + RawWriter.length(deltas) }
      switch last.kind {
      case .none, .tooBig: break
      case .binary: size += #","data64":"""#.utf8.count + (Int(last.dataLength) + 2) / 3 * 4
      case .text:
        size += #","data":"""#.utf8.count
        for index in range {
          let record = records[index]
          size += record.isPlain ? Int(record.dataLength) : TextScan.escapedLength(Entry.data(record, bytes))
        }
      }
      if let fields { size += #","fields":"#.utf8.count + fields.readableBytes }
      return size
    }
  }

  /// The JSON of the other fields.
  fileprivate var fields: ByteBuffer? {
    hasFields ? EntryFrame.json(Entry(arena: arena, index: range.upperBound - 1).fields) : nil
  }

  /// Where it ends.
  package var offset: Offset { arena.withContents { records, _ in records[range.upperBound - 1].offset } }

  /// - Parameter memory: of ``byteCount`` at least.
  /// - Returns: how many were written.
  fileprivate func write(to memory: UnsafeMutableRawBufferPointer, with fields: ByteBuffer?) -> Int {
    arena.withContents { records, bytes in
      var out = RawWriter(memory)
      let last = records[range.upperBound - 1]
      if last.kind == .tooBig {
        out.write(#"{"type":"skipped","offset":""#)
        out.write(last.offset)
        out.write(#"","reason":"too_big","bytes":"#)
        out.write(UInt64(last.bytes))
        if last.responseLength > 0 {
          out.write(#","response":""#)
          out.write(Entry.response(last, bytes))
          out.write("\"")
        }
        out.write("}")
        return out.count
      }
      out.write(#"{"id":""#)
      out.write(last.offset)
      if last.eventLength == 0 {
        out.write(#"","event":"token""#)
      } else {
        out.write(#"","event":""#)
        out.write(Entry.event(last, bytes))
        out.write("\"")
      }
      // The names of responses, parts and events have no characters that JSON escapes.
      if last.responseLength > 0 {
        out.write(#","response":""#)
        out.write(Entry.response(last, bytes))
        out.write("\"")
      }
      if last.partLength > 0 {
        out.write(#","part":""#)
        out.write(Entry.part(last, bytes))
        out.write("\"")
      }
      if last.hasN {
        out.write(#","n":"#)
        out.write(last.n)
      }
      if deltas > 1 {
        out.write(#","joined":"#)
        out.write(deltas)
      }
      if last.hasMore { out.write(#","more":true"#) }
      switch last.kind {
      case .none, .tooBig: break
      case .binary:
        out.write(#","data64":""#)
        out.write(base64: Entry.data(last, bytes))
        out.write("\"")
      case .text:
        out.write(#","data":""#)
        for index in range {
          let record = records[index]
          if record.isPlain {
            out.write(Entry.data(record, bytes))
          } else {
            out.write(escaping: Entry.data(record, bytes))
          }
        }
        out.write("\"")
      }
      if let fields {
        out.write(#","fields":"#)
        fields.withUnsafeReadableBytes { out.write($0) }
      }
      out.write("}")
      return out.count
    }
  }

  private static func json(_ fields: [Entry.Field]) -> ByteBuffer {
    var order: [ByteBuffer] = []
    var values: [ByteBuffer: [ByteBuffer]] = [:]
    for field in fields {
      if values[field.name] == nil { order.append(field.name) }
      values[field.name, default: []].append(field.value)
    }
    var json = JSONWriter(into: ByteBuffer())
    json.object { json in
      for name in order {
        if isText(name) {
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
    return json.buffer
  }

  private static func value(_ value: ByteBuffer, into json: inout JSONWriter) {
    if isText(value) {
      json.value(utf8: value)
    } else {
      json.object { json in
        json.name("base64")
        json.value(base64: value)
      }
    }
  }

  private static func isText(_ bytes: ByteBuffer) -> Bool {
    bytes.withUnsafeReadableBytes { if case .binary = TextScan($0) { false } else { true } }
  }
}
