import NIOCore

/// Server-sent events (WHATWG HTML, section 9.2.6) from bytes that are cut anywhere.
///
/// Beyond the standard the last event counts without its blank line, and lines that are no field of it are handed on: some
/// servers write their errors there.
package struct EventStreamDecoder {
  package enum Item: Sendable, Equatable {
    /// Never without data.
    case event(name: String, data: [UInt8])
    /// In place of `event` where events are kept as they came: whatever it has, each nil where there was no such line.
    case verbatim(name: String?, id: String?, data: [UInt8]?)
    /// A line that begins with no known field.
    case line([UInt8])
    /// An event of more bytes than the limit was left out.
    case tooLarge(bytes: Int)
  }

  /// Bytes of one event.
  package let limit: Int
  private var line: [UInt8] = []
  private let isVerbatim: Bool
  private var name: String?
  private var id: String?
  private var data: [UInt8]?
  private var isAfterCR = false
  private var isFirstLine = true
  /// Bytes of an event that is left out.
  private var skipped: Int?

  package init(limit: Int, isVerbatim: Bool = false) { (self.limit, self.isVerbatim) = (limit, isVerbatim) }

  /// Bytes of an event that is not whole yet.
  package var held: Int {
    line.count + (data?.count ?? 0) + (name?.utf8.count ?? 0) + (id?.utf8.count ?? 0)
  }

  package mutating func received(_ bytes: ByteBuffer) -> [Item] {
    var items: [Item] = []
    bytes.withUnsafeReadableBytes { bytes in
      var rest = bytes[...]
      if isAfterCR, let first = rest.first {
        if first == UInt8(ascii: "\n") { rest = rest.dropFirst() }
        isAfterCR = false
      }
      while let end = rest.firstIndex(where: { $0 == UInt8(ascii: "\n") || $0 == UInt8(ascii: "\r") }) {
        take(rest[..<end])
        let isCR = rest[end] == UInt8(ascii: "\r")
        rest = rest[(end + 1)...]
        if isCR {
          if rest.isEmpty { isAfterCR = true } else if rest.first == UInt8(ascii: "\n") { rest = rest.dropFirst() }
        }
        endLine(&items)
      }
      take(rest)
    }
    return items
  }

  /// The stream is over: what has come of the last event, which may be cut.
  package mutating func ended() -> [Item] {
    var items: [Item] = []
    if !line.isEmpty { endLine(&items) }
    dispatch(&items)
    return items
  }

  private mutating func take(_ bytes: Slice<UnsafeRawBufferPointer>) {
    if let skipped {
      self.skipped = skipped + bytes.count
      // Only whether the line is empty is of interest.
      if line.isEmpty { line += bytes.prefix(1) }
    } else if line.count + bytes.count + (data?.count ?? 0) > limit {
      skipped = line.count + bytes.count + (data?.count ?? 0)
      (line, data) = (Array(bytes.prefix(1)) + line.prefix(1), nil)
    } else {
      line += bytes
    }
  }

  private mutating func endLine(_ items: inout [Item]) {
    defer { line.removeAll(keepingCapacity: line.capacity < 64 << 10) }
    if isFirstLine {
      isFirstLine = false
      if line.starts(with: [0xEF, 0xBB, 0xBF]) { line.removeFirst(3) }
    }
    if line.isEmpty { return dispatch(&items) }
    guard skipped == nil else { return }
    let colon = line.firstIndex(of: UInt8(ascii: ":"))
    var value = line[(colon.map { $0 + 1 } ?? line.endIndex)...]
    if value.first == UInt8(ascii: " ") { value = value.dropFirst() }
    switch String(decoding: line[..<(colon ?? line.endIndex)], as: UTF8.self) {
    case "data":
      if data == nil { data = [] } else { data?.append(UInt8(ascii: "\n")) }
      data?.append(contentsOf: value)
    case "event": name = String(decoding: value, as: UTF8.self)
    case "id":
      if !value.contains(0) { id = String(decoding: value, as: UTF8.self) }
    case "", "retry": break
    default: items.append(.line(line))
    }
  }

  private mutating func dispatch(_ items: inout [Item]) {
    if let skipped { items.append(.tooLarge(bytes: skipped)) }
    if isVerbatim, skipped == nil {
      if name != nil || id != nil || data != nil { items.append(.verbatim(name: name, id: id, data: data)) }
    } else if let data, !data.isEmpty {
      items.append(.event(name: name ?? "", data: data))
    }
    (name, id, data, skipped) = (nil, nil, nil, nil)
  }
}
