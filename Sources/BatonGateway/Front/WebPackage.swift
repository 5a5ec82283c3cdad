import CBatonZlib
import Foundation

/// The browser client as a package that npm installs from an address. Its bytes depend on its files and on nothing else, for
/// lock files keep their hash, and any gateway may be asked.
enum WebPackage {
  struct File {
    let name: String
    let bytes: [UInt8]
  }

  /// - Parameter entries: the modules that apps import, by name; each has its types beside it.
  /// - Returns: a gzip-compressed tar archive in npm's form.
  static func archive(of files: [File], entries: [String]) -> [UInt8] {
    let description = File(name: "package.json", bytes: Array(Data(description(entries).utf8)))
    let archive = ([description] + files).flatMap(entry) + [UInt8](repeating: 0, count: 2 * block)
    return gzip(archive)
  }

  private static func description(_ entries: [String]) -> String {
    // `baton` is the package itself, `baton-react` is `./react` in it.
    let exports = entries.map { name in
      let path = name == "baton" ? "." : "./\(name.dropFirst("baton-".count))"
      return "    \"\(path)\": { \"types\": \"./\(name).d.ts\", \"default\": \"./\(name).js\" }"
    }
    // A peer that is named in the second list only is found by pnpm and Yarn, and npm does not ask a registry for it.
    return """
      {
        "name": "baton",
        "version": "\(batonVersion)",
        "description": "AI answers that survive lost connections: the client of Baton's gateways",
        "license": "Apache-2.0",
        "type": "module",
        "sideEffects": false,
        "main": "./baton.js",
        "types": "./baton.d.ts",
        "exports": {
      \((exports + ["    \"./package.json\": \"./package.json\""]).joined(separator: ",\n"))
        },
        "peerDependenciesMeta": { "react": { "optional": true } }
      }

      """
  }

  // MARK: tar (POSIX ustar)

  private static let block = 512

  private static func entry(_ file: File) -> [UInt8] {
    var header = [UInt8](repeating: 0, count: block)
    func put(_ text: String, at place: Int) { header.replaceSubrange(place..<place + text.utf8.count, with: text.utf8) }
    put("package/\(file.name)", at: 0)
    put("0000644", at: 100)
    for place in [108, 116] { put("0000000", at: place) }  // owner and group
    put(octal(file.bytes.count, digits: 11), at: 124)
    put(octal(499_162_500, digits: 11), at: 136)  // the time that npm gives what it packs
    put("0", at: 156)
    put("ustar\u{0}00", at: 257)
    put("        ", at: 148)  // what the sum takes for itself
    put(octal(header.reduce(0) { $0 + Int($1) }, digits: 6) + "\u{0} ", at: 148)
    let padding = (block - file.bytes.count % block) % block
    return header + file.bytes + [UInt8](repeating: 0, count: padding)
  }

  private static func octal(_ number: Int, digits: Int) -> String {
    let text = String(number, radix: 8)
    return String(repeating: "0", count: max(0, digits - text.count)) + text
  }

  // MARK: gzip (RFC 1952)

  /// In stored blocks: versions of zlib do not compress to the same bytes.
  private static func gzip(_ bytes: [UInt8]) -> [UInt8] {
    var result: [UInt8] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255]
    var rest = bytes[...]
    repeat {
      let part = rest.prefix(65535)
      rest = rest.dropFirst(part.count)
      result.append(rest.isEmpty ? 1 : 0)
      result += littleEndian(UInt16(part.count)) + littleEndian(~UInt16(part.count)) + part
    } while !rest.isEmpty
    let sum = crc32(0, bytes, UInt32(bytes.count))
    return result + littleEndian(UInt32(truncatingIfNeeded: sum)) + littleEndian(UInt32(bytes.count))
  }

  private static func littleEndian(_ number: some FixedWidthInteger) -> [UInt8] {
    withUnsafeBytes(of: number.littleEndian, Array.init)
  }
}
