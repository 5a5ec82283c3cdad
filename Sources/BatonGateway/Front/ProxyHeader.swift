import NIOConcurrencyHelpers
import NIOCore

/// What a proxy says before the first byte of its client: whose connection it passes on (HAProxy's PROXY protocol, versions
/// 1 and 2).
package struct ProxyHeader: Sendable, Equatable {
  /// Nil: the proxy's own, as a check of its is; or one of no IP address.
  package var client: SocketAddress?

  package enum Problem: Error, Equatable {
    case notThere, tooLong, malformed
  }

  /// Bytes of a header; of version 1 it is 107.
  package static let longest = 4096
  private static let longestLine = 107
  private static let signature: [UInt8] = [13, 10, 13, 10, 0, 13, 10, 0x51, 0x55, 0x49, 0x54, 10]

  /// Takes the header from the front of the bytes.
  /// - Returns: nil: it is not whole yet, and the bytes are as they were.
  /// - Throws: `Problem` as soon as it can't become one.
  package init?(taking bytes: inout ByteBuffer) throws(Problem) {
    let view = bytes.readableBytesView
    if Self.begins(view, Self.signature) {
      guard let (header, length) = try Self.binary(view) else { return nil }
      self = header
      bytes.moveReaderIndex(forwardBy: length)
    } else if Self.begins(view, "PROXY ".utf8) {
      guard let (header, length) = try Self.line(view) else { return nil }
      self = header
      bytes.moveReaderIndex(forwardBy: length)
    } else {
      throw .notThere
    }
  }

  private init(client: SocketAddress?) { self.client = client }

  /// As far as there is anything.
  private static func begins(_ view: ByteBufferView, _ start: some Collection<UInt8>) -> Bool {
    view.starts(with: start.prefix(view.count))
  }

  // MARK: version 1

  private static func line(_ view: ByteBufferView) throws(Problem) -> (ProxyHeader, Int)? {
    let start = view.prefix(longestLine)
    guard let end = start.firstIndex(of: 10) else {
      if view.count >= longestLine { throw .tooLong }
      return nil
    }
    let length = end - view.startIndex + 1
    guard length >= 2, view[end - 1] == 13 else { throw .malformed }
    let words = String(decoding: view[view.startIndex..<end - 1], as: UTF8.self)
      .split(separator: " ", omittingEmptySubsequences: false)
    if words.count > 1, words[1] == "UNKNOWN" { return (ProxyHeader(client: nil), length) }
    guard words.count == 6, let isIPv6 = ["TCP4": false, "TCP6": true][words[1]],
      let client = address(words[2], port: words[4], isIPv6), address(words[3], port: words[5], isIPv6) != nil
    else { throw .malformed }
    return (ProxyHeader(client: client), length)
  }

  private static func address(_ host: Substring, port: Substring, _ isIPv6: Bool) -> SocketAddress? {
    guard let port = Int(port), (0...65_535).contains(port),
      let address = try? SocketAddress(ipAddress: String(host), port: port),
      (address.protocol == .inet6) == isIPv6
    else { return nil }
    return address
  }

  // MARK: version 2

  private static func binary(_ view: ByteBufferView) throws(Problem) -> (ProxyHeader, Int)? {
    guard view.count >= 16 else { return nil }
    let at = view.startIndex
    let (version, family) = (view[at + 12], view[at + 13])
    let length = Int(view[at + 14]) << 8 | Int(view[at + 15])
    // Local, or proxied.
    guard version == 0x20 || version == 0x21 else { throw .malformed }
    guard 16 + length <= longest else { throw .tooLong }
    guard view.count >= 16 + length else { return nil }
    let rest = view[at + 16..<at + 16 + length]
    let (header, addresses): (ProxyHeader, Int) =
      switch family {
      case _ where version == 0x20: (ProxyHeader(client: nil), 0)
      case 0x11: (ProxyHeader(client: address(rest, bytes: 4)), 12)
      case 0x21: (ProxyHeader(client: address(rest, bytes: 16)), 36)
      // Unspecified, datagrams and Unix sockets: there is no address of a TCP client.
      case 0x00: (ProxyHeader(client: nil), 0)
      case 0x12: (ProxyHeader(client: nil), 12)
      case 0x22: (ProxyHeader(client: nil), 36)
      case 0x31, 0x32: (ProxyHeader(client: nil), 216)
      default: throw .malformed
      }
    guard length >= addresses else { throw .malformed }
    // What stands behind the addresses (TLVs) says nothing that is asked for here.
    return (header, 16 + length)
  }

  private static func address(_ view: ByteBufferView, bytes count: Int) -> SocketAddress? {
    guard view.count >= 2 * count + 4 else { return nil }
    let port = Int(view[view.startIndex + 2 * count]) << 8 | Int(view[view.startIndex + 2 * count + 1])
    return try? SocketAddress(packedIPAddress: ByteBuffer(bytes: view.prefix(count)), port: port)
  }
}

/// Takes the header that a trusted proxy sends first, before TLS, and is gone with it. A connection without one is closed:
/// whoever guesses can be told lies. How long it may take is the gate's to say: it waits for a request from the beginning.
final class ProxyHeaderHandler: ChannelInboundHandler, RemovableChannelHandler {
  typealias InboundIn = ByteBuffer
  typealias InboundOut = ByteBuffer

  private let took: (ProxyHeader) -> Bool
  private let refused: (ProxyHeader.Problem) -> Void
  private var bytes = ByteBuffer()
  private var isOver = false

  /// - Parameter took: whether the connection may go on.
  init(took: @escaping (ProxyHeader) -> Bool, refused: @escaping (ProxyHeader.Problem) -> Void) {
    (self.took, self.refused) = (took, refused)
  }

  func channelRead(context: ChannelHandlerContext, data: NIOAny) {
    guard !isOver else { return }
    var read = unwrapInboundIn(data)
    bytes.writeBuffer(&read)
    let header: ProxyHeader
    do throws(ProxyHeader.Problem) {
      guard let whole = try ProxyHeader(taking: &bytes) else { return }
      header = whole
    } catch {
      refused(error)
      isOver = true
      return context.close(promise: nil)
    }
    isOver = true
    guard took(header) else { return context.close(promise: nil) }
    let rest = bytes
    bytes = ByteBuffer()
    if rest.readableBytes > 0 { context.fireChannelRead(wrapInboundOut(rest)) }
    context.pipeline.syncOperations.removeHandler(context: context, promise: nil)
  }
}

/// Whose connections proxies have said that they pass on.
final class ProxiedConnections: Sendable {
  private let clients = NIOLockedValueBox<[ObjectIdentifier: SocketAddress]>([:])

  /// Until the connection ends.
  func began(_ channel: any Channel, for client: SocketAddress) {
    let key = ObjectIdentifier(channel)
    clients.withLockedValue { $0[key] = client }
    channel.closeFuture.whenComplete { [clients] _ in clients.withLockedValue { $0[key] = nil } }
  }

  /// Who is at the other end of a connection, or of its proxy's.
  func peer(of channel: any Channel) -> SocketAddress? {
    clients.withLockedValue { $0.isEmpty ? nil : $0[ObjectIdentifier(channel)] } ?? channel.remoteAddress
  }
}
