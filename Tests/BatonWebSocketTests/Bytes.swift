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

/// Always the same 64 bits.
struct Constant: RandomNumberGenerator {
  let value: UInt64
  func next() -> UInt64 { value }
}
