import BatonProtocol
import BatonSession
import BatonWebSocket
import NIOCore

/// The bytes of entries on each wire.
enum FrameBytes {
  /// A newest segment's, for the devices of a room one after the other: nearly all want the same.
  struct Shared {
    let wire: Segment.Encoding.Wire
    let bytes: ByteBuffer
  }

  static func of(
    _ newest: Delivery, _ wire: Segment.Encoding.Wire, only response: String?, _ cache: EncodingCache,
    _ shared: inout Shared?
  ) -> ByteBuffer {
    if response == nil {
      guard let known = shared else {
        let bytes = encode(newest.entries, wire, joined: false)
        shared = Shared(wire: wire, bytes: bytes)
        return bytes
      }
      if known.wire == wire { return known.bytes }
    }
    return of(newest, wire, only: response, cache)
  }

  /// Shared with every device that wants the same.
  static func of(
    _ delivery: Delivery, _ wire: Segment.Encoding.Wire, only response: String?, _ cache: EncodingCache
  ) -> ByteBuffer {
    if let response {
      return encode(Entries(delivery.entries.filter { $0.isOf(response) }), wire, joined: delivery.joined)
    }
    let make = { encode(delivery.entries, wire, joined: delivery.joined) }
    guard delivery.isWhole else { return make() }
    let encoding = Segment.Encoding(wire, joined: delivery.joined)
    if let page = delivery.segment.page { return page.encoded(encoding, from: delivery.range.lowerBound, make) }
    return cache.encoded(delivery.segment, encoding, from: delivery.range.lowerBound, make)
  }

  private static let webSocketHead = EntryFrames.Head(
    length: WebSocketTextHeader.length(for:), write: WebSocketTextHeader.write(for:to:))

  private static func encode(_ entries: Entries, _ wire: Segment.Encoding.Wire, joined: Bool) -> ByteBuffer {
    var bytes = ByteBuffer()
    switch wire {
    case .webSocket: return EntryFrames.bytes(entries, joined: joined, webSocketHead)
    case .events:
      EntryFrames.encode(entries, joined: joined) { json, last in
        bytes.writeString("id: \(last.offset)\ndata: ")
        bytes.writeImmutableBuffer(json)
        bytes.writeStaticString("\n\n")
      }
    case .text:
      EntryFrames.runs(entries, joined: joined) { run, last, _ in writeText(run, last, into: &bytes) }
    }
    return bytes
  }

  /// `format=text` (PROTOCOL 6).
  private static func writeText(_ run: some Collection<Entry>, _ last: Entry, into bytes: inout ByteBuffer) {
    bytes.writeString("id: \(last.offset)\n")
    switch last.payload {
    case .tooBig: break
    case .none: bytes.writeString("event: \(name(last))\ndata:\n")
    case .binary(let data):
      bytes.writeString("event: \(name(last))\ndata: ")
      bytes.writeBase64(data)
      bytes.writeStaticString("\n")
    case .text:
      var text = ByteBuffer()
      for entry in run { if case .text(let data) = entry.payload { text.writeImmutableBuffer(data) } }
      bytes.writeString("event: \(name(last))\n")
      writeLines(text, into: &bytes)
    }
    bytes.writeStaticString("\n")
  }

  private static func name(_ entry: Entry) -> String { entry.event == "error" ? "response-error" : entry.event }

  /// CR LF, CR and LF all end a line.
  private static func writeLines(_ text: ByteBuffer, into bytes: inout ByteBuffer) {
    bytes.writeStaticString("data: ")
    var afterCR = false
    for byte in text.readableBytesView {
      switch byte {
      case UInt8(ascii: "\n") where afterCR: afterCR = false
      case UInt8(ascii: "\n"), UInt8(ascii: "\r"):
        afterCR = byte == UInt8(ascii: "\r")
        bytes.writeStaticString("\ndata: ")
      default:
        afterCR = false
        bytes.writeInteger(byte)
      }
    }
    bytes.writeStaticString("\n")
  }
}
