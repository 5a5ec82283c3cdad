import BatonProtocol
import BatonSession
import Foundation
import NIOCore

/// An entry to append, as it was posted (PROTOCOL 8).
package struct NewEntry: Sendable, Equatable {
  /// Names and values in the order in which they are stored.
  package private(set) var fields: [Entry.Field] = []

  /// - Parameter limit: bytes of names and values together.
  /// - Throws: `Problem` 400 with the member to mend, 413.
  package init(json: ByteBuffer, limit: Int) throws(Problem) {
    guard let object = JSONValue(json)?.members else {
      throw .badRequest("not-json", "The body must be one JSON object, such as {\"data\":\"Hel\",\"response\":\"r1\"}.")
    }
    try self.init(object: object)
    try NewEntry.check(size: Entry.Field.size(fields), limit: limit)
  }

  /// - Throws: `Problem` 413.
  static func check(size: Int, limit: Int) throws(Problem) {
    guard size > limit else { return }
    throw Problem(
      .payloadTooLarge, "entry-too-large",
      "Names and values of an entry may have \(limit) bytes together (--max-entry-bytes); this has \(size).")
  }

  /// Of one entry, `n` and the like included.
  package static let maxFields = 1000

  /// - Throws: `Problem` 400 with the member to mend.
  init(object: [String: JSONValue]) throws(Problem) {
    let known = ["data", "data64", "event", "response", "part", "more", "fields"]
    if let unknown = object.keys.filter({ !known.contains($0) }).sorted().first {
      throw .badRequest(
        "unknown-member",
        "The member \(unknown.prefix(64)) is unknown; data, data64, event, response, part, more and fields are known. "
          + "Names of your own go into fields.")
    }
    if let event = object["event"] {
      guard let text = event.text, Shape.event(text.utf8) else {
        throw .badRequest("bad-event", "event is 1 to 64 characters of A-Z a-z 0-9 . _ : -")
      }
      add("event", text)
    }
    if let response = object["response"] {
      guard let text = response.text, Shape.name(text.utf8, upTo: 128) else {
        throw .badResponse
      }
      add("response", text)
    }
    if let part = object["part"] {
      guard let text = part.text, Shape.part(text.utf8) else {
        throw .badRequest(
          "bad-part",
          "part is kind:name, such as text:1: 1 to 128 characters of A-Z a-z 0-9 . _ ~ : @ -, the kind of a-z 0-9 -")
      }
      add("part", text)
    }
    switch object["more"] {
    case nil, .bool(false)?: break
    case .bool(true)?: add("more", "1")
    default: throw .badRequest("bad-more", "more is true where the data goes on in the next entry, or left out.")
    }
    switch (object["data"], object["data64"]) {
    case (nil, nil): break
    case (.string(let text), nil): add("data", text)
    case (nil, .string(let encoded)):
      guard let bytes = Data(base64Encoded: encoded) else {
        throw .badRequest("bad-data64", "data64 is base64 with padding (RFC 4648 section 4).")
      }
      fields.append(Entry.Field(name: ByteBuffer(string: "data"), value: ByteBuffer(bytes: bytes)))
    case (_?, _?): throw .badRequest("conflicting-members", "Give one of data and data64.")
    default: throw .badRequest("bad-data", "data and data64 are strings; JSON goes into data as text.")
    }
    if let others = object["fields"] {
      guard let others = others.members else {
        throw .badRequest("bad-fields", "fields is an object of names and strings.")
      }
      for (name, value) in others.sorted(by: { $0.key < $1.key }) { try add(other: name, value) }
    }
    if fields.isEmpty {
      throw .badRequest(
        "empty-entry", "An entry needs at least one of data, data64, event, response, part and fields.")
    }
  }

  private mutating func add(_ name: String, _ value: String) {
    fields.append(Entry.Field(name: ByteBuffer(string: name), value: ByteBuffer(string: value)))
  }

  private mutating func add(other name: String, _ value: JSONValue) throws(Problem) {
    var encodedName = ByteBuffer(string: name)
    if name.hasPrefix("base64:") {
      guard let bytes = Data(base64Encoded: String(name.dropFirst(7))) else {
        throw .badRequest("bad-fields", "A field name after base64: is base64 with padding.")
      }
      encodedName = ByteBuffer(bytes: bytes)
    }
    let written = encodedName.readableBytesView
    guard let first = written.first, first != UInt8(ascii: "_"),
      !["data", "event", "response", "part", "n", "joined", "more"].contains(where: { written.elementsEqual($0.utf8) })
    else {
      throw .badRequest(
        "reserved-field",
        "fields may not hold \(name.prefix(64)): data, event, response, part, n, joined, more, names that begin with _ and the empty name "
          + "have a meaning, in base64 as well.")
    }
    let values = if case .array(let elements) = value { elements } else { [value] }
    for one in values {
      let bytes: ByteBuffer
      if let text = one.text {
        bytes = ByteBuffer(string: text)
      } else if let object = one.members, object.count == 1, let text = object["base64"]?.text,
        let data = Data(base64Encoded: text)
      {
        bytes = ByteBuffer(bytes: data)
      } else {
        throw .badRequest(
          "bad-fields", "The field \(name.prefix(64)) must be a string, {\"base64\":\"…\"}, or an array of these.")
      }
      fields.append(Entry.Field(name: encodedName, value: bytes))
      guard fields.count <= NewEntry.maxFields - 7 else {
        throw .badRequest(
          "too-many-fields",
          "An entry may have \(NewEntry.maxFields) fields together with data, event, response, part, n, joined and more."
        )
      }
    }
  }
}

extension Entry.Field {
  static func size(_ fields: [Entry.Field]) -> Int {
    fields.reduce(0) { $0 + $1.name.readableBytes + $1.value.readableBytes }
  }
}
