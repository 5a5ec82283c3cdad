import BatonGateway
import BatonProtocol
import BatonRelay
import BatonUpstream
import NIOCore

/// A model server's answer, as `baton publish` takes it. The input's first byte says of what kind it is.
enum UpstreamChecks {
  private static let types = [
    "text/event-stream", "application/x-ndjson", "application/json", nil, "text/html", "text/plain; charset=utf-8",
  ]

  static func check(_ input: [UInt8]) throws {
    guard let first = input.first else { return }
    let (kind, body) = (Int(first), input[1...])
    let runs = body.cuts.map { pieces in
      var answer = UpstreamAnswer(
        status: kind % 16 == 15 ? 500 : 200, contentType: types[kind % types.count], limit: 2000)
      var text = ""
      for piece in pieces where !answer.isDone {
        text += answer.received(ByteBuffer(bytes: piece)).joined()
      }
      let (last, end) = answer.ended()
      return (text: text + last.joined(), end: "\(end)")
    }
    for run in runs.dropFirst() {
      try require(run == runs[0], "says \(run) in pieces, \(runs[0]) at once")
    }
  }
}

/// A model server's answer, as it is relayed: what is kept is text, and JSON.
enum CodecChecks {
  static func check(_ input: [UInt8]) throws {
    let responses = ResponsesCodec(id: "resp_1", createdAt: 1, model: "m")
    let known: [any RelayCodec] = [
      responses, ChatCodec(model: "m"), ChatResponsesCodec(responses), UIMessageCodec(response: "msg_1"),
    ]
    try check(input, known, isVerbatim: false)
    try check(input, [EventStreamCodec()], isVerbatim: true)
  }

  private static func check(_ input: [UInt8], _ codecs: [any RelayCodec], isVerbatim: Bool) throws {
    let runs = input.cuts.map { pieces in
      var decoder = EventStreamDecoder(limit: 2000, isVerbatim: isVerbatim)
      return pieces.flatMap { decoder.received(ByteBuffer(bytes: $0)) } + decoder.ended()
    }
    for run in runs.dropFirst() {
      try require(run == runs[0], "\(run.count) events in pieces, \(runs[0].count) at once")
    }
    for codec in codecs {
      var codec = codec
      var items = runs[0].flatMap { codec.received($0) }
      if codec.end == nil { items += codec.stopped(.cut("cut")).0 }
      if let end = codec.end { try check(json: ByteBuffer(string: end.data), of: codec) }
      try check(json: ByteBuffer(string: codec.start), of: codec)
      var begun = ByteBuffer()
      for item in items {
        switch item {
        case .delta(let text, _):
          try require(String(validating: text.readableBytesView, as: UTF8.self) != nil, "\(type(of: codec)): no text")
        case .verbatim(let data, _, _, _):
          let isText = data.map { String(validating: $0.readableBytesView, as: UTF8.self) != nil } ?? true
          try require(isText, "\(type(of: codec)): no text")
        case .event(let json, let more):
          begun.writeImmutableBuffer(json)
          guard !more else { continue }
          try check(json: begun, of: codec)
          begun.clear()
        }
      }
    }
  }

  private static func check(json: ByteBuffer, of codec: any RelayCodec) throws {
    try require(JSONValue(json) != nil, "\(type(of: codec)): no JSON: \(String(buffer: json))")
  }
}

/// What clients of other APIs ask.
enum RequestChecks {
  static func check(_ input: [UInt8]) throws {
    guard let value = LenientJSON.values(input).values.first else { return }
    if let request = try? ChatRequest(value) {
      try require(JSONValue(ByteBuffer(string: request.body.json)) != nil, "asks what is no JSON")
    }
    if let request = UIMessageRequest(value) {
      _ = UIMessageCodec(response: "r", request: request).start
    }
    let text = String(decoding: input, as: UTF8.self)
    if let address = UpstreamAddress(text) {
      _ = address.target(text)
      _ = address.completions
    }
    _ = UpstreamMessage.find(value)
  }
}
