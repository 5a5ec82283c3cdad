import Testing

@testable import BatonWebSocket

@Suite struct UTF8ValidatorTests {
  private func isText(_ pieces: [UInt8]...) -> Bool {
    var validator = UTF8Validator()
    for piece in pieces {
      guard piece.withUnsafeBytes({ validator.feed($0) }) else { return false }
    }
    return validator.isComplete
  }

  /// The standard library judges the same, for every string of up to three bytes out of the interesting ones.
  @Test func agreesWithTheStandardLibrary() {
    let interesting: [UInt8] = [
      0x00, 0x61, 0x7F, 0x80, 0x8F, 0x90, 0x9F, 0xA0, 0xBF, 0xC0, 0xC1, 0xC2, 0xDF, 0xE0, 0xE1, 0xEC, 0xED, 0xEE, 0xEF,
      0xF0, 0xF1, 0xF3, 0xF4, 0xF5, 0xFF,
    ]
    for a in interesting {
      for b in interesting {
        for c in interesting {
          for d in [0x61, 0x80, 0xBF] as [UInt8] {
            let all = [a, b, c, d]
            let expected = String(validating: all, as: UTF8.self) != nil
            #expect(isText(all) == expected, "\(all)")
            #expect(isText([a], [b, c], [], [d]) == expected, "\(all)")
          }
        }
      }
    }
  }

  @Test func passesOverASCIIInSteps() {
    for length in 0..<40 {
      let ascii = [UInt8](repeating: 0x41, count: length)
      #expect(isText(ascii))
      #expect(isText(ascii + [0xC3, 0xA9] + ascii))
      #expect(!isText(ascii + [0xC3] + ascii + [0x41]))
      #expect(!isText(ascii + [0x80] + ascii))
    }
  }
}
