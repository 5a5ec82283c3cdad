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
    /// For the connection, TLS and the login together.
    package var connectTimeout = TimeAmount.seconds(5)
    package var limits = RESPLimits()
    /// Bytes of unanswered commands on one connection.
    package var maxPipelineBytes = 16 << 20

    package init() {}
  }

  package let url: RedisURL
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
    do {
      tls = try NIOSSLContext(configuration: configuration)
    } catch {
      throw .tls("\(url.caFile.map { "the file \($0)" } ?? "the system's certificates") can't be read: \(error)")
    }
  }

  /// The host's addresses are tried as RFC 8305 says, each over a channel of its own.
  package func connect(on eventLoop: any EventLoop) -> EventLoopFuture<RedisConnection> {
    eventLoop.flatSubmit { open(on: eventLoop) }
  }

  private func open(on eventLoop: any EventLoop) -> EventLoopFuture<RedisConnection> {
    let logins = NIOLoopBoundBox([ObjectIdentifier: EventLoopFuture<RedisConnection>](), eventLoop: eventLoop)
    let deadline = eventLoop.now + options.connectTimeout
    let bootstrap = ClientBootstrap(group: eventLoop)
      .connectTimeout(options.connectTimeout)
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
    return channel.flatMapErrorThrowing { error in
      throw error as? RedisError ?? .connectFailed("\(url): \(Self.why(error))")
    }.flatMap { channel in
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

  private static func why(_ error: any Error) -> String {
    guard let error = error as? NIOConnectionError else { return "\(error)" }
    if let first = error.connectionErrors.first { return "\(first.error)" }
    return "the host name can't be resolved (\(error.dnsAError ?? error.dnsAAAAError.map { $0 } ?? error))"
  }
}

extension RedisError {
  /// What went wrong below the connection.
  init(channel error: any Error) {
    switch error {
    case let error as RedisError: self = error
    case NIOSSLError.uncleanShutdown: self = .connectionLost
    case NIOSSLError.handshakeFailed(let reason): self = .tls("\(reason)")
    case let error as NIOSSLExtraError: self = .tls("\(error)")
    case let error as BoringSSLError: self = .tls("\(error)")
    case let error as NIOSSLError: self = .tls("\(error)")
    default: self = RedisError(.retry, .connectionLost, "the connection to Redis was lost: \(error)")
    }
  }
}
