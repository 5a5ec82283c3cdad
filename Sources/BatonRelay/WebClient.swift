import AsyncHTTPClient
import BatonUpstream
import Foundation
import NIOCore
import NIOHTTP1
import NIOPosix
import NIOSSL

/// An HTTP client for one address: over the proxy and with the certificates that the environment names.
package struct WebClient: Sendable {
  private let owner: Owner
  private let proxy: Proxy?
  package var client: HTTPClient { owner.client }

  /// The environment, or a file that was named, is of no use. In words.
  package struct Invalid: Error {
    package let description: String
  }

  /// Shuts it down when nobody has it any more.
  private final class Owner: Sendable {
    let client: HTTPClient

    init(_ client: HTTPClient) { self.client = client }

    deinit { client.shutdown { _ in } }
  }

  /// - Parameters:
  ///   - address: what will be asked.
  ///   - caFile: a PEM file of the certificates to trust, in place of the system's; else `SSL_CERT_FILE` is one.
  /// - Throws: ``Invalid`` where the environment or the file is of no use.
  package init(
    for address: String, caFile: String?, environment: [String: String] = ProcessInfo.processInfo.environment,
    _ configure: (inout HTTPClient.Configuration) -> Void = { _ in }
  ) throws(Invalid) {
    var configuration = HTTPClient.Configuration(
      redirectConfiguration: .disallow, timeout: .init(connect: .seconds(10)), decompression: .enabled(limit: .none))
    configuration.connectionPool.retryConnectionEstablishment = false
    configuration.httpVersion = .http1Only
    if let path = [caFile, environment["SSL_CERT_FILE"]].lazy.compactMap(\.self).first(where: { !$0.isEmpty }) {
      var tls = TLSConfiguration.makeClientConfiguration()
      do {
        tls.trustRoots = .certificates(try NIOSSLCertificate.fromPEMFile(path))
      } catch {
        throw Invalid(description: "no certificates can be read from '\(path)'")
      }
      configuration.tlsConfiguration = tls
    }
    proxy = try Proxy.named(in: environment, for: address)
    configure(&configuration)
    let initialize = configuration.http1_1ConnectionDebugInitializer
    let forward = proxy?.forward
    configuration.http1_1ConnectionDebugInitializer = { channel in
      // A peer that vanished is noticed, however long it may be silent.
      let kept = channel.setOption(.socketOption(.so_keepalive), value: 1).recover { _ in }
      return kept.flatMap { initialize?(channel) ?? channel.eventLoop.makeSucceededVoidFuture() }.flatMap {
        channel.eventLoop.makeCompletedFuture {
          guard let forward else { return }
          let pipeline = channel.pipeline.syncOperations
          let encoder = try pipeline.handler(type: HTTPRequestEncoder.self)
          try pipeline.addHandler(ForwardProxyHandler(forward), position: .after(encoder))
        }
      }
    }
    configuration.proxy = proxy?.tunnel
    owner = Owner(HTTPClient(configuration: configuration))
  }

  /// The address that the connection is made to: a proxy's for what it forwards.
  package func target(_ url: String) -> String { proxy?.target(url) ?? url }

  /// An HTTP library's error in words. Never as it prints itself: that may have headers in it.
  package static func words(_ error: any Error) -> String {
    switch error {
    case let error as HTTPClientError:
      return error.shortDescription.prefix(1).lowercased() + error.shortDescription.dropFirst()
    case let error as NIOConnectionError:
      if let inner = error.connectionErrors.first?.error { return words(inner) }
      return "the name \(error.host) is not known"
    case let error as IOError: return String(cString: strerror(error.errnoCode)).lowercased()
    case is NIOSSLError, is BoringSSLError, is NIOSSLExtraError:
      return "TLS: \(UpstreamAddress.masked("\(error)").prefix(300))"
    case is ChannelError: return "the connection was closed"
    case is HTTPParserError: return "the answer is no HTTP"
    default: return "\(type(of: error))"
    }
  }
}

/// A proxy that `http_proxy`, `https_proxy` or `all_proxy` names, in either case (curl(1)).
private struct Proxy: Sendable {
  let scheme: String
  let host: String
  let port: Int
  let login: String?
  /// Whether what is asked over it is https.
  let isTunnel: Bool
  /// `http://host:port` of what is asked.
  let origin: String

