import BatonGateway
import BatonUpstream
import Foundation

/// What a command says beside what it was asked for: a line on standard error, there before what comes next. Credentials in
/// addresses are left out.
func say(_ command: String, _ text: String) {
  let line = "baton \(command): \(UpstreamAddress.masked(text))\n"
  LineOutput.standardError.tell(isatty(STDERR_FILENO) == 1 ? TerminalText.shown(line) : line)
}

/// Text as a terminal shows it and does not obey it: control characters (ECMA-48) become visible ones.
struct TerminalText {
  /// The beginning of a character whose rest is still to come.
  private var rest: [UInt8] = []

  /// A text's next bytes, cut anywhere.
  mutating func shown(_ bytes: some Sequence<UInt8>) -> String {
    var bytes = rest + bytes
    rest = Array(bytes.suffix(Self.unfinished(bytes)))
    bytes.removeLast(rest.count)
    return Self.shown(String(decoding: bytes, as: UTF8.self))
  }

  static func shown(_ text: String) -> String {
    var shown = String.UnicodeScalarView()
    for scalar in text.unicodeScalars {
      switch scalar.value {
      case 0x09, 0x0A: shown.append(scalar)
      // The control pictures of Unicode.
      case 0x00...0x1F: shown.append(Unicode.Scalar(0x2400 + scalar.value) ?? "\u{FFFD}")
      case 0x7F: shown.append("\u{2421}")
      // C1, and what turns the direction of writing about (Unicode Standard Annex 9).
      case 0x80...0x9F, 0x202A...0x202E, 0x2066...0x2069:
        shown.append(contentsOf: "<\(String(scalar.value, radix: 16, uppercase: true))>".unicodeScalars)
      default: shown.append(scalar)
      }
    }
    return String(shown)
  }

  /// How many bytes at the end begin a character that may still be completed.
  private static func unfinished(_ bytes: [UInt8]) -> Int {
    for (count, byte) in bytes.suffix(3).reversed().enumerated() {
      if byte & 0xC0 == 0x80 { continue }
      let length = byte >= 0xF0 ? 4 : byte >= 0xE0 ? 3 : byte >= 0xC2 ? 2 : 1
      return length > count + 1 ? count + 1 : 0
    }
    return 0
  }
}
