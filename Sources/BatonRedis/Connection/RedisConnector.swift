import NIOCore
import NIOPosix
import NIOSSL

/// Whoever opens connections for a ``RedisLink``.
package protocol RedisConnecting: Sendable {
  /// Succeeds after the login; fails with a ``RedisError``.
  func connect(on eventLoop: any EventLoop) -> EventLoopFuture<RedisConnection>
}

/// Opens connections to one Redis server.
package struct RedisConnector: RedisConnecting {
  package struct Options: Sendable {
    /// Shown by `CLIENT LIST`; no spaces.
    package var clientName = "baton"
    /// For the connection, TLS and the login together, where the URL does not say it.
    package var connectTimeout = TimeAmount.seconds(5)
    package var limits = RESPLimits()
    /// Bytes of unanswered commands on one connection.
    package var maxPipelineBytes = 16 << 20

    package init() {}
  }

  package private(set) var url: RedisURL
  package let options: Options
  private let tls: NIOSSLContext?

  /// Reads the certificates; throws where they can't be read.
  package init(_ url: RedisURL, options: Options = Options()) throws(RedisError) {
    (self.url, self.options) = (url, options)
    guard url.usesTLS else {
      tls = nil
      return
    }
    var configuration = TLSConfiguration.makeClientConfiguration()
    if let file = url.caFile { configuration.trustRoots = .file(file) }
    if let certificate = url.certificateFile, let key = url.keyFile {
      configuration.certificateChain = try Self.read(certificate) {
        try NIOSSLCertificate.fromPEMFile($0).map { .certificate($0) }
      }
      configuration.privateKey = try Self.read(key) { .privateKey(try NIOSSLPrivateKey(file: $0, format: .pem)) }
    }
    tls = try Self.read(url.caFile) { [configuration] _ in try NIOSSLContext(configuration: configuration) }
  }

  /// For another server with the same login and certificates.
  package func to(_ url: RedisURL) -> RedisConnector {
    var connector = self
    connector.url = url
    return connector
  }

  private static func read<File, Content>(
    _ file: File, _ body: (File) throws -> Content
  ) throws(RedisError) -> Content {
    do {
      return try body(file)
    } catch {
      let name = file as? String
      throw .tls("\(name.map { "the file \($0)" } ?? "the system's certificates") can't be read as PEM: \(error)")
    }
  }

  /// The host's addresses are tried as RFC 8305 says, each over a channel of its own.
  package func connect(on eventLoop: any EventLoop) -> EventLoopFuture<RedisConnection> {
    eventLoop.flatSubmit { open(on: eventLoop) }
  }

  /// `resolver` nil asks the system.
  func open(
    on eventLoop: any EventLoop, resolver: (any Resolver & Sendable)? = nil
  ) -> EventLoopFuture<RedisConnection> {
    let logins = NIOLoopBoundBox([ObjectIdentifier: EventLoopFuture<RedisConnection>](), eventLoop: eventLoop)
    let timeout = url.connectTimeout ?? options.connectTimeout
    let deadline = eventLoop.now + timeout
    let bootstrap = ClientBootstrap(group: eventLoop).resolver(resolver)
      .connectTimeout(timeout)
      .channelOption(
        .recvAllocator, value: AdaptiveRecvByteBufferAllocator(minimum: 1024, initial: 4096, maximum: 256 << 10)
      )
      .channelInitializer { channel in
        channel.eventLoop.makeCompletedFuture {
          if let tls { try channel.pipeline.syncOperations.addHandler(tlsHandler(tls)) }
          logins.value[ObjectIdentifier(channel)] = try RedisConnection.logIn(
            over: channel, url, options, deadline: deadline)
        }
      }
    let channel =
      switch url.address {
      case .tcp(let host, let port): bootstrap.connect(host: host, port: port)
      case .unix(let path): bootstrap.connect(unixDomainSocketPath: path)
      }
    return channel.flatMapErrorThrowing { throw RedisError.notConnected($0, url) }.flatMap { channel in
      logins.value[ObjectIdentifier(channel)] ?? channel.eventLoop.makeFailedFuture(RedisError.connectionLost)
    }
  }

  private func tlsHandler(_ context: NIOSSLContext) throws -> NIOSSLClientHandler {
    guard case .tcp(let host, _) = url.address, (try? SocketAddress(ipAddress: host, port: 0)) == nil else {
      // An address is compared with the certificate's addresses.
      return try NIOSSLClientHandler(context: context, serverHostname: nil)
    }
    return try NIOSSLClientHandler(context: context, serverHostname: host)
  }
}
