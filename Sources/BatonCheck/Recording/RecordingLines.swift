import BatonProtocol
import NIOCore

/// The lines of recordings as they are written: one JSON object each, with its line end.
package enum RecordingLines {
  package static func header(_ header: RecordingHeader) -> ByteBuffer {
    line { json in
      json.member("recording", RecordingHeader.version)
      switch header.kind {
      case .device(let asked):
        json.member("kind", "device")
        json.member("at", header.at)
        json.member("session", header.session)
        if let device = asked.device { json.member("device", device) }
        switch asked.start {
        case .after(let offset): json.member("offset", offset.description)
        case .end: json.member("offset", "$")
        case .newest(let count): json.member("last", count)
        case .response(let name): json.member("response", name)
        }
        if let rollup = asked.rollup { json.member("rollup", rollup) }
        if let until = asked.until { json.member("until", until) }
        return
      case .producer(let response):
        json.member("kind", "producer")
        json.member("response", response)
      case .stream: json.member("kind", "stream")
      case .deletions: json.member("kind", "deletions")
      }
      json.member("at", header.at)
      json.member("session", header.session)
    }
  }

  /// A line that only says that something happened.
  package static func plain(_ type: String, detail: String? = nil, at: Int64) -> ByteBuffer {
    event(type, at) { json in
      if let detail { json.member("detail", detail) }
    }
  }

  /// - Parameter frame: the JSON object as it came.
  package static func frame(_ frame: String, at: Int64) -> ByteBuffer {
    event("frame", at) { json in
      json.name("frame")
      // A line break can only be white space in it.
      json.value(json: ByteBuffer(string: frame.replacing("\n", with: " ").replacing("\r", with: " ")))
    }
  }

  package static func opened(after n: UInt64, at: Int64) -> ByteBuffer {
    event("opened", at) { $0.member("after", n) }
  }

  package static func delta(n: UInt64, _ data: ByteBuffer, at: Int64) -> ByteBuffer {
    event("delta", at) { json in
      json.member("n", n)
      json.data(data)
    }
  }

  package static func end(_ event: String, data: String?, at: Int64) -> ByteBuffer {
    self.event("end", at) { json in
      json.member("end", event)
      if let data { json.member("data", data) }
    }
  }

  /// - Parameter end: what Redis has of the end; nil: everything up to `n`, and no end.
  package static func acknowledged(n: UInt64, end: String?, id: EntryID?, at: Int64) -> ByteBuffer {
    event("acknowledged", at) { json in
      json.member("n", n)
      if let end { json.member("end", end) }
      if let id { json.member("id", id.description) }
    }
  }

  package static func info(_ facts: StreamFacts, at: Int64) -> ByteBuffer {
    event("info", at) { json in
      json.member("length", facts.length)
      if let added = facts.entriesAdded { json.member("entriesAdded", added) }
    }
  }

  package static func entry(_ id: EntryID, _ fields: some Sequence<(name: ByteBuffer, value: ByteBuffer)>, at: Int64)
    -> ByteBuffer
  {
    event("entry", at) { json in
      json.member("id", id.description)
      json.name("fields")
      json.array { json in
        for field in fields {
          json.array { json in
            json.bytes(field.name)
            json.bytes(field.value)
          }
        }
      }
    }
  }

  package static func elided(_ id: EntryID, bytes: Int, at: Int64) -> ByteBuffer {
    event("entry", at) { json in
      json.member("id", id.description)
      json.member("bytes", bytes)
    }
  }

  private static func event(_ type: String, _ at: Int64, _ members: (inout JSONWriter) -> Void) -> ByteBuffer {
    line { json in
      json.member("at", at)
      json.member("type", type)
      members(&json)
    }
  }

  private static func line(_ members: (inout JSONWriter) -> Void) -> ByteBuffer {
    var json = JSONWriter(into: ByteBuffer())
    json.object(members)
    json.buffer.writeStaticString("\n")
    return json.buffer
  }
}

extension JSONWriter {
  fileprivate mutating func data(_ bytes: ByteBuffer) {
    if String(utf8: bytes.readableBytesView) != nil {
      name("data")
      value(utf8: bytes)
    } else {
      name("data64")
      value(base64: bytes)
    }
  }

  /// A string, or `{"base64":"…"}`.
  fileprivate mutating func bytes(_ bytes: ByteBuffer) {
    if String(utf8: bytes.readableBytesView) != nil {
      value(utf8: bytes)
    } else {
      object { json in
        json.name("base64")
        json.value(base64: bytes)
      }
    }
  }
}
