/// The browser client's modules as one: each in a function of its own, so that no two share a name.
enum WebBundle {
  struct Module {
    let name: String
    let source: String

    init(_ name: String, _ bytes: [UInt8]) {
      self.name = name
      source = String(decoding: bytes, as: UTF8.self)
    }
  }

  /// - Parameter modules: those that others import before these; the last one's exports are the bundle's.
  static func text(of modules: [Module]) -> String {
    var bundle =
      "// Baton \(batonVersion) in one file. Apache-2.0. The modules that it is made of are served beside it.\n"
    for module in modules { bundle += wrapped(module) }
    guard let last = modules.last else { return bundle }
    let exports = names(exportedBy: last)
    return bundle + "export const { \(exports.joined(separator: ", ")) } = \(variable(last.name));\n"
  }

  private static func wrapped(_ module: Module) -> String {
    var body = ""
    for line in module.source.split(separator: "\n", omittingEmptySubsequences: false) {
      if line.hasPrefix("import ") || line.hasPrefix("export {"), let reference = Reference(line) {
        body += "const { \(reference.names) } = \(variable(reference.module));\n"
      } else {
        body += (line.hasPrefix("export ") ? line.dropFirst("export ".count) : line) + "\n"
      }
    }
    let exports = names(exportedBy: module).joined(separator: ", ")
    return "const \(variable(module.name)) = (() => {\n\(body)return { \(exports) };\n})();\n"
  }

  /// `import { a, b } from './x.js';`, or the same with `export`.
  private struct Reference {
    let names: Substring
    let module: String

    init?(_ line: Substring) {
      guard let match = line.firstMatch(of: #/\{ (.*) \} from '\./(.*)\.js';/#) else { return nil }
      names = match.1
      module = String(match.2)
    }
  }

  private static func names(exportedBy module: Module) -> [String] {
    module.source.split(separator: "\n").flatMap { line -> [String] in
      if line.hasPrefix("export {") {
        return Reference(line).map { $0.names.split(separator: ", ").map(String.init) } ?? []
      }
      return line.firstMatch(of: #/^export (?:async )?(?:class|function|const) (\w+)/#).map { [String($0.1)] } ?? []
    }
  }

  private static func variable(_ module: String) -> String { module.replacing("-", with: "_") }
}
