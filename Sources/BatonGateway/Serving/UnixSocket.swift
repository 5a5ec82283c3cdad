import Foundation

/// What the C library wants for a unix socket.
enum UnixSocket {
  /// Whether somebody listens there.
  static func accepts(_ path: String) -> Bool {
    opened(stream) { descriptor in withAddress(path) { connect(descriptor, $0, $1) } == 0 } ?? false
  }

  /// One datagram. A leading `@` stands for the zero of an abstract address.
  static func send(_ message: String, to path: String) {
    _ = opened(datagram) { descriptor in
      withAddress(path) { address, length in
        sendto(descriptor, message, message.utf8.count, Int32(MSG_DONTWAIT), address, length)
      }
    }
  }

  #if canImport(Glibc)
    private static let stream = Int32(SOCK_STREAM.rawValue)
    private static let datagram = Int32(SOCK_DGRAM.rawValue)
  #else
    private static let stream = SOCK_STREAM
    private static let datagram = SOCK_DGRAM
  #endif

  private static func opened<T>(_ kind: Int32, _ body: (Int32) -> T) -> T? {
    let descriptor = socket(AF_UNIX, kind, 0)
    guard descriptor >= 0 else { return nil }
    defer { close(descriptor) }
    return body(descriptor)
  }

  private static func withAddress<T: FixedWidthInteger>(
    _ path: String, _ body: (UnsafePointer<sockaddr>, socklen_t) -> T
  ) -> T {
    var address = sockaddr_un()
    address.sun_family = sa_family_t(AF_UNIX)
    var bytes = Array(path.utf8)
    if bytes.first == UInt8(ascii: "@") { bytes[0] = 0 }
    guard bytes.count <= ListenAddress.maxPathBytes else { return -1 }
    withUnsafeMutableBytes(of: &address.sun_path) { $0.copyBytes(from: bytes) }
    let isAbstract = bytes.first == 0
    let length = MemoryLayout<sockaddr_un>.offset(of: \.sun_path).map { $0 + bytes.count + (isAbstract ? 0 : 1) } ?? 0
    return withUnsafePointer(to: &address) {
      $0.withMemoryRebound(to: sockaddr.self, capacity: 1) { body($0, socklen_t(length)) }
    }
  }
}
