import Foundation

/// A redis-server of a test's own, in a private directory. It ends with ``stop()`` or when it is let go of. The environment
/// variable `REDIS_SERVER` names another program than `redis-server`, say one of another version.
package final class RedisServer: @unchecked Sendable {
  package struct Failure: Error, CustomStringConvertible {
    package let description: String
  }

  package let directory: URL
  /// The unix socket; always there.
  package let socketPath: String
  /// On 127.0.0.1; 0 where none was asked for.
  package let port: Int
  package let tlsPort: Int

  private let arguments: [String]
  private let lock = NSLock()
  private var process: Process?

  package var unixURL: String { "unix://\(socketPath)" }
  package var url: String { "redis://127.0.0.1:\(port)" }
  package var pid: Int32 { lock.withLock { process?.processIdentifier ?? 0 } }

  /// Starts and waits until it takes connections. Further `arguments` as on redis-server's command line. With `tls` the
  /// directory must hold `redis.crt`, `redis.key` and `ca.crt`.
  package init(tcp: Bool = false, tls: Bool = false, directory: URL? = nil, _ arguments: String...) throws {
    self.directory = try directory ?? Self.makeDirectory()
    socketPath = self.directory.appending(path: "redis.sock").path
    port = tcp ? try Self.freePort() : 0
    tlsPort = tls ? try Self.freePort() : 0
    var all = [
      "--port", "\(port)", "--bind", "127.0.0.1", "--unixsocket", socketPath, "--dir", self.directory.path,
      "--save", "", "--appendonly", "no", "--daemonize", "no", "--logfile", "redis.log",
    ]
    // Redis 6 has no such option: there, DEBUG is always on.
    if try tls || Self.version.get() >= 7 { all += ["--enable-debug-command", "local"] }
    if tls {
      all += ["--tls-port", "\(tlsPort)", "--tls-auth-clients", "no"]
      for (option, file) in [("cert", "redis.crt"), ("key", "redis.key"), ("ca-cert", "ca.crt")] {
        all += ["--tls-\(option)-file", self.directory.appending(path: file).path]
      }
    }
    self.arguments = all + arguments
    try start()
  }

  deinit {
    stop()
    try? FileManager.default.removeItem(at: directory)
  }

  private static let program = ProcessInfo.processInfo.environment["REDIS_SERVER"] ?? "redis-server"

  /// The first number of the server's version.
  package static let version = Result<Int, any Error>(catching: {
    let process = Process()
    process.executableURL = URL(filePath: "/usr/bin/env")
    process.arguments = [program, "--version"]
    let output = Pipe()
    process.standardOutput = output
    try process.run()
    let told = String(decoding: output.fileHandleForReading.readDataToEndOfFile(), as: UTF8.self)
    process.waitUntilExit()
    guard let number = told.firstMatch(of: /v=(\d+)/).flatMap({ Int($0.1) }) else {
      throw Failure(description: "\(program) does not tell its version; is it installed? \(told)")
    }
    return number
  })

  /// A private directory, short enough for a unix socket's path.
  package static func makeDirectory() throws -> URL {
    let directory = URL(filePath: "/tmp/baton-redis-\(UUID().uuidString.prefix(8))", directoryHint: .isDirectory)
    try FileManager.default.createDirectory(
      at: directory, withIntermediateDirectories: true, attributes: [.posixPermissions: 0o700])
    return directory
  }

  /// Again on the same socket and ports, after ``stop()``, with `more` arguments; waits until it takes connections.
  package func start(_ more: String...) throws {
    let process = Process()
    process.executableURL = URL(filePath: "/usr/bin/env")
    // Few packages carry a server that speaks TLS; Debian's does.
    process.arguments = [tlsPort == 0 ? Self.program : "redis-server"] + arguments + more
    process.standardOutput = FileHandle.nullDevice
    process.standardError = FileHandle.nullDevice
    try process.run()
    lock.withLock { self.process = process }
    let deadline = ContinuousClock.now + .seconds(30)
    while !Self.accepts(socketPath) {
      guard process.isRunning, ContinuousClock.now < deadline else {
        let log = try? String(contentsOf: directory.appending(path: "redis.log"), encoding: .utf8)
        throw Failure(description: "redis-server did not start; is it installed? \(log ?? "")")
      }
      usleep(5000)
    }
  }

  /// SIGKILL, and waits for its end.
  package func stop() {
    lock.withLock {
      guard let process else { return }
      kill(process.processIdentifier, SIGKILL)
      process.waitUntilExit()
      unlink(socketPath)
      self.process = nil
    }
  }

  /// SIGSTOP, until ``resume()``.
  package func pause() { kill(pid, SIGSTOP) }
  package func resume() { kill(pid, SIGCONT) }

  /// An authority, `ca.crt`, and with it a certificate for localhost and 127.0.0.1, `redis.crt` and `redis.key`, and
  /// another one for the same key that is no longer valid, `expired.crt`.
  package static func makeCertificates(in directory: URL) throws {
    let script = """
      set -e
      key() { openssl ecparam -genkey -name prime256v1 -noout -out $1.key; }
      key ca; key redis
      openssl req -x509 -new -key ca.key -subj '/CN=Test authority' -days 30 -out ca.crt
      openssl req -new -key redis.key -subj /CN=localhost -out redis.csr
      echo subjectAltName=DNS:localhost,IP:127.0.0.1 > names
      openssl x509 -req -in redis.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 30 -extfile names -out redis.crt
      openssl x509 -req -in redis.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days -1 -extfile names -out expired.crt
      """
    let process = Process()
    process.executableURL = URL(filePath: "/bin/sh")
    process.arguments = ["-c", script]
    process.currentDirectoryURL = directory
    process.standardError = FileHandle.nullDevice
    try process.run()
    process.waitUntilExit()
    if process.terminationStatus != 0 { throw Failure(description: "no certificates; is openssl installed?") }
  }

  /// What redis-cli prints for a command, without the last newline.
  @discardableResult
  package func cli(_ arguments: String...) throws -> String {
    let process = Process()
    process.executableURL = URL(filePath: "/usr/bin/env")
    process.arguments = ["redis-cli", "-s", socketPath] + arguments
    let output = Pipe()
    process.standardOutput = output
    try process.run()
    let bytes = output.fileHandleForReading.readDataToEndOfFile()
    process.waitUntilExit()
    return String(decoding: bytes, as: UTF8.self).trimmingCharacters(in: .newlines)
  }

  private static func withSocket<T>(_ family: Int32, _ body: (Int32) throws -> T) throws -> T {
    #if canImport(Darwin)
      let descriptor = socket(family, SOCK_STREAM, 0)
    #else
      let descriptor = socket(family, Int32(SOCK_STREAM.rawValue), 0)
    #endif
    guard descriptor >= 0 else { throw Failure(description: "no socket: errno \(errno)") }
    defer { close(descriptor) }
    return try body(descriptor)
  }

  private static func accepts(_ path: String) -> Bool {
    let connected = try? withSocket(AF_UNIX) { descriptor in
      var address = sockaddr_un()
      address.sun_family = sa_family_t(AF_UNIX)
      withUnsafeMutableBytes(of: &address.sun_path) { $0.copyBytes(from: path.utf8.prefix($0.count - 1)) }
      return withUnsafePointer(to: &address) {
        $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
          connect(descriptor, $0, socklen_t(MemoryLayout<sockaddr_un>.size)) == 0
        }
      }
    }
    return connected ?? false
  }

  private static func freePort() throws -> Int {
    try withSocket(AF_INET) { descriptor in
      var address = sockaddr_in()
      address.sin_family = sa_family_t(AF_INET)
      address.sin_addr.s_addr = UInt32(0x7f00_0001).bigEndian
      var length = socklen_t(MemoryLayout<sockaddr_in>.size)
      let bound = withUnsafeMutablePointer(to: &address) {
        $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
          bind(descriptor, $0, length) == 0 && getsockname(descriptor, $0, &length) == 0
        }
      }
      guard bound else { throw Failure(description: "no free port: errno \(errno)") }
      return Int(UInt16(bigEndian: address.sin_port))
    }
  }
}
