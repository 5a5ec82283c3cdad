import BatonProtocol
import Foundation

/// The members of a frame's JSON object, read leniently: what has a wrong type is absent.
struct Members: Decodable {
  private let container: KeyedDecodingContainer<Name>

  private struct Name: CodingKey {
    let stringValue: String
    var intValue: Int? { nil }
    init(stringValue: String) { self.stringValue = stringValue }
    init?(intValue: Int) { nil }
  }

  init(from decoder: any Decoder) throws { container = try decoder.container(keyedBy: Name.self) }

  func has(_ name: String) -> Bool { container.contains(Name(stringValue: name)) }
  func string(_ name: String) -> String? { value(name) }
  func strings(_ name: String) -> [String] { value(name) ?? [] }
  func number(_ name: String) -> Double? { value(name) }
  func bool(_ name: String) -> Bool? { value(name) }
  func integer(_ name: String) -> UInt64? { value(name) }
  func offset(_ name: String) -> Offset? { string(name).flatMap { Offset($0) } }

  /// Of an entry: `fields`, each value a string, `{"base64":"…"}`, or an array of these.
  var fields: [String: [Data]] {
    (value("fields") as [String: FieldValues]?)?.mapValues(\.values) ?? [:]
  }

  private func value<Value: Decodable>(_ name: String) -> Value? {
    try? container.decode(Value.self, forKey: Name(stringValue: name))
  }
}

/// Nil where the JSON is no object.
struct OptionalMembers: Decodable {
  let members: Members?

  init(from decoder: any Decoder) throws { members = try? Members(from: decoder) }
}

private struct FieldValues: Decodable {
  let values: [Data]

  private struct Base64: Decodable { let base64: Data }

  private enum One: Decodable {
    case text(String)
    case bytes(Data)

    init(from decoder: any Decoder) throws {
      let container = try decoder.singleValueContainer()
      if let text = try? container.decode(String.self) {
        self = .text(text)
      } else {
        self = .bytes(try container.decode(Base64.self).base64)
      }
    }

    var data: Data {
      switch self {
      case .text(let text): Data(text.utf8)
      case .bytes(let data): data
      }
    }
  }

  init(from decoder: any Decoder) throws {
    let container = try decoder.singleValueContainer()
    if let one = try? container.decode(One.self) {
      values = [one.data]
    } else {
      values = try container.decode([One].self).map(\.data)
    }
  }
}
