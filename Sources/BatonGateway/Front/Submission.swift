import BatonProtocol
import BatonSession
import BatonStore
import Foundation
import NIOCore

/// What a person wants, as it came over HTTP: an input, or that a response is stopped (PROTOCOL 5).
struct Submission {
  enum Kind: String { case input, cancel }

  let put: EntryPut
  /// The one that it is meant for.
  let response: String?

  /// - Parameters:
  ///   - response: of a cancel, the one in the target.
  ///   - key: the value of `Idempotency-Key`; one is made up where there is none.
  ///   - device: from the query; one is made up likewise.
  ///   - limit: bytes of the entry's names and values together.
  /// - Throws: `Problem` 400 with what to mend, 413.
  init(
    _ kind: Kind, response: String?, body: ByteBuffer, key: String?, device: String?, subject: String, limit: Int
  ) throws(Problem) {
    let key = key ?? "k-" + String(UInt64.random(in: .min ... .max), radix: 36)
    guard !key.isEmpty, key.utf8.count <= 64 else {
      throw .badRequest("bad-idempotency-key", "Idempotency-Key is 1 to 64 characters here.")
    }
    if let device, !Shape.name(device.utf8, upTo: 64) {
      throw .badRequest("bad-device", "A device's name is 1 to 64 characters of A-Z a-z 0-9 . _ ~ : @ -")
    }
    var members: [String: JSONValue] = [:]
    if kind == .input || body.readableBytes > 0 {
      guard let object = JSONValue(body)?.members else {
        throw .badRequest("not-json", "The body must be one JSON object, such as {\"data\":\"Go on\"}.")
      }
      members = object
    }
    let known = kind == .input ? ["data", "response"] : []
    if let unknown = members.keys.filter({ !known.contains($0) }).sorted().first {
      throw .badRequest(
        "unknown-member",
        "The member \(unknown.prefix(64)) is unknown; \(kind == .input ? "data and response are" : "a cancel has none")."
      )
    }
    var response = response
    if let given = members["response"] {
      guard let text = given.text else { throw .badResponse }
      response = text
    }
    if let response, !Shape.name(response.utf8, upTo: 128) { throw .badResponse }
    var fields = [Entry.Field("event", kind.rawValue)]
    if let response { fields.append(Entry.Field("response", response)) }
    if kind == .input {
      guard let text = members["data"]?.text else {
        throw .badRequest("bad-data", "data is what the person sent, as a string; JSON goes into it as text.")
      }
      fields.append(Entry.Field("data", text))
    }
    try NewEntry.check(size: Entry.Field.size(fields), limit: limit)
    self.response = response
    put = EntryPut(
      kind == .input ? .both : .inbox, fields, scope: EntryPut.scope("device", subject: subject, key: key),
      device: device ?? DeviceFront.randomName(), subject: subject, key: key)
  }
}
