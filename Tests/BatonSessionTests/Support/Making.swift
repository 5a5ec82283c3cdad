import NIOCore

@testable import BatonProtocol
@testable import BatonSession

extension SessionName: ExpressibleByStringLiteral {
  public init(stringLiteral text: String) {
    guard let name = SessionName(text) else { preconditionFailure("\(text) is no session's name") }
    self = name
  }
}

/// A field of text.
func field(_ name: String, _ value: String) -> Entry.Field {
  Entry.Field(name: ByteBuffer(string: name), value: ByteBuffer(string: value))
}

/// A field of any bytes.
func field(_ name: [UInt8], _ value: [UInt8]) -> Entry.Field {
  Entry.Field(name: ByteBuffer(bytes: name), value: ByteBuffer(bytes: value))
}

/// An entry as Redis would have returned it.
func entry(_ id: UInt64, _ fields: [Entry.Field]) -> Entry {
  var reader = EntryReader(maxEntryBytes: 256 * 1024)
  return reader.entry(EntryID(id, 0), fields)
}

func entry(_ id: UInt64, _ data: String) -> Entry { entry(id, [field("data", data)]) }

/// A numbered delta.
func delta(_ id: UInt64, _ response: String = "r", _ n: UInt64, joined: UInt64 = 1, _ data: String = "d") -> Entry {
  var fields = [field("data", data), field("response", response), field("n", "\(n)")]
  if joined > 1 { fields.append(field("joined", "\(joined)")) }
  return entry(id, fields)
}

extension Segment {
  convenience init(_ entries: [Entry]) { self.init(Entries(entries)) }
}

/// `5` for `5-0`, `0` for the start; the check is left out.
func show(_ offset: Offset) -> String { show(offset.id) }
func show(_ id: EntryID) -> String { id.sequence == 0 ? "\(id.milliseconds)" : "\(id)" }
func show(_ entries: some Sequence<Entry>) -> String { entries.map { show($0.id) }.joined(separator: " ") }

extension ByteBuffer {
  var text: String { String(buffer: self) }
}
