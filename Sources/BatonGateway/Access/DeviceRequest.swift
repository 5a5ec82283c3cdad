import BatonProtocol
import BatonSession
import NIOCore
import NIOHTTP1

/// An attach request that is in order: what a device asked for, and over which wire.
package struct DeviceRequest: Sendable {
  package enum Wire: Sendable, Equatable {
    case webSocket
    /// Server-sent events: the frames of PROTOCOL 4.
    case events
    /// Server-sent events with `format=text`.
    case text
    /// None: the entries themselves, for who gives them another form.
    case entries
  }

  package var attach: AttachRequest
  package var wire: Wire
  /// Who attaches; nil where the gateway asks for no credentials.
  package var identity: Identity?
  /// Whose request it is.
  var address: PeerAddress?

  package init(attach: AttachRequest, wire: Wire, identity: Identity? = nil) {
    self.attach = attach
    self.wire = wire
    self.identity = identity
  }

  /// The wire of a request for a session, or nil where it is none that attaches.
  package static func wire(of head: HTTPRequestHead) -> Wire? {
    if head.headers[canonicalForm: "upgrade"].contains(where: { $0.lowercased() == "websocket" }) { return .webSocket }
    guard head.method == .GET, MediaType.accepts(.eventStream, head.headers[canonicalForm: "accept"]) else {
      return nil
    }
    return .events
  }

  /// - Parameter lastEventID: where the device stands, as the header `Last-Event-ID` says; empty for nowhere. It wins
  ///   over the query, but of `response`, whose other entries stay left out.
  /// - Throws: `Problem` 400 with what to mend.
  package init(
    session: SessionName, query: Query, wire: Wire, lastEventID: String?, identity: Identity?,
    randomDevice: @autoclosure () -> String
  ) throws(Problem) {
    let offset = try query.one("offset")
    let last = try query.one("last")
    let response = try query.one("response")
    if [offset, last, response].count(where: { $0 != nil }) > 1 {
      throw .badRequest("conflicting-parameters", "Give one of offset, last and response.")
    }
    if let response, !Shape.name(response.utf8, upTo: 128) { throw .badResponse }
    let start: AttachRequest.Start
    let asked = wire == .webSocket ? nil : try query.one("lastEventId")
    if let place = [lastEventID, asked].compactMap({ $0 }).first(where: { !$0.isEmpty }) {
      start = .after(try Offset(checking: place, name: "Last-Event-ID"))
    } else if let last {
      guard let count = UInt64(decimalDigits: last.utf8), (1...10_000).contains(count) else {
        throw .badRequest("bad-last", "last is a number of entries from 1 to 10000.")
      }
      start = .newest(Int(count))
    } else if let response {
      start = .response(response)
    } else if let offset, offset == "$" || offset == "live" {
      start = .end
    } else {
      start = .after(try offset.map { text throws(Problem) in try Offset(checking: text, name: "offset") } ?? .zero)
    }

    let rollup: AttachRequest.Rollup
    switch try query.one("rollup") {
    case nil, "auto": rollup = .auto
    case "off": rollup = .off
    case let text?:
      guard let number = UInt64(decimalDigits: text.utf8), number <= 1000,
        let window = AttachRequest.Rollup(milliseconds: Int(number))
      else { throw .badRequest("bad-rollup", "rollup is auto, off, or milliseconds from 1 to 1000.") }
      rollup = window
    }

    var untilEnd = false
    switch try query.one("until") {
    case nil: break
    case "end": untilEnd = true
    default: throw .badRequest("bad-until", "until is end, or left out.")
    }

    let device = try query.one("device")
    if let device, !Shape.name(device.utf8, upTo: 64) {
      throw .badRequest("bad-device", "A device's name is 1 to 64 characters of A-Z a-z 0-9 . _ ~ : @ -")
    }

    var wire = wire
    if wire == .events {
      switch try query.one("format") {
      case nil, "json": break
      case "text": wire = .text
      default: throw .badRequest("bad-format", "format is text, or left out.")
      }
    }
    self.init(
      attach: AttachRequest(
        session: session, start: start, rollup: rollup, untilEnd: untilEnd || response != nil,
        device: device ?? randomDevice(), onlyResponse: response),
      wire: wire, identity: identity)
  }
}

extension Offset {
  package init(checking text: String, name: String) throws(Problem) {
    guard let offset = Offset(text) else {
      throw .badRequest(
        "bad-offset",
        "\(name) is 0, or an id such as 1732000000123-0, optionally with its check: 1732000000123-0.9f3a11c0"
      )
    }
    self = offset
  }
}

/// The media types that requests are told apart by.
package enum MediaType: String {
  case eventStream = "text/event-stream"
  case json = "application/json"
  case ndjson = "application/x-ndjson"

  /// What others call it.
  fileprivate var names: [String] {
    self == .ndjson ? [rawValue, "application/ndjson", "application/jsonl", "application/x-jsonlines"] : [rawValue]
  }

  /// Whether an Accept header names this type itself; `*/*` does not (RFC 9110 section 12.5.1), nor does `q=0`.
  static func accepts(_ type: MediaType, _ accept: [Substring]) -> Bool {
    accept.contains { range in
      let parts = range.split(separator: ";").map { $0.trimmed.lowercased() }
      return parts.first == type.rawValue
        && !parts.dropFirst().contains { $0.hasPrefix("q=0") && !$0.contains { ("1"..."9").contains($0) } }
    }
  }

  /// Whether a Content-Type header is this type, whatever its parameters.
  static func isContent(_ type: MediaType, _ value: String?) -> Bool {
    value?.split(separator: ";", maxSplits: 1).first.map { type.names.contains($0.trimmed.lowercased()) } ?? false
  }
}

extension Substring {
  fileprivate var trimmed: Substring {
    var rest = self
    while let first = rest.first, first == " " || first == "\t" { rest.removeFirst() }
    while let last = rest.last, last == " " || last == "\t" { rest.removeLast() }
    return rest
  }
}
