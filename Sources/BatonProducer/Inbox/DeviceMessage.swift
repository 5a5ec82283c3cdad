import BatonProtocol
import BatonRedis
import BatonSession

/// What a person did on a device while a response was open.
public struct DeviceMessage: Sendable, Equatable {
  /// What was done.
  public enum Kind: Sendable, Equatable {
    /// Something was said; it is in ``DeviceMessage/data``, and in the session's stream for every device.
    case input
    /// Stop: append what is left to say, if anything, and end the response by ``ResponseEnd/cancelled``.
    case cancel
  }

  public let kind: Kind
  /// The entry's id in the inbox.
  public let id: EntryID
  /// What was said; empty for a cancel.
  public let data: String
  /// The device's name; nil where the message came another way.
  public let device: String?
  /// The token's `sub`; nil without identity.
  public let subject: String?

  public init(kind: Kind, id: EntryID, data: String = "", device: String? = nil, subject: String? = nil) {
    (self.kind, self.id, self.data, self.device, self.subject) = (kind, id, data, device, subject)
  }
}

/// What of a session's inbox is meant for one response, each message once.
struct InboxCursor {
  let response: String
  /// The inbox's newest entry when the response was opened: what was said before led to the response.
  let opened: EntryID
  /// Everything up to here was looked at.
  private(set) var position = RedisStreamID.zero
  /// Inputs after this place were looked at while there was no room for them; nil: none.
  private(set) var backlog: RedisStreamID?

  init(response: String, opened: EntryID) {
    (self.response, self.opened) = (response, opened)
  }

  /// Hands on what is meant for the response. A cancel never waits behind inputs that have no room: `deliver` is false then,
  /// and these are read again.
  mutating func received(_ entries: [RawEntry], deliver: (DeviceMessage) -> Bool) {
    for entry in entries where entry.id > position {
      if let message = message(entry) {
        let waits = message.kind == .input && backlog != nil
        if !waits, !deliver(message) { backlog = position }
      }
      position = entry.id
    }
  }

  /// Hands on inputs that had no room before.
  mutating func receivedBacklog(_ entries: [RawEntry], deliver: (DeviceMessage) -> Bool) {
    for entry in entries where entry.id <= position {
      if let message = message(entry), message.kind == .input, !deliver(message) { return }
      backlog = entry.id
    }
    if entries.isEmpty || (backlog ?? position) >= position { backlog = nil }
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
