import BatonProtocol
import CBatonZlib
import NIOCore

/// Makes entries of the names and values that Redis returns. A value of a read: it lends one entry's response name to the next.
package struct EntryReader {
  /// `--max-entry-bytes`: entries whose names and values together exceed it are not kept.
  package let maxEntryBytes: Int
  /// Fields of a wrong shape, since the reader was made.
  package private(set) var misshapen = 0
  private var lastResponse: String?

  package init(maxEntryBytes: Int) {
    self.maxEntryBytes = maxEntryBytes
  }

  /// An entry that was not read whole because one of its strings was too large to be taken in.
  package func elided(_ id: EntryID, bytes: Int) -> Entry {
    var entry = Entry(id: id, check: nil)
    entry.payload = .tooBig
    entry.bytes = bytes
    return entry
  }

  package mutating func entry(_ id: EntryID, _ pairs: [Entry.Field]) -> Entry {
    var entry = Entry(id: id, check: Check.of(pairs))
    for pair in pairs { entry.bytes += pair.name.readableBytes + pair.value.readableBytes }
    if entry.bytes > maxEntryBytes { entry.payload = .tooBig }
    var seen: Known = []
    var joinedField: (Entry.Field, at: Int)?
    for pair in pairs {
      guard let name = Known(pair.name) else {
        if entry.payload != .tooBig, pair.name.readableBytesView.first != UInt8(ascii: "_") {
          entry.fields.append(pair)
        }
        continue
      }
      let isFirst = seen.insert(name).inserted
      if isFirst, name == .joined {
        joinedField = (pair, entry.fields.count)
      } else if !(isFirst && take(name, pair.value, into: &entry)) {
        if isFirst { misshapen += 1 }
        if entry.payload != .tooBig { entry.fields.append(pair) }
      }
    }
    if let (field, place) = joinedField {
      if let joined = Shape.number(field.value.readableBytesView), joined <= entry.n ?? .max {
        entry.joined = joined
      } else {
        misshapen += 1
        if entry.payload != .tooBig { entry.fields.insert(field, at: place) }
      }
    }
    return entry
  }

  /// False where the value has a wrong shape.
  private mutating func take(_ name: Known, _ value: ByteBuffer, into entry: inout Entry) -> Bool {
    let bytes = value.readableBytesView
    switch name {
    case .data:
      if entry.payload != .tooBig { entry.payload = UTF8Check.isValid(value) ? .text(value) : .binary(value) }
    case .event:
      guard Shape.event(bytes) else { return false }
      entry.event = String(decoding: bytes, as: UTF8.self)
    case .response:
      guard Shape.name(bytes, upTo: 128) else { return false }
      if lastResponse.map({ $0.utf8.elementsEqual(bytes) }) != true {
        lastResponse = String(decoding: bytes, as: UTF8.self)
      }
      entry.response = lastResponse
    default:
      guard let n = Shape.number(bytes) else { return false }
      entry.n = n
    }
    return true
  }

  private struct Known: OptionSet {
    let rawValue: UInt8
    static let data = Known(rawValue: 1)
    static let event = Known(rawValue: 2)
    static let response = Known(rawValue: 4)
    static let n = Known(rawValue: 8)
    static let joined = Known(rawValue: 16)

    init(rawValue: UInt8) { self.rawValue = rawValue }

    init?(_ name: ByteBuffer) {
      let bytes = name.readableBytesView
      switch bytes.count {
      case 1 where bytes.elementsEqual("n".utf8): self = .n
      case 4 where bytes.elementsEqual("data".utf8): self = .data
      case 5 where bytes.elementsEqual("event".utf8): self = .event
      case 6 where bytes.elementsEqual("joined".utf8): self = .joined
      case 8 where bytes.elementsEqual("response".utf8): self = .response
      default: return nil
      }
    }
  }
}

/// The check of PROTOCOL 1.
package enum Check {
  /// zlib's CRC-32 over names and values in stored order, each preceded by its length as 4 bytes big-endian.
  package static func of(_ pairs: [Entry.Field]) -> UInt32 {
    var crc = crc32(0, nil, 0)
    func add(_ bytes: ByteBuffer) {
      withUnsafeBytes(of: UInt32(truncatingIfNeeded: bytes.readableBytes).bigEndian) { length in
        crc = crc32(crc, length.baseAddress?.assumingMemoryBound(to: UInt8.self), 4)
      }
      bytes.withUnsafeReadableBytes { content in
        guard let start = content.baseAddress, content.count > 0 else { return }
        crc = crc32(crc, start.assumingMemoryBound(to: UInt8.self), UInt32(truncatingIfNeeded: content.count))
      }
    }
    for pair in pairs {
      add(pair.name)
      add(pair.value)
    }
    return UInt32(truncatingIfNeeded: crc)
  }
}

package enum UTF8Check {
  package static func isValid(_ bytes: ByteBuffer) -> Bool {
    bytes.withUnsafeReadableBytes { raw in
      raw.allSatisfy { $0 < 0x80 } || String(validating: raw, as: UTF8.self) != nil
    }
  }
}
