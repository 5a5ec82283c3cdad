#if os(Linux)
  import BatonGateway
  import BatonProtocol
  import BatonSession
  import Foundation
  import NIOCore

  /// What does the work that is measured.
  protocol Contender: AnyObject {
    /// Where its devices attach.
    var port: Int { get }
    /// The processes that serve, and those of Redis; both empty where one thread of ours does the work.
    var servers: [Int32] { get }
    var stores: [Int32] { get }
    /// Whether its devices are told `live`; otherwise they are attached when 101 has come.
    var tellsLive: Bool { get }

    func request(_ session: Int, _ workload: Workload) -> [UInt8]
    /// Nanoseconds that the thread in its place has worked.
    var threadNanoseconds: UInt64 { get }
    func publisher() throws -> any Publisher
    /// Puts `missed` entries into each session.
    func fill(_ workload: Workload) async throws
    func stop() async
  }

  enum ContenderName: String, CaseIterable, Sendable {
    case baton
    case limit
    case nchan
    case nchanRedis = "nchan-redis"

    /// - Parameter gateway: the program that serves as `baton`.
    func start(_ workload: Workload, gateway: URL) async throws -> any Contender {
      switch self {
      case .baton: try await BatonContender(gateway)
      case .limit: try LimitContender(workload)
      case .nchan: try await NchanContender(usesRedis: false)
      case .nchanRedis: try await NchanContender(usesRedis: true)
      }
    }
  }

  private func upgrade(_ target: String) -> [UInt8] {
    Array(
      """
      GET \(target) HTTP/1.1\r
      Host: 127.0.0.1\r
      Connection: Upgrade\r
      Upgrade: websocket\r
      Sec-WebSocket-Version: 13\r
      Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r
      Sec-WebSocket-Protocol: baton.v1\r
      \r

      """.utf8)
  }

  // MARK: Baton

  /// A gateway and a Redis of its own.
  final class BatonContender: Contender {
    private let redis: PrivateRedis
    private let redisPort: Int
    private let gateway: Child
    let port: Int
    var servers: [Int32] { [gateway.processIdentifier] }
    var stores: [Int32] { redis.processes }
    let tellsLive = true
    let threadNanoseconds: UInt64 = 0
    private var offsets: [String] = []

    init(_ executable: URL) async throws {
      redisPort = try RawSocket.freePort()
      redis = try await PrivateRedis.start(port: redisPort)
      port = try RawSocket.freePort()
      var environment = ProcessInfo.processInfo.environment
      for key in environment.keys where key.hasPrefix("BATON_") { environment[key] = nil }
      let listening = DispatchSemaphore(value: 0)
      gateway = try Child(
        executable,
        [
          "serve", "--listen", "127.0.0.1:\(port)", "--redis", "redis://127.0.0.1:\(redisPort)", "--exit-with-stdin",
          "--log-level", "warning", "--drain-delay", "0s", "--drain-time", "1s", "--max-devices", "100000",
        ], environment: environment
      ) { line in
        if line.hasPrefix("listening on") { listening.signal() } else { LineOutput.say(line) }
      }
      let deadline = ContinuousClock.now + .seconds(20)
      while listening.wait(timeout: .now()) == .timedOut {
        guard ContinuousClock.now < deadline, gateway.isRunning else {
          await stop()
          throw BenchFailure("the gateway did not start")
        }
        try await Task.sleep(for: .milliseconds(10))
      }
    }

    func request(_ session: Int, _ workload: Workload) -> [UInt8] {
      var members: [String] = []
      if let rollup = workload.rollup { members.append("rollup=\(rollup)") }
      if session < offsets.count { members.append("offset=\(offsets[session])") }
      return upgrade("/v1/sessions/s\(session)?" + members.joined(separator: "&"))
    }

    func publisher() throws -> any Publisher { try RedisPublisher(port: redisPort) }

    /// One entry more, which the devices have.
    func fill(_ workload: Workload) async throws {
      let publisher = try RedisPublisher(port: redisPort)
      defer { publisher.close() }
      for session in 0..<workload.sessions {
        for number in 0...UInt64(workload.missed) {
          let data = Load.data(number, at: 0, bytes: workload.entryBytes)
          publisher.publish(session, number, data, id: "1-\(number + 1)")
          if number == 0 {
            let fields = RedisPublisher.fields(number, data).map {
              Entry.Field(name: ByteBuffer(bytes: $0), value: ByteBuffer(bytes: $1))
            }
            offsets.append(Offset(id: EntryID(1, 1), check: Check.of(fields)).description)
          }
        }
        try publisher.flush()
      }
      try await publisher.socket.waitForAnswers(workload.sessions * (workload.missed + 1))
    }

    func stop() async {
      await gateway.stop()
      await redis.stop()
    }
  }

  /// `XADD`, an entry each.
  final class RedisPublisher: Publisher {
    let socket: AnsweredSocket

    init(port: Int) throws {
      socket = try AnsweredSocket(port: port, answer: "\r\n$", refusals: ["\r\n-"])
    }

    static func fields(_ number: UInt64, _ data: [UInt8]) -> [([UInt8], [UInt8])] {
      [("response", "r1"), ("n", "\(number)")].map { (Array($0.utf8), Array($1.utf8)) } + [(Array("data".utf8), data)]
    }

    func publish(_ session: Int, _ number: UInt64, _ data: [UInt8]) { publish(session, number, data, id: "*") }

    func publish(_ session: Int, _ number: UInt64, _ data: [UInt8], id: String) {
      let fields = RedisPublisher.fields(number, data)
      socket.write("*\(3 + 2 * fields.count)\r\n".utf8)
      for text in ["XADD", "baton:{s\(session)}", id] { bulk(Array(text.utf8)) }
      for (name, value) in fields {
        bulk(name)
        bulk(value)
      }
    }

    private func bulk(_ bytes: [UInt8]) {
      socket.write("$\(bytes.count)\r\n".utf8)
      socket.write(bytes)
      socket.write("\r\n".utf8)
    }

    func flush() throws { try socket.flush() }
    func close() { socket.close() }
  }

  // MARK: the limit

  /// One thread that calls `send` with the same frames, once an entry and device, and nothing else: the least that any
  /// server pays.
  final class LimitContender: Contender, @unchecked Sendable {
    private let listener: RawSocket
    let port: Int
    let servers: [Int32] = []
    let stores: [Int32] = []
    let tellsLive = false
    private let shared = NSLock()
    private var sockets: [[RawSocket]]
    private var used: UInt64 = 0
    private let missed: Int
    private let entryBytes: Int

    init(_ workload: Workload) throws {
      (listener, port) = try RawSocket.listen()
      sockets = Array(repeating: [], count: workload.sessions)
      (missed, entryBytes) = (workload.kind == .storm ? workload.missed : 0, workload.entryBytes)
      Thread.detachNewThread { [self, workload] in accept(workload.devices) }
    }

    private func accept(_ count: Int) {
      for _ in 0..<count {
        guard let socket = listener.accept() else { return }
        var request: [UInt8] = []
        while !request.suffix(4).elementsEqual("\r\n\r\n".utf8), case let bytes = socket.receive(), !bytes.isEmpty {
          request += bytes
        }
        // The request that `request(_:_:)` made.
        let path = request.dropFirst("GET /".utf8.count).prefix { $0 != UInt8(ascii: " ") }
        guard let session = Int(String(decoding: path, as: UTF8.self)), sockets.indices.contains(session) else {
          socket.close()
          continue
        }
        socket.send(Array("HTTP/1.1 101 Switching Protocols\r\n\r\n".utf8))
        shared.withLock { sockets[session].append(socket) }
      }
      guard missed > 0 else { return }
      let all = shared.withLock { sockets.joined().map { $0 } }
      let start = baton.threadNanoseconds()
      for number in 1...UInt64(missed) {
        let frame = LimitContender.frame(number, Load.data(number, at: 0, bytes: entryBytes))
        for socket in all { socket.send(frame) }
      }
      let end = baton.threadNanoseconds()
      shared.withLock { used = end - start }
    }

    func request(_ session: Int, _ workload: Workload) -> [UInt8] { upgrade("/\(session)") }
    var threadNanoseconds: UInt64 { shared.withLock { used } }

    func publisher() throws -> any Publisher { LimitPublisher(self) }
    func fill(_ workload: Workload) async throws {}

    func stop() async {
      listener.shutDown()
      listener.close()
      shared.withLock { for socket in sockets.joined() { socket.close() } }
    }

    /// What a device of Baton is sent for the entry.
    static func frame(_ number: UInt64, _ data: [UInt8]) -> [UInt8] {
      let json =
        Array(#"{"id":"1764181107000-0.1a2b3c4d","event":"token","response":"r1","n":\#(number),"data":""#.utf8)
        + data + Array(#""}"#.utf8)
      return [0x81] + (json.count < 126 ? [UInt8(json.count)] : [126, UInt8(json.count >> 8), UInt8(json.count & 255)])
        + json
    }

    private final class LimitPublisher: Publisher {
      private let limit: LimitContender
      private var waiting: [(Int, [UInt8])] = []

      init(_ limit: LimitContender) { self.limit = limit }

      func publish(_ session: Int, _ number: UInt64, _ data: [UInt8]) {
        waiting.append((session, LimitContender.frame(number, data)))
      }

      func flush() throws {
        let sockets = limit.shared.withLock { limit.sockets }
        let start = baton.threadNanoseconds()
        for (session, frame) in waiting { for socket in sockets[session] { socket.send(frame) } }
        let end = baton.threadNanoseconds()
        limit.shared.withLock { limit.used += end - start }
        waiting.removeAll(keepingCapacity: true)
      }

      func close() {}
    }
  }

  // MARK: nchan

  /// nginx with nchan (Debian's libnginx-mod-nchan): channels in its memory or in a Redis.
  final class NchanContender: Contender {
    private let redis: PrivateRedis?
    private let nginx: Child
    private let folder: URL
    let port: Int
    var servers: [Int32] { ProcessUsage.family(of: nginx.processIdentifier).dropFirst().map { $0 } }
    var stores: [Int32] { redis?.processes ?? [] }
    let tellsLive = false
    let threadNanoseconds: UInt64 = 0

    private static let module = "/usr/lib/nginx/modules/ngx_nchan_module.so"

    init(usesRedis: Bool) async throws {
      guard FileManager.default.fileExists(atPath: NchanContender.module),
        FileManager.default.isExecutableFile(atPath: "/usr/sbin/nginx")
      else { throw BenchFailure("nchan is missing: apt install nginx libnginx-mod-nchan") }
      port = try RawSocket.freePort()
      let redisPort = try RawSocket.freePort()
      redis = usesRedis ? try await PrivateRedis.start(port: redisPort) : nil
      folder = FileManager.default.temporaryDirectory.appending(
        path: "nchan-" + String(UInt32.random(in: .min ... .max), radix: 36))
      try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: false)
      let upstream = usesRedis ? "upstream store { nchan_redis_server redis://127.0.0.1:\(redisPort); }" : ""
      let store = usesRedis ? "nchan_redis_pass store;" : ""
      try """
      load_module \(NchanContender.module);
      daemon off; worker_processes 1; worker_rlimit_nofile 65536; user root;
      pid \(folder.path)/pid; error_log \(folder.path)/errors crit;
      events { worker_connections 60000; }
      http {
        access_log off; keepalive_requests 1000000000; keepalive_timeout 1h; nchan_max_reserved_memory 2g;
        client_body_temp_path \(folder.path)/body; proxy_temp_path \(folder.path)/proxy;
        fastcgi_temp_path \(folder.path)/fastcgi; uwsgi_temp_path \(folder.path)/uwsgi;
        scgi_temp_path \(folder.path)/scgi;
        \(upstream)
        server {
          listen 127.0.0.1:\(port) backlog=4096;
          location = /sub {
            nchan_subscriber websocket; nchan_channel_id $arg_id; nchan_subscriber_first_message oldest; \(store)
          }
          location = /pub {
            nchan_publisher http; nchan_channel_id $arg_id; nchan_message_buffer_length 1000;
            nchan_message_timeout 10m; \(store)
          }
        }
      }
      """.write(to: folder.appending(path: "nginx.conf"), atomically: false, encoding: .utf8)
      nginx = try Child(
        URL(fileURLWithPath: "/bin/sh"),
        ["-c", #"trap '' PIPE; "$0" "$@" & pid=$!; cat > /dev/null; kill -TERM $pid; wait $pid"#]
          + ["/usr/sbin/nginx", "-c", folder.appending(path: "nginx.conf").path, "-p", folder.path]
      ) { LineOutput.say($0) }
      let deadline = ContinuousClock.now + .seconds(20)
      while !letsIn() {
        guard ContinuousClock.now < deadline else {
          await stop()
          throw BenchFailure("nginx did not start")
        }
        try await Task.sleep(for: .milliseconds(20))
      }
    }

    /// Not before nchan is connected to its Redis.
    private func letsIn() -> Bool {
      guard let socket = try? RawSocket.connect(port: port, blocks: true) else { return false }
      defer { socket.close() }
      socket.send(upgrade("/sub?id=none"))
      return socket.receive().starts(with: "HTTP/1.1 101".utf8)
    }

    func request(_ session: Int, _ workload: Workload) -> [UInt8] { upgrade("/sub?id=s\(session)") }

    func publisher() throws -> any Publisher { try NchanPublisher(port: port) }

    func fill(_ workload: Workload) async throws {
      let publisher = try NchanPublisher(port: port)
      defer { publisher.close() }
      for session in 0..<workload.sessions {
        for number in 1..<UInt64(workload.missed + 1) {
          publisher.publish(session, number, Load.data(number, at: 0, bytes: workload.entryBytes))
        }
        try publisher.flush()
        // Each has a fourth of the sessions; not all of it lies in buffers at once.
        for (index, socket) in publisher.sockets.enumerated() {
          let whole = (session + publisher.sockets.count - index) / publisher.sockets.count
          try await socket.waitForAnswers((whole - (session == workload.sessions - 1 ? 0 : 1)) * workload.missed)
        }
      }
    }

    func stop() async {
      await nginx.endInput()
      await redis?.stop()
      try? FileManager.default.removeItem(at: folder)
    }

    /// POSTs on four connections that stay.
    private final class NchanPublisher: Publisher {
      let sockets: [AnsweredSocket]

      init(port: Int) throws {
        sockets = try (0..<4).map { _ in
          try AnsweredSocket(port: port, answer: "HTTP/1.1 ", refusals: ["HTTP/1.1 4", "HTTP/1.1 5"])
        }
      }

      func publish(_ session: Int, _ number: UInt64, _ data: [UInt8]) {
        let body = LimitContender.frame(number, data).drop { $0 != UInt8(ascii: "{") }
        let socket = sockets[session % sockets.count]
        socket.write("POST /pub?id=s\(session) HTTP/1.1\r\nHost: a\r\nContent-Length: \(body.count)\r\n\r\n".utf8)
        socket.write(body)
      }

      func flush() throws { for socket in sockets { try socket.flush() } }
      func close() { for socket in sockets { socket.close() } }
    }
  }

  extension LineOutput {
    fileprivate static func say(_ line: String) { LineOutput.standardError.write(line + "\n") }
  }
#endif
