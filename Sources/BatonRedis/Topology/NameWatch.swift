import NIOCore
import NIOPosix

#if canImport(Glibc)
  import Glibc
#else
  import Darwin
#endif

/// Sees that a server's name leads to another address than the one that a connection is to: behind such a name managed
/// Redis puts its new master. Everything is called, and calls back, on one event loop.
package final class NameWatch {
  private let host: String
  private let eventLoop: any EventLoop
  private let interval: TimeAmount
  private let resolve: @Sendable (String) throws -> [String]
  private let connection: () -> RedisConnection?
  private let moved: () -> Void
  /// Looks in a row that did not find the connection's address.
  private var misses = 0
  private var isStopped = false

  /// A name that leads to many addresses, a few at a time, may miss one of them once.
  static let patience = 2

  /// Nil where the URL names no host, but an address, a socket or several servers.
  /// - Parameters:
  ///   - connection: one that is open to the server; nil while none is.
  ///   - moved: the name leads elsewhere.
  package init?(
    _ url: RedisURL, on eventLoop: any EventLoop, interval: TimeAmount = .seconds(5),
    resolve: @escaping @Sendable (String) throws -> [String] = NameWatch.addresses,
    connection: @escaping () -> RedisConnection?, moved: @escaping () -> Void
  ) {
    guard url.topology == .standalone, case .tcp(let host, _) = url.address,
      (try? SocketAddress(ipAddress: host, port: 0)) == nil
    else { return nil }
    (self.host, self.eventLoop, self.interval, self.resolve) = (host, eventLoop, interval, resolve)
    (self.connection, self.moved) = (connection, moved)
  }

  package func start() {
    eventLoop.assumeIsolated().scheduleTask(in: interval) { [weak self] in self?.look() }
  }

  package func stop() { isStopped = true }

  private func look() {
    if isStopped { return }
    let found = NIOThreadPool.singleton.runIfActive(eventLoop: eventLoop) { [host, resolve] in try resolve(host) }
    found.assumeIsolated().whenComplete { [weak self] result in
      guard let self, !self.isStopped else { return }
      self.compare((try? result.get()) ?? [])
      self.start()
    }
  }

  /// - Parameter addresses: none where the name can't be resolved now: that says nothing.
  private func compare(_ addresses: [String]) {
    guard !addresses.isEmpty, let here = connection()?.remoteAddress?.ipAddress else { return }
    misses = addresses.contains(here) ? 0 : misses + 1
    guard misses >= Self.patience else { return }
    misses = 0
    moved()
  }

  /// All addresses of a host, as this system resolves it; blocks.
  package static func addresses(of host: String) throws -> [String] {
    var hints = addrinfo()
    hints.ai_socktype = Int32(SOCK_STREAM.rawValue)
    var list: UnsafeMutablePointer<addrinfo>?
    guard getaddrinfo(host, nil, &hints, &list) == 0 else { return [] }
    defer { freeaddrinfo(list) }
    var found: [String] = []
    for one in sequence(first: list, next: { $0?.pointee.ai_next }) {
      guard let one = one?.pointee, let address = one.ai_addr else { break }
      var text = [CChar](repeating: 0, count: Int(NI_MAXHOST))
      if getnameinfo(address, one.ai_addrlen, &text, socklen_t(text.count), nil, 0, NI_NUMERICHOST) == 0 {
        found.append(String(decoding: text.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self))
      }
    }
    return found
  }
}
