import Testing

@testable import BatonRedis

@Suite struct URLTests {
  @Test(arguments: [
    ("redis://h", "redis://h:6379/0"),
    ("redis://127.0.0.1:7000/3", "redis://127.0.0.1:7000/3"),
    ("REDIS://[::1]:7000", "redis://[::1]:7000/0"),
    ("rediss://ann:p%40ss%2F@h:1/2?cacert=/a%20b.pem", "rediss://ann:***@h:1/2"),
    ("redis://:secret@h", "redis://:***@h:6379/0"),
    ("redis://secret@h", "redis://:***@h:6379/0"),
    ("redis://a:b@c@h", "redis://a:***@h:6379/0"),
    ("unix:///run/r.sock?db=5", "unix:///run/r.sock?db=5"),
    ("redis+unix://u:secret@/run/r.sock", "redis+unix://u:***@/run/r.sock?db=0"),
    ("valkey://h/2", "redis://h:6379/2"), ("valkeys://h", "rediss://h:6379/0"), ("tls://h", "rediss://h:6379/0"),
    ("redis://h/3/", "redis://h:6379/3"), ("redis://h/", "redis://h:6379/0"),
    ("redis://h?database=4", "redis://h:6379/4"),
    (" redis://h/1\r\n", "redis://h:6379/1"), ("redis://ann:@h", "redis://ann:***@h:6379/0"),
    ("rediss://h?ssl_cert_reqs=required&ssl_check_hostname=True&protocol=2&timeout=5", "rediss://h:6379/0"),
    (
      "redis+sentinel://ann:secret@a:1,b,[::1]/mymaster/3",
      "redis+sentinel://ann:***@a:1,b:26379,[::1]:26379/mymaster/3"
    ),
    ("rediss+sentinel://a/m", "rediss+sentinel://a:26379/m/0"),
    ("redis+sentinel://a/m?sentinel_user=u&sentinel_password=p", "redis+sentinel://a:26379/m/0"),
    ("redis+cluster://:secret@a,b:7001,a", "redis+cluster://:***@a:6379,b:7001"),
    ("valkeys+cluster://a/0", "rediss+cluster://a:6379"),
    ("redis://default:a%2Fb%3Fc%23d%40e@h:1?socket_connect_timeout=0.5", "redis://default:***@h:1/0"),
  ])
  func understands(text: String, description: String) throws {
    #expect(try RedisURL(text).description == description)
  }

  @Test func decodesItsParts() throws {
    let url = try RedisURL("rediss://ann:p%40ss%2F:@h:1/2?cacert=/a%20b.pem")
    #expect(url.username == "ann" && url.password == "p@ss/:" && url.caFile == "/a b.pem" && url.database == 2)
    #expect(url.usesTLS && url.address == .tcp(host: "h", port: 1))
    #expect(try RedisURL("redis://secret@h").username == nil)
    #expect(try RedisURL("unix:///a%20b").address == .unix(path: "/a b"))
    let user = try RedisURL("redis://ann:@h")
    #expect(user.username == "ann" && user.password == "" && !user.isPasswordAlone)
    #expect(try RedisURL("redis://secret@h").isPasswordAlone)
    let files = try RedisURL("rediss://h?ssl_ca_certs=/a&ssl_certfile=/b&ssl_keyfile=/c&dial_timeout=1500ms")
    #expect(files.caFile == "/a" && files.certificateFile == "/b" && files.keyFile == "/c")
    #expect(files.connectTimeout == .milliseconds(1500))
    #expect(try RedisURL("redis://h?timeout=5s").connectTimeout == .seconds(5))
  }

  @Test func leadsToEachOfItsServers() throws {
    let url = try RedisURL(
      "rediss+sentinel://ann:a%40@h,[::1]:2/my%2Fmaster/3?cacert=/ca&sentinel_user=bob&sentinel_password=b%40")
    #expect(url.topology == .sentinel(master: "my/master") && url.usesTLS && url.database == 3)
    #expect(url.seeds == [.tcp(host: "h", port: 26379), .tcp(host: "::1", port: 2)])
    let sentinel = url.sentinel(at: url.seeds[1])
    #expect(
      sentinel.description == "rediss://bob:***@[::1]:2/0" && sentinel.password == "b@" && sentinel.caFile == "/ca")
    let server = url.server(at: .tcp(host: "x", port: 1))
    #expect(server.description == "rediss://ann:***@x:1/3" && server.password == "a@" && server.topology == .standalone)
    #expect(try RedisURL("redis+sentinel://ann:a@h/m").sentinel(at: url.seeds[0]).password == nil)
  }

  /// What to mend is named, and nothing of a password.
  @Test(arguments: [
    ("redis://:sec@ret@\u{308}h", "host has a character"), ("redis://u:sec/ret@h", "write %2F for '/'"),
    ("redis://u:12/3@h", "write %2F for '/'"),
    ("redis://u:sec?ret@h", "write %3F for '?'"), ("redis://u:sec?r=et@h/3", "write %3F for '?'"),
    ("redis://u:sec#ret@h", "write %23 for '#'"), ("redis://u:s@c/ret@h", "write %2F for '/'"),
    ("redis://u:sec/ret@h?db=1", "(and %40 for '@')"), ("rediss://h?ssl_cert_reqs=none", "ssl_cert_reqs"),
    ("rediss://h?ssl_check_hostname=false", "ssl_check_hostname"), ("redis://h?protocol=3", "protocol"),
    ("redis://h?health_check_interval=30", "health_check_interval"), ("redis://h?timeout=soon", "seconds"),
    ("redis://h?timeout=0", "1 ms to 1 hour"), ("redis://h?timeout=nan", "seconds"), ("redis://h?timeout=1e99", "hour"),
    ("rediss://h?cert=/c", "cert and key"), ("redis://h?ssl_certfile=/c", "rediss://"),
    ("redis://u:p@h\n/1", "one line"),
    ("redis://a,b", "redis+cluster://"), ("redis+sentinel://a", "name the master"),
    ("redis+sentinel://a,/m", "no host"), ("redis+cluster://a/1", "no databases"),
    ("redis+cluster://a?sentinel_password=p", "redis+sentinel://"),
    ("redis+sentinel://a/m?sentinel_user=u", "needs sentinel_password"),
    ("redis://h?db=", "name=value"), ("redis://h/3/4", "database"), ("http://h", "valkey://"),
  ])
  func saysWhatToMend(text: String, words: String) {
    let error = #expect(throws: RedisError.self) { try RedisURL(text) }
    let description = error?.description ?? ""
    #expect(description.contains(words) && description.contains("Redis URL"), "\(description)")
    #expect(!description.contains("sec") || words == "seconds" && !description.contains("ret"))
  }

  @Test(arguments: [
    "localhost:6379", "http://u:secret@h", "redis://", "redis://u:secret@", "redis://u:secret@h:0",
    "redis://u:secret@h:x",
    "redis://u:sec/ret@h", "redis://u:secret%ZZ@h", "redis://u:secret@h/x", "redis://u:secret@h/-1",
    "redis://u:secret@h?cacert=/x", "redis://u:secret@h?password=secret", "redis://u:secret@::1:6379",
    "unix://relative",
    "unix:///", "redis://:@h", "redis://u:sec#ret@h",
  ])
  func refuses(text: String) {
    let error = #expect(throws: RedisError.self) { try RedisURL(text) }
    #expect(error?.kind == .configuration && error?.description.contains("sec") == false)
    #expect(error?.description.contains("Redis URL") == true)
  }
}
