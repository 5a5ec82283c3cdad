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
  }

  @Test(arguments: [
    "localhost:6379", "http://u:secret@h", "redis://", "redis://u:secret@", "redis://u:secret@h:0",
    "redis://u:secret@h:x",
    "redis://u:sec/ret@h", "redis://u:secret%ZZ@h", "redis://u:secret@h/x", "redis://u:secret@h/-1",
    "redis://u:secret@h?cacert=/x", "redis://u:secret@h?password=secret", "redis://u:secret@::1:6379",
    "unix://relative",
    "unix:///", "redis://u:@h", "redis://u:sec#ret@h",
  ])
  func refuses(text: String) {
    let error = #expect(throws: RedisError.self) { try RedisURL(text) }
    #expect(error?.kind == .configuration && error?.description.contains("sec") == false)
    #expect(error?.description.contains("Redis URL") == true)
  }
}
