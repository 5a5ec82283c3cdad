import NIOCore
import NIOWebSocket

@testable import BatonWebSocket

/// Bytes from hex; spaces are for the reader.
func bytes(_ hex: String) -> [UInt8] {
  var result: [UInt8] = []
  var high: UInt8?
  for character in hex where character != " " && character != "\n" {
    guard let digit = character.hexDigitValue.map(UInt8.init) else { continue }
    if let upper = high.take() { result.append(upper << 4 | digit) } else { high = digit }
  }
  return result
}

func text(_ string: String) -> ByteBuffer { ByteBuffer(string: string) }

/// A generator whose sequence is known from its seed (SplitMix64).
struct Seeded: RandomNumberGenerator {
  var state: UInt64
  init(_ seed: UInt64) { state = seed }
  mutating func next() -> UInt64 {
    state &+= 0x9E37_79B9_7F4A_7C15
    var z = state
    z = (z ^ (z >> 30)) &* 0xBF58_476D_1CE4_E5B9
    z = (z ^ (z >> 27)) &* 0x94D0_49BB_1331_11EB
    return z ^ (z >> 31)
  }
}

/// Always the same 64 bits.
struct Constant: RandomNumberGenerator {
  let value: UInt64
  func next() -> UInt64 { value }
}
