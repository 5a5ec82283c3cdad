import BatonProtocol
import BatonSession
import BatonStore
import NIOCore

/// `input` and `cancel`: what a person did on a device, on its way to the process that holds the response (PROTOCOL 5).
struct DeviceCommand {
  let put: EntryPut
  let key: String

  /// Commands of one device that wait for Redis; more are `rate_limited`.
  static let maxPending = 32

  /// Nil: not of this kind.
  /// - Throws: the `error` frame that answers it.
  init?(_ message: DeviceMessage, _ request: AttachRequest, _ identity: Identity?) throws(DeviceCommand.Refusal) {
    guard message.type == "input" || message.type == "cancel" else { return nil }
    let given = message.text("key")
    func refusal(_ code: String, _ text: String) -> Refusal {
      Refusal(frame: .error(code: code, message: text, key: given))
    }
    let scope: Identity.Scope = message.type == "input" ? .input : .cancel
    if let identity, !identity.may(scope, request.session) {
      throw refusal("forbidden", "The token's scope does not hold \(scope.rawValue) for this session.")
    }
    guard let key = given, !key.isEmpty, key.utf8.count <= 64 else {
      throw refusal("bad_request", "key must be 1 to 64 characters; send the same key to repeat a \(message.type).")
    }
    var fields = [Entry.Field("event", message.type)]
    if let response = message.members["response"] {
      guard let name = response.text, Shape.name(name.utf8, upTo: 128) else {
        throw refusal("bad_request", "response must be 1 to 128 characters of A-Z a-z 0-9 . _ ~ : @ -")
      }
      fields.append(Entry.Field("response", name))
    } else if message.type == "cancel" {
      throw refusal("bad_request", "cancel needs the response that is to be cancelled.")
    }
    if let data = message.members["data"] {
      guard let text = data.text else { throw refusal("bad_request", "data must be a string.") }
      fields.append(Entry.Field("data", text))
    } else if message.type == "input" {
      throw refusal("bad_request", "input needs data: what the person sent, as a string.")
    }
    let subject = identity?.subject ?? ""
    self.key = key
    put = EntryPut(
      message.type == "input" ? .both : .inbox, fields, scope: EntryPut.scope("device", subject: subject, key: key),
      device: request.device, subject: subject, key: key)
  }

  struct Refusal: Error {
    let frame: ControlFrame
  }

  /// What the device is told.
  func answer(_ parts: [String]) -> ControlFrame {
    switch PutReply(parts) {
    case .put(_, let inboxID, _): .accepted(key: key, inboxID: inboxID?.description ?? "")
    case .keyConflict:
      .error(code: "key_conflict", message: "This key came with another body before; use a new one.", key: key)
    case .wrongType:
      .error(code: "wrong_type", message: "A key of the session holds another type.", key: key)
    case nil: unavailable
    }
  }

  var unavailable: ControlFrame {
    .error(code: "store_unavailable", message: "Redis is out of reach; send it again with the same key.", key: key)
  }

  var rateLimited: ControlFrame {
    .error(code: "rate_limited", message: "Wait for accepted before sending more.", key: key)
  }
}
