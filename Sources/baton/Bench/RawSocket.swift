#if os(Linux)
  import Glibc

  /// A TCP socket on the loopback, with as little around it as there can be.
  struct RawSocket {
    let descriptor: Int32

    struct Failure: Error, CustomStringConvertible {
      let call: String
      let code = errno

      var description: String { "\(call): \(String(cString: strerror(code)))" }
    }

    /// Sockets that may share one address: looking for a free port costs more the fewer are left.
    private static let perAddress = 2_000

    /// - Parameters:
    ///   - blocks: false: connecting goes on while this returns.
    ///   - number: how many were connected before it: each 2,000 come from another address of the loopback.
    static func connect(port: Int, blocks: Bool, number: Int = 0) throws(Failure) -> RawSocket {
      let socket = try open(blocks: blocks)
      var on: Int32 = 1
      setsockopt(socket.descriptor, Int32(IPPROTO_IP), IP_BIND_ADDRESS_NO_PORT, &on, 4)
      let isBound = socket.with(loopback(0, host: 1 + number / perAddress % 250)) { bind(socket.descriptor, $0, $1) }
      let isConnected = socket.with(loopback(port)) { Glibc.connect(socket.descriptor, $0, $1) }
      guard isBound == 0, isConnected == 0 || errno == EINPROGRESS else {
        let failure = Failure(call: "connect")
        socket.close()
        throw failure
      }
      return socket
    }

    private func with(_ address: sockaddr_in, _ call: (UnsafePointer<sockaddr>, socklen_t) -> Int32) -> Int32 {
      withUnsafePointer(to: address) {
        $0.withMemoryRebound(to: sockaddr.self, capacity: 1) { call($0, socklen_t(MemoryLayout<sockaddr_in>.size)) }
      }
    }

    /// Listens on a free port.
    static func listen() throws(Failure) -> (RawSocket, port: Int) {
      let socket = try open(blocks: true)
      var address = loopback(0)
      var size = socklen_t(MemoryLayout<sockaddr_in>.size)
      let isBound = withUnsafeMutablePointer(to: &address) {
        $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
          bind(socket.descriptor, $0, size) == 0 && Glibc.listen(socket.descriptor, 4096) == 0
            && getsockname(socket.descriptor, $0, &size) == 0
        }
      }
      guard isBound else {
        let failure = Failure(call: "listen")
        socket.close()
        throw failure
      }
      return (socket, Int(UInt16(bigEndian: address.sin_port)))
    }

    /// A port that nobody listened on a moment ago.
    static func freePort() throws(Failure) -> Int {
      let (socket, port) = try listen()
      socket.close()
      return port
    }

    private static func open(blocks: Bool) throws(Failure) -> RawSocket {
      let flags = Int32(SOCK_CLOEXEC.rawValue) | (blocks ? 0 : Int32(SOCK_NONBLOCK.rawValue))
      let descriptor = Glibc.socket(AF_INET, Int32(SOCK_STREAM.rawValue) | flags, 0)
      guard descriptor >= 0 else { throw Failure(call: "socket") }
      var on: Int32 = 1
      setsockopt(descriptor, Int32(IPPROTO_TCP), TCP_NODELAY, &on, 4)
      return RawSocket(descriptor: descriptor)
    }

    private static func loopback(_ port: Int, host: Int = 1) -> sockaddr_in {
      var address = sockaddr_in()
      address.sin_family = sa_family_t(AF_INET)
      address.sin_port = UInt16(truncatingIfNeeded: port).bigEndian
      address.sin_addr.s_addr = (0x7F00_0000 | UInt32(truncatingIfNeeded: host)).bigEndian
      return address
    }

    /// Nil at the end, or when the peer has gone.
    func accept() -> RawSocket? {
      let accepted = Glibc.accept(descriptor, nil, nil)
      guard accepted >= 0 else { return nil }
      var on: Int32 = 1
      setsockopt(accepted, Int32(IPPROTO_TCP), TCP_NODELAY, &on, 4)
      return RawSocket(descriptor: accepted)
    }

    /// All of it, waiting where that is needed; false when the peer has gone.
    @discardableResult
    func send(_ bytes: UnsafeRawBufferPointer) -> Bool {
      var sent = 0
      while sent < bytes.count {
        let count = Glibc.send(
          descriptor, bytes.baseAddress.map { $0 + sent }, bytes.count - sent, Int32(MSG_NOSIGNAL))
        if count < 0, errno == EINTR { continue }
        guard count > 0 else { return false }
        sent += count
      }
      return true
    }

    @discardableResult
    func send(_ bytes: [UInt8]) -> Bool { bytes.withUnsafeBytes { send($0) } }

    /// Empty at the end.
    func receive() -> [UInt8] {
      var bytes = [UInt8](repeating: 0, count: 16_384)
      var count = -1
      repeat { count = recv(descriptor, &bytes, bytes.count, 0) } while count < 0 && errno == EINTR
      return Array(bytes.prefix(max(count, 0)))
    }

    /// Wakes whoever waits on it.
    func shutDown() { shutdown(descriptor, Int32(SHUT_RDWR)) }
    func close() { _ = Glibc.close(descriptor) }
  }
#endif
