import NIOCore

/// The answer to a chat completion that was asked for as a stream: a response's body in any form that servers give it.
///
/// The status and Content-Type decide what it is. What names none of the known types is told by its first bytes.
package struct UpstreamAnswer {
  /// Bytes of one event, or of an answer in one piece.
  package static let eventLimit = 8 << 20
  /// Bytes of a refusal that are looked at.
  package static let refusalLimit = 64 << 10

  private enum Form {
    case events(EventStreamDecoder)
    /// One JSON text a line.
    case lines([UInt8])
    case document([UInt8])
    /// By its first byte that is no white space.
    case undecided([UInt8])
    /// No answer.
    case refusal([UInt8])
  }

  private let status: Int
  private let type: String
  private let limit: Int
  private var form: Form
  private var completion = ChatCompletion()
  private var hasEvents = false
  /// Lines of a stream before its first event, as they came.
  private var stray: [UInt8] = []

  /// - Parameters:
  ///   - status: the HTTP status.
  ///   - contentType: the header's value; nil where there is none.
  ///   - limit: bytes of one event; a larger one is left out, and told in the end.
  package init(status: Int, contentType: String?, limit: Int = Self.eventLimit) {
    let type = contentType?.prefix { $0 != ";" }.split(whereSeparator: \.isWhitespace).joined().lowercased() ?? ""
    (self.status, self.type, self.limit) = (status, type, limit)
    form =
      switch type {
      case _ where !(200..<300).contains(status): .refusal([])
      case "text/event-stream": .events(EventStreamDecoder(limit: limit))
      case "application/x-ndjson", "application/ndjson", "application/jsonl", "application/x-jsonl",
        "application/json-lines":
        .lines([])
      case "", "text/plain", "application/octet-stream", "text/json", "application/json", "application/stream+json":
        .undecided([])
      case _ where type.hasSuffix("+json"): .undecided([])
      default: .refusal([])
      }
  }

  /// Nothing that comes counts any more.
  package var isDone: Bool {
    if case .refusal(let body) = form { return body.count >= Self.refusalLimit }
    return completion.isDone
  }
  /// There is a finish reason; usage and the stream's own end may follow.
  package var isFinished: Bool { completion.isFinished }
  /// Something of an answer has come.
  package var hasBegun: Bool { hasEvents || completion.hasBegun }

  /// - Returns: what there is to show of it, in whole characters; never empty ones.
  package mutating func received(_ bytes: ByteBuffer) -> [String] {
    if isDone { return [] }
    switch form {
    case .events(var decoder):
      form = .undecided([])
      let items = decoder.received(bytes)
      form = .events(decoder)
      return texts(items)
    case .lines(let rest):
      form = .undecided([])
      return lines(rest + bytes.readableBytesView)
    case .document(var body):
      form = .undecided([])
      body += bytes.readableBytesView
      if body.count > limit {
        completion.failed("the answer has more than \(limit) bytes in one piece")
        body = []
      }
      form = .document(body)
      return []
    case .undecided(var body):
      body += bytes.readableBytesView
      guard let first = Self.start(of: body).first, first != 0xEF || body.count > 3 else {
        form = .undecided(body.count > limit ? [] : body)
        return []
      }
      form = "{[\"'".utf8.contains(first) ? .document([]) : .events(EventStreamDecoder(limit: limit))
      return received(ByteBuffer(bytes: body))
    case .refusal(var body):
      form = .undecided([])
      body += bytes.readableBytesView.prefix(Self.refusalLimit - body.count)
      form = .refusal(body)
      return []
    }
  }

  /// The body is at its end, or was cut, or has been given up.
  /// - Returns: text that was held back, and how the answer ends.
  package mutating func ended() -> (texts: [String], end: UpstreamEnd) {
    var texts: [String] = []
    switch form {
    case .events(var decoder):
      texts = self.texts(decoder.ended(), isLast: true)
      if !hasEvents, !stray.isEmpty, !completion.isDone { nothingIn(stray) }
    case .lines(let rest): if !rest.isEmpty { texts = [line(rest, isLast: true)] }
    case .document(let body) where !completion.isDone:
      // Several texts in it are the chunks of a stream.
      let (values, isAll) = LenientJSON.values(body)
      if isAll, values.count == 1 {
        texts = [completion.received(document: body)]
      } else {
        texts = body.split(separator: UInt8(ascii: "\n")).map { line(Array($0), isLast: true) }
      }
    case .document, .undecided: break
    case .refusal(let body): refused(body)
    }
    let (text, end) = completion.ended()
    texts.append(text)
    return (texts.filter { !$0.isEmpty }, end)
  }

  // MARK: forms

  private mutating func texts(_ items: [EventStreamDecoder.Item], isLast: Bool = false) -> [String] {
    var texts: [String] = []
    for item in items where !completion.isDone {
      switch item {
      case .event(let name, let data):
        // What a cut has left of an event tells nothing.
        if isLast, !Self.isComplete(data) { continue }
        hasEvents = true
        texts.append(completion.received(data, event: name))
      case .verbatim: break
      case .line(let line):
        if !hasEvents, stray.count < Self.refusalLimit { stray += line + [UInt8(ascii: "\n")] }
        texts.append(completion.received(line: line))
      case .tooLarge(let bytes):
        hasEvents = true
        completion.lost("an event of \(bytes) bytes was left out, \(limit) are the most")
      }
    }
    return texts.filter { !$0.isEmpty }
  }

  /// Or the first of several chunks is.
  private static func isComplete(_ data: [UInt8]) -> Bool {
    !"{[\"'".utf8.contains(data.first ?? 0) || data.starts(with: "[DONE]".utf8)
      || !LenientJSON.values(data).values.isEmpty
  }

  private mutating func lines(_ bytes: [UInt8]) -> [String] {
    var rest = bytes[...]
    var texts: [String] = []
    while let end = rest.firstIndex(of: UInt8(ascii: "\n")) {
      texts.append(line(Array(rest[..<end]), isLast: false))
      rest = rest[(end + 1)...]
    }
    if rest.count > limit {
      completion.failed("a line has more than \(limit) bytes")
      rest = []
    }
    form = .lines(Array(rest))
    return texts.filter { !$0.isEmpty }
  }

  private mutating func line(_ line: [UInt8], isLast: Bool) -> String {
    let line = Self.start(of: line)
    if line.isEmpty || completion.isDone || isLast && !LenientJSON.values(line).isAll { return "" }
    hasEvents = true
    return completion.received(line)
  }

  private mutating func refused(_ body: [UInt8]) {
    let said = UpstreamMessage.find(inBody: body)
    if (200..<300).contains(status) {
      completion.failed("the answer is \(type)\(said.map { " (\($0))" } ?? "") and no event stream")
    } else {
      completion.failed(said ?? "answered \(status) without words", status: status)
    }
  }

  /// A body in which no event was found.
  private mutating func nothingIn(_ body: [UInt8]) {
    let (values, isAll) = LenientJSON.values(body)
    if isAll, let value = values.first, case .object = value {
      completion.failed(UpstreamMessage.find(value) ?? "there is no answer in it: \(UpstreamMessage.excerpt(body))")
    } else {
      let words = UpstreamMessage.shortened(UpstreamMessage.excerpt(body)) ?? ""
      completion.failed("the answer is no event stream\(type.isEmpty ? "" : " (\(type))"): \(words)")
    }
  }

  /// Without white space and a byte order mark at its beginning.
  private static func start(of bytes: [UInt8]) -> ArraySlice<UInt8> {
    var rest = bytes[...]
    if rest.starts(with: [0xEF, 0xBB, 0xBF]) { rest = rest.dropFirst(3) }
    return rest.drop { $0 <= 0x20 }
  }
}
