import BatonRedis
import Foundation
import NIOCore
import NIOPosix

/// A `redis-server` of our own on a unix socket in a temporary folder, gone when we are.
struct PrivateRedis {
  let url: String
  let connector: RedisConnector
  private let child: Child
  private let folder: URL

  /// - Parameter port: on the loopback, beside the socket; 0: none.
  static func start(port: Int = 0) async throws(DevFailure) -> PrivateRedis {
    guard let server = ["redis-server", "valkey-server"].lazy.compactMap(find).first else {
      throw .unavailable(
        """
        redis-server is missing. Install it with
          apt install redis-server     (Debian, Ubuntu)
          dnf install valkey           (Fedora)
          brew install redis           (macOS)
        """)
    }
    // Short, because a socket's path may have some 100 characters.
    let folder = FileManager.default.temporaryDirectory.appending(
      path: "baton-" + String(UInt32.random(in: .min ... .max), radix: 36))
    do {
      try FileManager.default.createDirectory(
        at: folder, withIntermediateDirectories: false, attributes: [.posixPermissions: 0o700])
      let socket = folder.appending(path: "redis.sock").path
      // The shell outlives a killed parent just long enough to end the server and remove the folder.
      let script = #"trap '' PIPE; "$0" "$@" & pid=$!; cat > /dev/null; kill -KILL $pid; wait $pid; rm -rf "$FOLDER""#
      var environment = ProcessInfo.processInfo.environment
      environment["FOLDER"] = folder.path
      let child = try Child(
        URL(fileURLWithPath: "/bin/sh"),
        [
          "-c", script, server, "--port", "\(port)", "--bind", "127.0.0.1", "--unixsocket", socket, "--unixsocketperm",
          "700", "--dir", folder.path,
          "--save", "", "--appendonly", "no", "--daemonize", "no", "--logfile",
          folder.appending(path: "redis.log").path,
        ], environment: environment)
      let url = "unix://\(socket)"
      let redis = PrivateRedis(
        url: url, connector: try RedisConnector(RedisURL(url)), child: child, folder: folder)
      try await redis.waitUntilReady()
      return redis
    } catch let failure as DevFailure {
      throw failure
    } catch {
      throw .fault("redis-server could not be started: \(error)")
    }
  }

  private func waitUntilReady() async throws {
    let deadline = ContinuousClock.now + .seconds(10)
    while true {
      do {
        PrivateRedis.close(try await connect())
        return
      } catch {
        guard ContinuousClock.now < deadline else {
          let log = (try? String(contentsOf: folder.appending(path: "redis.log"), encoding: .utf8)) ?? ""
          await stop()
          throw DevFailure.unavailable("redis-server did not start within 10 s: \(error)\n\(log.suffix(2000))")
        }
        try await Task.sleep(for: .milliseconds(20))
      }
    }
  }

  /// The shell's that runs it.
  var processIdentifier: Int32 { child.processIdentifier }

  func connect() async throws -> RedisConnection {
    try await connector.connect(on: MultiThreadedEventLoopGroup.singleton.next()).get()
  }

  static func close(_ connection: RedisConnection) { connection.eventLoop.execute { connection.close() } }

  /// Ends it and removes its folder.
  func stop() async {
    await child.endInput()
    try? FileManager.default.removeItem(at: folder)
  }

  private static func find(_ name: String) -> String? {
    let path = ProcessInfo.processInfo.environment["PATH"] ?? "/usr/bin:/bin"
    return (path.split(separator: ":").map(String.init) + ["/opt/homebrew/bin", "/usr/local/bin"])
      .map { "\($0)/\(name)" }.first { FileManager.default.isExecutableFile(atPath: $0) }
  }
}

struct DevFailure: Error, CustomStringConvertible {
  var status: ExitStatus
  var description: String

  static func unavailable(_ what: String) -> DevFailure { DevFailure(status: .unavailable, description: what) }
  static func fault(_ what: String) -> DevFailure { DevFailure(status: .fault, description: what) }
  static func configuration(_ what: String) -> DevFailure { DevFailure(status: .configuration, description: what) }
}
