import BatonProtocol

/// Puts characters together that are split over deltas: bytes of one, or the halves of a surrogate pair.
package struct TextPieces {
  /// The beginning of a character whose rest may come with the next delta.
  private var rest: [UInt8] = []

  package init() {}

  /// Whole characters; what belongs to none is U+FFFD.
  package mutating func received(_ bytes: [UInt8]) -> String {
    if rest.isEmpty, bytes.last ?? 0 < 0x80 { return Self.text(bytes[...]) }
    let all = rest + bytes
    let held = Self.unfinished(all)
    rest = Array(all.suffix(held))
    return Self.text(all.dropLast(held))
  }

  /// Nothing more comes.
  package mutating func ended() -> String {
    defer { rest = [] }
    return Self.text(rest[...])
  }

  private static func text(_ bytes: ArraySlice<UInt8>) -> String {
    if let text = String(utf8: bytes) { return text }
    // Halves that meet are a character, others are none.
    var mended: [UInt8] = []
    var at = bytes.startIndex
    while at < bytes.endIndex {
      if let lead = surrogate(bytes[at...], 0xA0...0xAF), let trail = surrogate(bytes[(at + 3)...], 0xB0...0xBF) {
        mended.append(codePoint: 0x10000 + (lead - 0xD800) << 10 + (trail - 0xDC00))
        at += 6
      } else if surrogate(bytes[at...], 0xA0...0xBF) != nil {
        mended.append(codePoint: 0xFFFD)
        at += 3
      } else {
        mended.append(bytes[at])
        at += 1
      }
    }
    return String(decoding: mended, as: UTF8.self)
  }

  private static func surrogate(_ bytes: ArraySlice<UInt8>, _ second: ClosedRange<UInt8>) -> UInt32? {
    let bytes = Array(bytes.prefix(3))
    guard bytes.count == 3, bytes[0] == 0xED, second.contains(bytes[1]) else { return nil }
    return 0xD000 | UInt32(bytes[1] & 0x3F) << 6 | UInt32(bytes[2] & 0x3F)
  }

  /// How many bytes at the end begin what may still be completed.
  private static func unfinished(_ bytes: [UInt8]) -> Int {
    if surrogate(bytes.suffix(3), 0xA0...0xAF) != nil { return 3 }
    // The first half, and a part of the second.
    for count in 4...5 where surrogate(bytes.suffix(count).prefix(3), 0xA0...0xAF) != nil {
      if bytes[bytes.count - count + 3] == 0xED { return count }
    }
    for (count, byte) in bytes.suffix(3).reversed().enumerated() {
      if byte & 0xC0 == 0x80 { continue }
      let length = byte >= 0xF0 ? 4 : byte >= 0xE0 ? 3 : byte >= 0xC2 ? 2 : 1
      return length > count + 1 ? count + 1 : 0
    }
    return 0
  }
}
