import HTTPTypes
import HummingbirdCore
import NIOCore

/// The browser client, the demo page and the descriptions of the protocol, held in the executable.
package struct WebFiles: Sendable {
  package struct File: Sendable {
    package let type: String
    package let content: ByteBuffer
    /// A strong entity tag (RFC 9110 section 8.8.3).
    package let tag: String

    init(_ type: String, _ bytes: [UInt8]) {
      self.type = type
      content = ByteBuffer(bytes: bytes)
      var hash: UInt64 = 0xcbf2_9ce4_8422_2325
      for byte in bytes { hash = (hash ^ UInt64(byte)) &* 0x100_0000_01b3 }
      tag = "\"\(String(hash, radix: 16))-\(bytes.count)\""
    }
  }

  private static let page = "text/html; charset=utf-8"
  private static let script = "text/javascript; charset=utf-8"

  /// The browser client's, each behind those that it imports.
  private static let modules = [
    ("baton-error", PackageResources.baton_error_js),
    ("baton-page", PackageResources.baton_page_js),
    ("baton-text", PackageResources.baton_text_js),
    ("baton-view", PackageResources.baton_view_js),
    ("baton-reader", PackageResources.baton_reader_js),
    ("baton-keeper", PackageResources.baton_keeper_js),
    ("baton-wire", PackageResources.baton_wire_js),
    ("baton-connector", PackageResources.baton_connector_js),
    ("baton-machine", PackageResources.baton_machine_js),
    ("baton-session", PackageResources.baton_session_js),
    ("baton", PackageResources.baton_js),
  ]

  /// Modules that apps import beside `baton`, each with its types.
  private static let additions = [
    ("baton-react", PackageResources.baton_react_js, PackageResources.baton_react_d_ts),
    ("baton-ai-sdk", PackageResources.baton_ai_sdk_js, PackageResources.baton_ai_sdk_d_ts),
    ("baton-resumable", PackageResources.baton_resumable_js, PackageResources.baton_resumable_d_ts),
  ]

  package let files: [String: File]

  package init() {
    var files = WebFiles.others
    let modules = WebFiles.modules + WebFiles.additions.map { ($0.0, $0.1) }
    let types = [("baton", PackageResources.baton_d_ts)] + WebFiles.additions.map { ($0.0, $0.2) }
    for (name, bytes) in modules { files["/\(name).js"] = File(WebFiles.script, bytes) }
    for (name, bytes) in types { files["/\(name).d.ts"] = File("text/plain; charset=utf-8", bytes) }
    let packed =
      modules.map { WebPackage.File(name: "\($0.0).js", bytes: $0.1) }
      + types.map { WebPackage.File(name: "\($0.0).d.ts", bytes: $0.1) }
    files["/baton.tgz"] = File("application/gzip", WebPackage.archive(of: packed, entries: types.map(\.0)))
    let bundle = WebBundle.text(of: WebFiles.modules.map(WebBundle.Module.init))
    files["/baton.bundle.js"] = File(WebFiles.script, Array(bundle.utf8))
    self.files = files
  }

  private static let others: [String: File] = [
    "/openapi.json": File("application/json", PackageResources.openapi_json),
    "/asyncapi.json": File("application/json", PackageResources.asyncapi_json),
    "/demo": File(page, PackageResources.demo_html),
    "/demo-device.html": File(page, PackageResources.demo_device_html),
    "/demo.css": File("text/css; charset=utf-8", PackageResources.demo_css),
    "/demo.js": File(script, PackageResources.demo_js),
    "/demo-cable.js": File(script, PackageResources.demo_cable_js),
    "/demo-device.js": File(script, PackageResources.demo_device_js),
    "/demo-journal.js": File(script, PackageResources.demo_journal_js),
    "/demo-qr.js": File(script, PackageResources.demo_qr_js),
    "/demo-wires.js": File(script, PackageResources.demo_wires_js),
  ]

  package func file(_ path: Substring) -> File? { files[path == "/demo/" ? "/demo" : String(path)] }

  /// - Throws: `Problem` 404, 405.
  package func response(to request: Request, path: Substring) throws(Problem) -> Response {
    guard let file = file(path) else { throw .noSuchPath }
    guard request.method == .get || request.method == .head else { throw .methodNotAllowed("GET, HEAD") }
    if path == "/demo/" {
      // What the page asks for is relative to the folder that it lies in.
      var response = Response(status: .permanentRedirect)
      response.headers[.location] = "../demo" + (request.uri.query.map { "?\($0)" } ?? "")
      response.headers[.contentLength] = "0"
      return response
    }
    var response = Response(status: .ok, body: ResponseBody(byteBuffer: file.content))
    response.headers[.contentType] = file.type
    response.headers[.contentLength] = String(file.content.readableBytes)
    response.headers[.eTag] = file.tag
    response.headers[.cacheControl] = "no-cache"
    response.headers[.xContentTypeOptions] = "nosniff"
    // Modules are loaded across origins; what they may do is decided where they attach.
    response.headers[.accessControlAllowOrigin] = "*"
    if request.headers[.ifNoneMatch].map({ $0.contains(file.tag) || $0 == "*" }) == true {
      response.status = .notModified
      response.body = ResponseBody()
      response.headers[.contentLength] = nil
    }
    return response
  }
}
