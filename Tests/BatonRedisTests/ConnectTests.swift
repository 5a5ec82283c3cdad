import Foundation
import NIOCore
import NIOPosix
import RedisServer
import TestSupport
import Testing

@testable import BatonRedis

/// How a connection comes about, and what people are told where it does not.
@Suite struct ConnectTests {
  /// A host with these addresses.
  private final class Hosts: Resolver, Sendable {
    let (v4, v6): (EventLoopFuture<[SocketAddress]>, EventLoopFuture<[SocketAddress]>)

    init(_ loop: any EventLoop, port: Int, v4: [String], v6: [String]) {
      func addresses(_ all: [String]) -> EventLoopFuture<[SocketAddress]> {
        loop.makeSucceededFuture(all.compactMap { try? SocketAddress(ipAddress: $0, port: port) })
      }
      (self.v4, self.v6) = (addresses(v4), addresses(v6))
    }

    func initiateAQuery(host: String, port: Int) -> EventLoopFuture<[SocketAddress]> { v4 }
    func initiateAAAAQuery(host: String, port: Int) -> EventLoopFuture<[SocketAddress]> { v6 }
    func cancelQueries() {}
  }

  @Test func triesEveryAddress() async throws {
    let server = try RedisServer(tcp: true)
    let loop = loops.next()
    let connector = try RedisConnector(RedisURL("redis://some-host:\(server.port)"))
    func connect(v4: [String], v6: [String]) async throws -> RedisConnection {
      try await loop.flatSubmit {
        connector.open(on: loop, resolver: Hosts(loop, port: server.port, v4: v4, v6: v6))
      }.get()
    }
    // As localhost has them where Redis listens on 127.0.0.1.
    #expect(try await connect(v4: ["127.0.0.1"], v6: ["::1"]).ask(.ping).text == "PONG")
    #expect(try await connect(v4: ["127.0.0.9", "127.0.0.1"], v6: ["::1"]).ask(.ping).text == "PONG")
    let error = await #expect(throws: RedisError.self) { try await connect(v4: ["127.0.0.9"], v6: ["::1"]) }
    #expect(error?.reason == .connectFailed && error?.kind == .retry)
    let text = error?.description ?? ""
    #expect(text.contains("[::1]:\(server.port) refused") && text.contains("127.0.0.9:\(server.port) refused"))
  }

  @Test(arguments: [
    ("redis://127.0.0.1:1", "127.0.0.1:1 refused"), ("unix:///tmp/none.sock", "there is no such socket"),
    ("redis://no-such-host.invalid:1", "the host name can't be resolved"),
  ])
  func saysWhereNobodyAnswers(url: String, words: String) async throws {
    let error = await #expect(throws: RedisError.self) { try await connect(url) }
    #expect(error?.reason == .connectFailed && error?.kind == .retry)
    #expect(error?.description.contains(words) == true && error?.description.contains(url) == true, "\(error as Any)")
  }

  @Test func saysThatTheServerHasNoRoom() async throws {
    let server = try RedisServer(tcp: true, "--maxclients", "1")
    // The one that saw it start may not have gone yet.
    let first = try await eventually { try? await connect(server.unixURL) }
    // The server resets what it has not read, so that its words and the reset may come in one.
    for url in [server.url, server.unixURL, server.url + "/3", "redis://:secret@127.0.0.1:\(server.port)"] {
      for _ in 0..<20 {
        let error = await #expect(throws: RedisError.self) { try await connect(url) }
        #expect(error?.meaning == .shutsNewcomers && error?.kind == .retry, "\(error as Any)")
        #expect(error?.description == "Redis refused: ERR max number of clients reached")
      }
    }
    #expect(try await first.ask(.ping).text == "PONG")
  }

  @Test func letsReadersInWhileTheDiskIsFull() async throws {
    let server = try RedisServer()
    try server.cli("XADD", "s", "1-1", "data", "x")
    // A snapshot that can't be written, as on a full disk: a folder has its name.
    try FileManager.default.createDirectory(
      at: server.directory.appending(path: "dump.rdb"), withIntermediateDirectories: false)
    try server.cli("CONFIG", "SET", "save", "1 1")
    try server.cli("BGSAVE")
    _ = try await eventually { try server.cli("SET", "x", "y").contains("MISCONF") ? true : nil }
    let redis = try await connect(server.unixURL)
    #expect(try await redis.ask(.xrange("s", count: 1)).decodedEntries().entries.count == 1)
    for command in [RedisCommand.ping, .xadd("s", fields: [("data", "y")])] {
      let error = await #expect(throws: RedisError.self) { try await redis.ask(command) }
      #expect(error?.meaning == .refusesWrites && error?.shuts == false && error?.wantsMaster == false)
    }
  }

