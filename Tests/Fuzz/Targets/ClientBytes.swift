import BatonGateway
import BatonProtocol
import BatonSession
import BatonUpstream
import BatonWebSocket
import Foundation
import NIOCore
import NIOEmbedded
import NIOHTTP1

/// WebSocket frames from either end (RFC 6455).
enum FrameChecks {
  /// The events of what arrives, and the violation that ends them.
  private static func read(_ pieces: [ArraySlice<UInt8>], _ role: WebSocketRole, _ limits: WebSocketLimits) -> [String]
  {
    var assembler = MessageAssembler(role: role, limits: limits)
    var decoder = assembler.makeDecoder()
    var seen: [String] = []
    do throws(WebSocketViolation) {
      for piece in pieces {
        decoder.feed(ByteBuffer(bytes: piece))
        while let frame = try decoder.next() {
          guard let event = try assembler.receive(frame) else { continue }
          if case .text(let text) = event, String(validating: text.readableBytesView, as: UTF8.self) == nil {
            seen.append("! not UTF-8")
          }
          seen.append("\(event)")
        }
      }
    } catch {
      seen.append("! \(error)")
    }
    return seen
  }

  static func check(_ input: [UInt8]) throws {
    for role in [WebSocketRole.server, .client] {
      let limits = WebSocketLimits(maxMessageBytes: 300, maxFragments: 5)
      let runs = input.cuts.map { read($0, role, limits) }
      try require(!runs[0].contains("! not UTF-8"), "text that is not UTF-8 as \(role)")
      for run in runs.dropFirst() {
        try require(run == runs[0], "\(role) reads \(run) in pieces, \(runs[0]) at once")
      }
    }
  }
}

/// A request's head, and all that is made of it before anybody is known.
enum HandshakeChecks {
  private final class Reader: ChannelInboundHandler {
    typealias InboundIn = HTTPServerRequestPart
    var heads: [HTTPRequestHead] = []

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
      if case .head(let head) = unwrapInboundIn(data) { heads.append(head) }
    }

    func errorCaught(context: ChannelHandlerContext, error: any Error) {}
  }

  private static let proxies = TrustedProxies(["127.0.0.0/8", "10.0.0.0/8", "2001:db8::/32"].compactMap { .init($0) })

  static func check(_ input: [UInt8]) async throws {
    for head in try heads(input) { try check(head) }
  }

  private static func heads(_ input: [UInt8]) throws -> [HTTPRequestHead] {
    let (channel, reader) = (EmbeddedChannel(), Reader())
    try channel.pipeline.syncOperations.addHandlers(ByteToMessageHandler(HTTPRequestDecoder()), reader)
    _ = try? channel.writeInbound(ByteBuffer(bytes: input))
    _ = try? channel.finish(acceptAlreadyClosed: true)
    return reader.heads
  }

  private static func check(_ head: HTTPRequestHead) throws {
    if case .success(let accepted) = ServerHandshake.validate(head, supported: ["baton.v1"]) {
      try require(ServerHandshake.isRequested(by: head), "accepted what was not asked for: \(accepted)")
    }
    let values = { (name: String) in head.headers[name] }
    let local = try SocketAddress(ipAddress: "127.0.0.1", port: 80)
    _ = proxies.client(local, values)
    let target = Target(head.uri)
    guard let query = try? Query(target.query) else { return }
    _ = try? Authenticator.token(
      authorization: head.headers["authorization"].first,
      offered: head.headers[canonicalForm: "sec-websocket-protocol"].map(String.init), query: query)
    guard case .session(let text) = target.resource, let session = SessionName(text) else { return }
    let wire = DeviceRequest.wire(of: head) ?? .webSocket
    let request = try? DeviceRequest(
      session: session, query: query, wire: wire, lastEventID: head.headers["last-event-id"].first, identity: nil,
      randomDevice: "d")
    guard let request else { return }
    try require((1...64).contains(request.attach.device.utf8.count), "the device \(request.attach.device)")
  }
}

