import Testing

@testable import BatonUpstream

struct AddressTests {
  @Test(arguments: [
    ("http://h", "http://h/v1/chat/completions", "http://h/v1/models"),
    ("http://h:8000/", "http://h:8000/v1/chat/completions", "http://h:8000/v1/models"),
    ("http://h/v1", "http://h/v1/chat/completions", "http://h/v1/models"),
    ("http://h/v1/chat/completions/", "http://h/v1/chat/completions", "http://h/v1/models"),
    ("http://h/chat/completions", "http://h/chat/completions", "http://h/models"),
    ("https://h/api/v3", "https://h/api/v3/chat/completions", "https://h/api/v3/models"),
    (
      "https://h/openai/deployments/gpt/chat/completions?api-version=1",
      "https://h/openai/deployments/gpt/chat/completions?api-version=1",
      "https://h/openai/deployments/gpt/models?api-version=1"
    ),
    ("http://h?a=b", "http://h/v1/chat/completions?a=b", "http://h/v1/models?a=b"),
    (" http://u:p@h/v1\n", "http://h/v1/chat/completions", "http://h/v1/models"),
    ("http://[::1]:8000/a%20b", "http://[::1]:8000/a%20b/chat/completions", "http://[::1]:8000/a%20b/models"),
  ])
  func meansItsResources(_ text: String, _ completions: String, _ models: String) {
    let address = UpstreamAddress(text)
    #expect(address?.completions == completions && address?.models == models)
  }

  @Test(arguments: [
    ("http://h", "files/a%20b", "http://h/v1/files/a%20b"),
    ("http://h/v1", "models?a=b&c=%2F", "http://h/v1/models?a=b&c=%2F"),
    ("http://h/v1?k=1", "models?a=b", "http://h/v1/models?k=1&a=b"), ("http://h/v1", "x/.../y", "http://h/v1/x/.../y"),
    ("http://h/v1", "models?", "http://h/v1/models"), ("http://h/v1", "?a", "http://h/v1/?a"),
    ("http://h/v1?k=1", "models?", "http://h/v1/models?k=1"), ("http://h/v1", "??a", "http://h/v1/??a"),
    ("http://h/v1", "models??", "http://h/v1/models??"), ("http://h/v1", "?", "http://h/v1/"),
    ("http://h/v1", "", "http://h/v1/"), ("http://h/v1", "//x;a/@b:1", "http://h/v1///x;a/@b:1"),
  ])
  func leadsToOthersBeside(_ text: String, _ target: String, _ url: String) {
    #expect(UpstreamAddress(text)?.target(target) == url)
  }

  @Test(arguments: [
    "../admin", "a/../../b", "a/./b", "%2e%2e/admin", "a/%2E./b", "a%2Fb", "%zz", "a%", "a?b=%z", "a b", "é", "a\nb",
    "a#b", "a\\b", "..;/admin", "a/..;x=1/b", ".;/a", "a/%2e%2e%3b/b",
  ])
  func leadsNowhereElse(_ target: String) { #expect(UpstreamAddress("http://h/v1")?.target(target) == nil) }

  @Test(arguments: ["", "h:8000", "ftp://h", "http://", "http:///v1", "127.0.0.1:1"])
  func isRefused(_ text: String) { #expect(UpstreamAddress(text) == nil) }

  @Test(arguments: [
    ("http://u:secret@h/x?key=secret&b=secret", "http://***@h/x?key=***&b=***"), ("secret@h", "***@h"),
    ("no answer from https://secret@h:1/ at all", "no answer from https://***@h:1/ at all"),
    ("nothing to hide: http://h/x", "nothing to hide: http://h/x"),
  ])
  func isMasked(_ text: String, _ shown: String) { #expect(UpstreamAddress.masked(text) == shown) }
}
