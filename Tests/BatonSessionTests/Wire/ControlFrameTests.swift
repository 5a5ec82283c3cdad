import NIOCore
import Testing

@testable import BatonProtocol
@testable import BatonSession

@Suite struct ControlFrameTests {
  static let here = Offset(id: EntryID(5, 1), check: 0x9f3a_11c0)
  static let attached = ControlFrame.Attached(
    session: "chat-42", device: "d1", node: "gw-1", offset: here, recovered: true, first: here, last: nil,
    pingMs: 25000,
    features: ["input", "cancel"])
  static let bare = ControlFrame.Attached(
    session: "s", device: "d\"", node: "n", offset: .zero, first: nil, last: nil, pingMs: 1, features: [])
  static var moved: Reset {
    var reset = Reset(.diverged, requested: here, first: here, last: here)
    reset.from = here
    reset.offset = here
    return reset
  }

  @Test(
    arguments: [
      (
        .attached(attached),
        #"{"type":"attached","session":"chat-42","device":"d1","node":"gw-1","offset":"5-1.9f3a11c0","recovered":true,"first":"5-1.9f3a11c0","last":null,"pingMs":25000,"features":["input","cancel"]}"#
      ),
      (
        .attached(bare),
        #"{"type":"attached","session":"s","device":"d\"","node":"n","offset":"0","recovered":false,"first":null,"last":null,"pingMs":1,"features":[]}"#
      ),
      (.live(here), #"{"type":"live","offset":"5-1.9f3a11c0"}"#),
      (.live(.zero), #"{"type":"live","offset":"0"}"#),
      (.behind, #"{"type":"behind"}"#),
      (
        .reset(Reset(.trimmed, requested: .zero, first: nil, last: nil)),
        #"{"type":"reset","reason":"trimmed","from":"0","offset":"0","requested":"0","first":null,"last":null}"#
      ),
      (
        .reset(moved),
        #"{"type":"reset","reason":"diverged","from":"5-1.9f3a11c0","offset":"5-1.9f3a11c0","requested":"5-1.9f3a11c0","first":"5-1.9f3a11c0","last":"5-1.9f3a11c0"}"#
      ),
      (.stalled, #"{"type":"stalled","reason":"store"}"#),
      (.draining(retryAfterMs: 1840), #"{"type":"draining","retryAfterMs":1840}"#),
      (.expiring(inMs: 30000), #"{"type":"expiring","inMs":30000}"#),
      (
        .error(code: "unsupported", message: "no \"x\"", key: nil),
        #"{"type":"error","code":"unsupported","message":"no \"x\""}"#
      ),
      (
        .error(code: "key_conflict", message: "", key: "k"),
        #"{"type":"error","code":"key_conflict","message":"","key":"k"}"#
      ),
      (.accepted(key: "k1", inboxID: "1-0"), #"{"type":"accepted","key":"k1","inboxId":"1-0"}"#),
      (.authenticated(expiresInMs: 5), #"{"type":"authenticated","expiresInMs":5}"#),
      (.pong, #"{"type":"pong"}"#),
    ] as [(ControlFrame, String)])
  func writes(_ frame: ControlFrame, _ bytes: String) {
    #expect(frame.encoded().text == bytes)
  }

  @Test func namesReasonsAsThePublishedOnes() {
    #expect(
      [ResetReason.trimmed, .diverged, .ahead, .deleted].map(\.rawValue) == ["trimmed", "diverged", "ahead", "deleted"])
  }
}