/// JSON from clients; what is read is written, and read the same again.
enum JSONChecks {
  static func check(_ input: [UInt8]) throws {
    let bytes = ByteBuffer(bytes: input)
    _ = try? NewEntry(json: bytes, limit: 4096)
    let value = JSONValue(bytes)
    let (values, isAll) = LenientJSON.values(input)
    _ = LenientJSON.remains(of: input)
    for value in values {
      let text = value.json
      try require(JSONValue(ByteBuffer(string: text)) != nil, "is written as no JSON: \(text)")
      try require(LenientJSON.values(text.utf8).values.first?.json == text, "is not read again: \(text)")
    }
    guard value != nil, !input.starts(with: [0xEF, 0xBB, 0xBF]) else { return }
    try require(isAll && values.count == 1, "strict, and not lenient")
    // Foundation's is stricter: halves of surrogate pairs, depth.
    let isDeep = input.count { $0 == UInt8(ascii: "[") || $0 == UInt8(ascii: "{") } > JSONValue.depth
    let hasSurrogates = String(decoding: input, as: UTF8.self).lowercased().contains("\\ud")
    guard !isDeep, !hasSurrogates else { return }
    let hasNumbers = input.contains { (UInt8(ascii: "0")...UInt8(ascii: "9")).contains($0) }
    guard !hasNumbers else { return }
    let others = try? JSONSerialization.jsonObject(with: Data(input), options: .fragmentsAllowed)
    try require(others != nil, "strict, and not Foundation's")
  }
}

/// Responses as lines of JSON.
enum LineChecks {
  static func check(_ input: [UInt8]) throws {
    let runs = input.cuts.map { pieces -> (lines: [ByteBuffer], isOver: Bool) in
      var splitter = LineSplitter(limit: 1000)
      var lines: [ByteBuffer] = []
      for piece in pieces {
        guard let more = try? splitter.take(ByteBuffer(bytes: piece)) else { return (lines, true) }
        lines += more
      }
      return (lines + [splitter.finish()].compactMap(\.self), false)
    }
    // A line over the limit may be whole before it is seen to be one.
    if let run = runs.dropFirst().first(where: { !$0.isOver }), !runs[0].isOver {
      try require(run.lines == runs[0].lines, "\(run.lines.count) lines in pieces, \(runs[0].lines.count) at once")
    }
    for (number, line) in runs[0].lines.enumerated() {
      guard let read = try? ResponseUpload.Line(line, number: number + 1, limit: 4096) else { continue }
      try require(Shape.name(read.response.utf8, upTo: 128), "the response \(read.response)")
      try require(read.n.map { (1..<1 << 53).contains($0) } ?? true, "the number \(read.n ?? 0)")
    }
  }
}

/// What stands behind a request target's question mark, and such a target as a whole.
enum QueryChecks {
  static func check(_ input: [UInt8]) throws {
    let text = String(decoding: input, as: UTF8.self)
    if let mine = try? Query.decode(text[...]) {
      // Foundation leaves out a byte order mark.
      let isMarked = mine.unicodeScalars.first?.value == 0xFEFF
      try require(isMarked || mine == text.removingPercentEncoding, "decodes \(text) to \(mine)")
    }
    // What is passed on to a model server leads nowhere else.
    for base in ["http://h/v1", "http://h/v1?k=1"] {
      guard let url = UpstreamAddress(base)?.target(text) else { continue }
      try require(url.hasPrefix("http://h/v1/"), "\(text) leads to \(url)")
    }
    guard let query = try? Query(text[...]), let session = SessionName("s") else { return }
    for wire in [DeviceRequest.Wire.webSocket, .events] {
      guard
        let request = try? DeviceRequest(
          session: session, query: query, wire: wire, lastEventID: nil, identity: nil, randomDevice: "d")
      else { continue }
      if case .newest(let count) = request.attach.start {
        try require((1...10_000).contains(count), "the newest \(count)")
      }
    }
  }
}

/// A token is what was signed, or none.
enum TokenChecks {
  private static let secret = Array("a secret of 32 bytes for the fuzz".utf8)
  private static let now = 1_800_000_000.0

  static func check(_ input: [UInt8]) async throws {
    var keys = TokenKeys()
    try await keys.add(secret: secret)
    let authenticator = Authenticator(keys: keys)
    let identity = try? await authenticator.identify(String(decoding: input, as: UTF8.self), now: now)
    guard let identity else { return }
    try require(
      identity.subject == "me" && identity.sessions == ["chat-*"] && identity.scopes == [.read], "signed by nobody")
  }
}

/// Offsets, ids and names.
enum WordChecks {
  static func check(_ input: [UInt8]) throws {
    let text = String(decoding: input, as: UTF8.self)
    if let offset = Offset(text) {
      try require(Offset(offset.description) == offset, "\(text) is \(offset)")
    }
    if let id = EntryID(text) { try require(EntryID(id.description) == id, "\(text) is \(id)") }
    if let name = SessionName(text) { try require(name.description == text, "\(text) is \(name)") }
    if let number = Shape.number(input) {
      try require((1..<1 << 53).contains(number) && String(number) == text, "\(text) is \(number)")
    }
    _ = UInt64(decimalDigits: input)
  }
}
