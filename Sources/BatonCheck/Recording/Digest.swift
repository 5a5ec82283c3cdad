import BatonProtocol
import CBatonZlib
import Foundation

/// Stands for bytes that are not kept: equal bytes have equal digests, and the digest of a whole follows from those of its
/// parts. It guards against mistakes, not against malice.
package struct Digest: Sendable, Hashable {
  /// A polynomial over the bytes, modulo 2⁶¹−1.
  private var hash: UInt64 = 0
  private(set) var length = 0

  private static let modulus: UInt64 = (1 << 61) - 1
  private static let base: UInt64 = 0x0f3a_11c0_5bd1_e995

  package init() {}

  package init(_ bytes: some Sequence<UInt8>) { append(bytes) }

  package init(_ text: String) { append(text.utf8) }

  package mutating func append(_ bytes: some Sequence<UInt8>) {
    for byte in bytes {
      hash = Self.reduced(Self.product(hash, Self.base) + UInt64(byte) + 1)
      length += 1
    }
  }

  /// What comes behind it.
  package mutating func append(_ other: Digest) {
    hash = Self.reduced(Self.product(hash, Self.power(other.length)) + other.hash)
    length += other.length
  }

  var value: UInt64 { hash ^ UInt64(truncatingIfNeeded: length) << 40 }

  private static func power(_ exponent: Int) -> UInt64 {
    var (result, square, rest) = (UInt64(1), base, exponent)
    while rest > 0 {
      if rest & 1 == 1 { result = product(result, square) }
      square = product(square, square)
      rest >>= 1
    }
    return result
  }

  private static func product(_ a: UInt64, _ b: UInt64) -> UInt64 {
    let (high, low) = a.multipliedFullWidth(by: b)
    return reduced((low & modulus) + (low >> 61 | high << 3))
  }

  private static func reduced(_ value: UInt64) -> UInt64 {
    let folded = (value & modulus) + (value >> 61)
    return folded >= modulus ? folded - modulus : folded
  }
}

/// An entry out of its names and values, as sections 1 and 2 of the protocol say and by no code of the gateway's.
extension StreamEntry {
  package init(id: EntryID, pairs: [(name: [UInt8], value: [UInt8])]) {
    var shown = ShownEntry(offset: Offset(id: id, check: Self.check(of: pairs)))
    var others = FieldsDigest()
    var (seen, isText) = (Set<String>(), false)
    let n = pairs.first { $0.name.elementsEqual("n".utf8) }.flatMap { Shape.number($0.value) }
    shown.n = n
    for (name, value) in pairs {
      let known = String(utf8: name) ?? ""
      if ["data", "event", "response", "part", "n", "joined", "more"].contains(known), seen.insert(known).inserted {
        switch known {
        case "data":
          shown.data = Digest(value)
          isText = String(utf8: value) != nil
          continue
        case "event" where Shape.event(value):
          shown.event = String(decoding: value, as: UTF8.self)
          continue
        case "response" where Shape.name(value, upTo: 128):
          shown.response = String(decoding: value, as: UTF8.self)
          continue
        case "n" where n != nil: continue
        case "part" where Shape.part(value):
          shown.part = String(decoding: value, as: UTF8.self)
          continue
        case "more" where value.elementsEqual("1".utf8):
          shown.hasMore = true
          continue
        case "joined":
          if let number = Shape.number(value), number <= n ?? .max {
            shown.joined = number
            continue
          }
        default: break
        }
      }
      if name.first != UInt8(ascii: "_") { others.add(Self.label(name), value) }
    }
    shown.fields = others.value
    self.shown = shown
    bytes = UInt64(pairs.reduce(0) { $0 + $1.name.count + $1.value.count })
    isElided = false
    isJoinable = shown.event == "token" && isText && others.isEmpty && !shown.hasMore
  }

  /// One that was too large to be read.
  package init(elided id: EntryID, bytes: UInt64) {
    shown = ShownEntry(offset: Offset(id: id))
    (self.bytes, isElided, isJoinable) = (bytes, true, false)
  }

  /// A name as frames show it.
  private static func label(_ name: [UInt8]) -> String {
    String(utf8: name) ?? "base64:" + Data(name).base64EncodedString()
  }

  private static func check(of pairs: [(name: [UInt8], value: [UInt8])]) -> UInt32 {
    var check = crc32(0, nil, 0)
    for part in pairs.flatMap({ [$0.name, $0.value] }) {
      let length = UInt32(truncatingIfNeeded: part.count)
      check = crc32(check, [24, 16, 8, 0].map { UInt8(truncatingIfNeeded: length >> $0) }, 4)
      if !part.isEmpty { check = crc32(check, part, length) }
    }
    return UInt32(truncatingIfNeeded: check)
  }
}

/// Over fields that may come in any order of names, with the values of each name in theirs.
struct FieldsDigest {
  private var values: [String: Digest] = [:]

  var isEmpty: Bool { values.isEmpty }

  mutating func add(_ name: String, _ value: [UInt8]) {
    var digest = Digest()
    digest.append((0..<8).map { UInt8(truncatingIfNeeded: value.count >> (8 * $0)) })
    digest.append(value)
    values[name, default: Digest()].append(digest)
  }

  var value: UInt64 {
    values.reduce(0) { sum, field in
      var whole = Digest(field.key)
      whole.append([0xFF])
      whole.append(field.value)
      return sum &+ (whole.value | 1) &* 0x9e37_79b9_7f4a_7c15
    }
  }
}