  @Test func letsInWhoMayOnlyRead() async throws {
    let server = try RedisServer(tcp: true)
    try server.cli("ACL", "SETUSER", "ann", "on", "nopass", "~*", "-@all", "+xrange")
    let redis = try await connect("redis://ann:@127.0.0.1:\(server.port)")
    #expect(try await redis.ask(.xrange("s", count: 1)).decodedEntries().entries.isEmpty)
    let error = await #expect(throws: RedisError.self) { try await redis.ask(.ping) }
    #expect(error?.meaning == .refusesThis && error?.code == "NOPERM")
    // It might have been meant as the user that it is.
    let alone = await #expect(throws: RedisError.self) { try await connect("redis://ann@127.0.0.1:\(server.port)") }
    #expect(alone?.description.contains("redis://USER:@HOST") == true && alone?.kind == .configuration)
  }

  /// Certificates, and a server that shows them.
  private func tls(_ arguments: String...) throws -> (server: RedisServer, file: (String) -> String) {
    let directory = try RedisServer.makeDirectory()
    try RedisServer.makeCertificates(in: directory)
    let certificate = arguments.first.map { directory.appending(path: $0).path }
    let server = try RedisServer(
      tls: true, directory: directory, "--bind", "127.0.0.1", "127.0.0.2",
      "--tls-cert-file", certificate ?? directory.appending(path: "redis.crt").path,
      "--tls-auth-clients", arguments.count > 1 ? arguments[1] : "no")
    return (server, { directory.appending(path: $0).path })
  }

  private func refusal(_ url: String, _ words: String) async throws {
    let error = await #expect(throws: RedisError.self) { try await connect(url) }
    #expect(error?.kind == .configuration && error?.reason == .tls)
    #expect(error?.description.contains(words) == true, "\(error as Any)")
  }

  @Test func checksTheCertificate() async throws {
    let (server, file) = try tls()
    for host in ["127.0.0.1", "localhost"] {
      let redis = try await connect("rediss://\(host):\(server.tlsPort)?cacert=\(file("ca.crt"))")
      #expect(try await redis.ask(.ping).text == "PONG")
    }
    try await refusal("rediss://localhost:\(server.tlsPort)", "?cacert=FILE")
    try await refusal("tls://127.0.0.2:\(server.tlsPort)?cacert=\(file("ca.crt"))", "is not for 127.0.0.2")
    try await refusal("rediss://localhost:1?cacert=/none.pem", "/none.pem can't be read")
    // A certificate that signed nothing of the server's.
    try await refusal(
      "rediss://localhost:\(server.tlsPort)?cacert=\(file("redis.crt"))", "was not issued by an authority in")
  }

  @Test func saysThatTheCertificateHasExpired() async throws {
    let (server, file) = try tls("expired.crt")
    try await refusal("rediss://localhost:\(server.tlsPort)?cacert=\(file("ca.crt"))", "expired on 20")
  }

  @Test func showsAClientCertificate() async throws {
    let (server, file) = try tls("redis.crt", "yes")
    let url = "rediss://localhost:\(server.tlsPort)?cacert=\(file("ca.crt"))"
    try await refusal(url, "?cert=FILE&key=FILE")
    let redis = try await connect("\(url)&cert=\(file("redis.crt"))&key=\(file("redis.key"))")
    #expect(try await redis.ask(.ping).text == "PONG")
    try await refusal("\(url)&cert=\(file("expired.crt"))&key=\(file("redis.key"))", "expired.crt")
    try await refusal("\(url)&cert=/none.crt&key=\(file("redis.key"))", "/none.crt can't be read")
    try await refusal("\(url)&cert=\(file("redis.crt"))&key=\(file("redis.crt"))", "redis.crt can't be read")
  }

  @Test func saysThatTheProtocolIsAnother() async throws {
    let (server, file) = try tls()
    let plain = await #expect(throws: RedisError.self) { try await connect("redis://127.0.0.1:\(server.tlsPort)") }
    #expect(plain?.description.contains("rediss://") == true, "\(plain as Any)")

    let other = try RedisServer(tcp: true)
    let error = await #expect(throws: RedisError.self) {
      try await connect("rediss://127.0.0.1:\(other.port)?cacert=\(file("ca.crt"))&timeout=500ms")
    }
    #expect(error?.description.contains("write redis://") == true, "\(error as Any)")
  }
}
