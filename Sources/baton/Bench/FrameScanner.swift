/// Finds the marks `@N:NANOSECONDS;` in the text frames that a WebSocket brings (RFC 6455 section 5.2), cut anywhere.
struct FrameScanner {
  enum Event {
    /// Entry `number` of the session, appended at `nanoseconds`.
    case mark(number: UInt64, nanoseconds: UInt64)
    /// A control frame of the protocol began so.
    case type(Kind)
    /// Answer with a pong of the same payload; payloads of pings are short.
    case ping([UInt8])
    case close
  }

  enum Kind { case live, other }

  private enum Phase: UInt8 {
    case head, length, payload
  }

  private var phase = Phase.head
  private var opcode: UInt8 = 0
  private var lengthBytes: UInt8 = 0
  private var remaining: UInt64 = 0
  /// The first bytes of a frame's payload, or a ping's.
  private var start: [UInt8] = []
  private var isAtStart = false
  private var field: UInt8 = 0
  private var number: UInt64 = 0
  private var nanoseconds: UInt64 = 0

  private static let type = Array(#"{"type":""#.utf8)
  private static let live = Array(#"{"type":"live""#.utf8)

  mutating func scan(_ bytes: UnsafeRawBufferPointer, _ body: (Event) -> Void) {
    var at = 0
    while at < bytes.count {
      switch phase {
      case .head:
        opcode = bytes[at] & 15
        (phase, lengthBytes, remaining) = (.length, 0, 0)
        at += 1
      case .length:
        let byte = bytes[at]
        at += 1
        if lengthBytes == 0 {
          switch byte & 127 {
          case 126: lengthBytes = 2
          case 127: lengthBytes = 8
          default: begin(UInt64(byte & 127), body)
          }
        } else {
          remaining = remaining << 8 | UInt64(byte)
          lengthBytes -= 1
          if lengthBytes == 0 { begin(remaining, body) }
        }
      case .payload:
        let count = Int(min(UInt64(bytes.count - at), remaining))
        payload(UnsafeRawBufferPointer(rebasing: bytes[at..<at + count]), body)
        at += count
        remaining -= UInt64(count)
        if remaining == 0 { end(body) }
      }
    }
  }

  private mutating func begin(_ length: UInt64, _ body: (Event) -> Void) {
    (phase, remaining, isAtStart, field) = (.payload, length, true, 0)
    start.removeAll(keepingCapacity: true)
    if length == 0 { end(body) }
  }

  private mutating func end(_ body: (Event) -> Void) {
    phase = .head
    switch opcode {
    case 8: body(.close)
    case 9: body(.ping(start))
    default: break
    }
  }

  private mutating func payload(_ bytes: UnsafeRawBufferPointer, _ body: (Event) -> Void) {
    if opcode > 2 {
      start.append(contentsOf: bytes)
      return
    }
    if isAtStart {
      start.append(contentsOf: bytes.prefix(FrameScanner.live.count - start.count))
      if start.count == FrameScanner.live.count || UInt64(bytes.count) == remaining {
        isAtStart = false
        if start.starts(with: FrameScanner.type) { body(.type(start == FrameScanner.live ? .live : .other)) }
      }
    }
    var at = 0
    while at < bytes.count {
      if field == 0 {
        guard let found = bytes[at...].firstIndex(of: UInt8(ascii: "@")) else { return }
        at = found + 1
        (field, number, nanoseconds) = (1, 0, 0)
        continue
      }
      let byte = bytes[at]
      at += 1
      switch byte {
      case UInt8(ascii: "0")...UInt8(ascii: "9"):
        let digit = UInt64(byte & 15)
        if field == 1 { number = number &* 10 &+ digit } else { nanoseconds = nanoseconds &* 10 &+ digit }
      case UInt8(ascii: ":") where field == 1: field = 2
      case UInt8(ascii: ";") where field == 2:
        field = 0
        body(.mark(number: number, nanoseconds: nanoseconds))
      default: field = 0
      }
    }
  }
}
