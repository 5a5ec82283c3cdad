import TestSupport

/// Changes inputs as libFuzzer does, without its eyes: for runs without instrumentation.
package struct Mutations {
  /// Bytes of an input at most.
  package static let maxBytes = 4096

  private static let words: [[UInt8]] =
    [
      "\r\n", "\n", "\r", "\"", "\\", "\\u", "\\ud83d", "{", "}", "[", "]", ":", ",", "-", ".", "0", "1",
      "9007199254740992",
      "18446744073709551615", "-1", "1e999", "null", "true", "data: ", "event: ", "id: ", "[DONE]", "$-1\r\n",
      "*-1\r\n", "*2\r\n",
      "%", "%00", "%ff", "&", "=", "?", "/", "//", "bearer.", "\u{FEFF}", "\u{2028}", "é", "😀", " ",
    ].map { Array($0.utf8) } + [[0], [0xFF], [0xC3], [0xED, 0xA0, 0x80], [0xF0, 0x9F], [0x80]]

  private let seeds: [[UInt8]]
  private var dice: Dice

  package init(of seeds: [[UInt8]], seed: UInt64) { (self.seeds, dice) = (seeds, Dice(seed: seed)) }

  package mutating func next() -> [UInt8] {
    var input = seeds.randomElement(using: &dice) ?? []
    for _ in 0..<dice.roll(1...6) { change(&input) }
    return Array(input.prefix(Self.maxBytes))
  }

  private mutating func change(_ input: inout [UInt8]) {
    let at = dice.roll(0...input.count)
    let end = min(input.count, at + dice.roll(1...16))
    switch dice.roll(0...7) {
    case 0: if at < input.count { input[at] ^= 1 << dice.roll(0...7) }
    case 1: if at < input.count { input[at] = dice.roll(0...255) }
    case 2: input.removeSubrange(at..<end)
    case 3: input.insert(contentsOf: Self.words.randomElement(using: &dice) ?? [], at: at)
    case 4: input.insert(contentsOf: input[at..<end], at: dice.roll(0...input.count))
    case 5:
      // Twice as deep, or as long.
      let piece = Array(input[at..<end])
      for _ in 0..<dice.roll(1...64) { input.insert(contentsOf: piece, at: at) }
    case 6: input = Array(input.prefix(at))
    default:
      let other = seeds.randomElement(using: &dice) ?? []
      input = Array(input.prefix(at)) + other.suffix(dice.roll(0...other.count))
    }
  }
}
