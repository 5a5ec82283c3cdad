import BatonProtocol
import BatonRedis
import BatonSession

/// What a person did on a device while a response was open.
public struct DeviceMessage: Sendable, Equatable {
  public enum Kind: Sendable, Equatable {
    /// Something was said; it is in ``DeviceMessage/data``, and in the session's stream for every device.
    case input
    /// Stop: append what is left to say, if anything, and end the response by ``ResponseEnd/cancelled``.
    case cancel
  }

  public let kind: Kind
  /// The entry's id in the inbox.
  public let id: EntryID
  public let data: String
  /// The device's name; nil where the message came another way.
  public let device: String?
  /// The token's `sub`; nil without identity.
  public let subject: String?
}

/// What of a session's inbox is meant for one response, each message once.
struct InboxCursor {
  let response: String
  /// The inbox's newest entry when the response was opened: what was said before led to the response.
  let opened: EntryID
  /// Everything up to here was delivered or was not for us.
  private(set) var position = RedisStreamID.zero

  init(response: String, opened: EntryID) {
    (self.response, self.opened) = (response, opened)
  }

  /// Hands on what is meant for the response; stops where `deliver` has no room, to be read again.
  mutating func received(_ entries: [RawEntry], deliver: (DeviceMessage) -> Bool) {
    for entry in entries {
      if let message = message(entry), !deliver(message) { return }
      position = entry.id
    }
  }

  private func message(_ entry: RawEntry) -> DeviceMessage? {
    var fields: [String: String] = [:]
    for field in entry.fields {
      let key = String(buffer: field.name)
      if fields[key] == nil { fields[key] = String(buffer: field.value) }
    }
    let id = EntryID(entry.id.milliseconds, entry.id.sequence)
    let kind: DeviceMessage.Kind
    switch fields["event"] {
    case "cancel" where fields["response"] == response: kind = .cancel
    case "input" where id > opened && (fields["response"] ?? response) == response: kind = .input
    default: return nil
    }
    return DeviceMessage(
      kind: kind, id: id, data: fields["data"] ?? "", device: fields["device"], subject: fields["subject"])
  }
}