  static func named(in environment: [String: String], for address: String) throws(WebClient.Invalid) -> Proxy? {
    func value(_ name: String) -> String? {
      // The upper case of this one is a request's header where a server starts us (CVE-2016-5385).
      let upper = name == "http_proxy" && environment["REQUEST_METHOD"] != nil ? nil : environment[name.uppercased()]
      return [environment[name], upper].lazy.compactMap { $0?.trimmingCharacters(in: .whitespaces) }.first {
        !$0.isEmpty
      }
    }
    guard let url = URLComponents(string: address), let host = url.host?.lowercased(),
      let scheme = url.scheme?.lowercased(),
      let named = value("\(scheme)_proxy") ?? value("all_proxy"),
      !isExcepted(host, url.port ?? (scheme == "https" ? 443 : 80), value("no_proxy") ?? "")
    else { return nil }
    let text = named.contains("://") ? named : "http://\(named)"
    guard let proxy = URLComponents(string: text), let proxyHost = proxy.host, !proxyHost.isEmpty,
      let proxyScheme = proxy.scheme?.lowercased(), ["http", "socks5", "socks5h"].contains(proxyScheme)
    else {
      throw WebClient.Invalid(
        description: "the proxy '\(UpstreamAddress.masked(named))' is not an address like http://HOST:PORT")
    }
    return Proxy(
      scheme: proxyScheme, host: proxyHost.trimmingCharacters(in: ["[", "]"]),
      port: proxy.port ?? (proxyScheme == "http" ? 3128 : 1080),
      login: proxy.user.map { "\($0):\(proxy.password ?? "")" }, isTunnel: scheme == "https" || proxyScheme != "http",
      origin: "\(scheme)://\(url.percentEncodedHost ?? host)\(url.port.map { ":\($0)" } ?? "")")
  }

  /// `no_proxy`: names with all below them, addresses, blocks of IPv4 addresses, each with a port or without, or `*`.
  private static func isExcepted(_ host: String, _ port: Int, _ list: String) -> Bool {
    let host = host.trimmingCharacters(in: ["[", "]"])
    return list.lowercased().split(whereSeparator: { $0 == "," || $0.isWhitespace }).contains { entry in
      if entry == "*" { return true }
      if let slash = entry.firstIndex(of: "/"), let bits = Int(entry[entry.index(after: slash)...]),
        (1...32).contains(bits),
        let block = ipv4(entry[..<slash]), let address = ipv4(host[...])
      {
        return block >> (32 - bits) == address >> (32 - bits)
      }
      var name = entry[...]
      if name.count(where: { $0 == ":" }) == 1, let colon = name.firstIndex(of: ":") {
        guard Int(name[name.index(after: colon)...]) == port else { return false }
        name = name[..<colon]
      }
      let plain = name.trimmingCharacters(in: ["[", "]", "*"]).drop { $0 == "." }
      return !plain.isEmpty && (host == plain || host.hasSuffix("." + plain))
    }
  }

  private static func ipv4(_ text: Substring) -> UInt32? {
    let parts = text.split(separator: ".", omittingEmptySubsequences: false).compactMap { UInt8($0) }
    return parts.count == 4 ? parts.reduce(0) { $0 << 8 | UInt32($1) } : nil
  }

  private var authorization: HTTPClient.Authorization? {
    login.map { .basic(credentials: Data($0.utf8).base64EncodedString()) }
  }

  /// How a connection through it is made.
  var tunnel: HTTPClient.Configuration.Proxy? {
    guard isTunnel else { return nil }
    if scheme != "http" { return .socksServer(host: host, port: port) }
    return authorization.map { .server(host: host, port: port, authorization: $0) } ?? .server(host: host, port: port)
  }

  /// What a request carries that is handed to it.
  var forward: ForwardProxyHandler.Route? {
    isTunnel ? nil : ForwardProxyHandler.Route(origin: origin, authorization: authorization?.headerValue)
  }

  func target(_ url: String) -> String {
    guard !isTunnel, url.hasPrefix(origin) else { return url }
    return "http://\(host.contains(":") ? "[\(host)]" : host):\(port)\(url.dropFirst(origin.count))"
  }
}

/// Writes requests as a forward proxy wants them: with the absolute form of the target (RFC 9112 section 3.2.2).
final class ForwardProxyHandler: ChannelOutboundHandler {
  typealias OutboundIn = HTTPClientRequestPart
  typealias OutboundOut = HTTPClientRequestPart

  struct Route: Sendable {
    let origin: String
    let authorization: String?
  }

  private let route: Route

  init(_ route: Route) { self.route = route }

  func write(context: ChannelHandlerContext, data: NIOAny, promise: EventLoopPromise<Void>?) {
    guard case .head(var head) = unwrapOutboundIn(data) else { return context.write(data, promise: promise) }
    head.uri = route.origin + head.uri
    head.headers.replaceOrAdd(name: "host", value: String(route.origin.drop { $0 != "/" }.dropFirst(2)))
    if let authorization = route.authorization {
      head.headers.replaceOrAdd(name: "proxy-authorization", value: authorization)
    }
    context.write(wrapOutboundOut(.head(head)), promise: promise)
  }
}
