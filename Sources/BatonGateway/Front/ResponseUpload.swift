import BatonProtocol
import BatonSession
import BatonStore
import Foundation
import NIOCore

/// A response that is posted as it is produced, one object a line (PROTOCOL 8).
package struct ResponseUpload {
  /// One line, in order.
  struct Line {
    var response: String
    var n: UInt64?
    var item: ResponseItem

    /// - Throws: `Problem` 400 that names the line.
    init(_ bytes: ByteBuffer, number: Int) throws(Problem) {
      guard var object = JSONValue(bytes)?.members else {
        throw .badRequest("not-json", "Line \(number) is not a JSON object.")
      }
      let n = object.removeValue(forKey: "n")
      let fields: [Entry.Field]
      do throws(Problem) {
        fields = try NewEntry(object: object).fields
      } catch {
        throw .badRequest(error.name, "Line \(number): \(error.detail)")
      }
      guard let response = object["response"]?.text else {
        throw .badRequest("response-missing", "Line \(number) needs a response: the name that all its lines share.")
      }
      self.response = response
      let event = object["event"]?.text ?? Entry.token
      let others = fields.filter { $0.name != ByteBuffer(string: "response") }
      let bare = others.filter { $0.name != ByteBuffer(string: "event") }
      let state = ResponseState(rawValue: event).flatMap { $0 == .open ? nil : $0 }
      if let state {
        item = .end(state, bare)
      } else if event == "start" {
        item = .start(bare)
      } else if event == Entry.token, bare.count == 1, bare[0].name == ByteBuffer(string: "data") {
        item = .deltas([bare[0].value])
      } else {
        item = .event(event == Entry.token ? bare : others)
      }
      guard item.count == 1 else {
        guard n == nil else {
          throw .badRequest("bad-n", "Line \(number) is a \(event) and has no n; deltas and events of a response have.")
        }
        return
      }
      guard let value = n?.wholeNumber else {
        throw .badRequest("bad-n", "Line \(number) needs n: its number within the response, from 1 without gaps.")
      }
      self.n = value
    }
  }

  private let epoch: UInt64
  private var response: String?
  private var generation: UInt64?
  private var last: UInt64 = 0
  private var isOpen = false
  package private(set) var ids: [EntryID] = []

  /// - Parameter epoch: which writer this is, of those that follow each other; 1 to 2⁵³−1.
  package init(epoch: UInt64) {
    self.epoch = epoch
  }

  /// The step that appends a line.
  mutating func call(_ line: Line) -> AppendCall {
    if line.response != response {
      (response, generation, last, isOpen) = (line.response, nil, 0, false)
    }
    // The token is the same for every caller, so that a repeated POST goes on; rivals are told apart by their epoch.
    let write = ResponseWrite(
      response: line.response, epoch: epoch, generation: generation, token: "http", first: line.n ?? last + 1,
      items: [line.item])
    return isOpen ? .append(write) : .open(write)
  }

  /// - Throws: `Problem` 409 with what the stream has.
  mutating func took(_ line: Line, _ reply: WriteReply) throws(Problem) {
    func refusal(_ name: String, _ detail: String) -> Problem {
      Problem(.conflict, name, detail).with(member: "response", line.response)
    }
    switch reply {
    case .written(let written):
      (generation, isOpen, last) = (written.generation, true, line.n ?? last)
      if let id = written.id, ids.last != id, line.n.map({ $0 == written.n }) ?? true { ids.append(id) }
    case .rewind(let n):
      throw refusal("gap", "The stream has deltas up to n \(n); go on with n \(n + 1).").with(number: "n", n)
    case .lost:
      throw refusal("gap", "Redis has lost the response; send it again from n 1.").with(number: "n", 0)
    case .fenced(let newer):
      throw refusal("fenced", "A newer writer, with epoch \(newer), has taken the response over; stop.")
        .with(number: "epoch", newer)
    case .deleted: throw refusal("deleted", "The session was deleted while this response was written; stop.")
    case .ended(let n, let state):
      throw refusal("ended", "The response has ended at n \(n) (\(state.rawValue)); use a new name for a new attempt.")
        .with(number: "n", n).with(member: "state", state.rawValue)
    case .wrongType(let key):
      throw Problem(.conflict, "wrong-type", "The Redis key \(key) holds another type; delete it.")
    }
  }
}

/// Splits a body into lines, whatever pieces it comes in. A last line without its newline is not one.
struct LineSplitter {
  /// Bytes of one line at the most.
  let limit: Int
  private var rest = ByteBuffer()

  init(limit: Int) {
    self.limit = limit
  }

  /// - Throws: `Problem` 413.
  mutating func take(_ bytes: ByteBuffer) throws(Problem) -> [ByteBuffer] {
    rest.writeImmutableBuffer(bytes)
    var lines: [ByteBuffer] = []
    while let end = rest.readableBytesView.firstIndex(of: UInt8(ascii: "\n")) {
      let length = end - rest.readerIndex
      if let line = rest.readSlice(length: length), line.readableBytesView.contains(where: { $0 > 32 }) {
        lines.append(line)
      }
      rest.moveReaderIndex(forwardBy: 1)
    }
    if rest.readableBytes > limit {
      throw Problem(.payloadTooLarge, "line-too-large", "A line may have \(limit) bytes.")
    }
    rest.discardReadBytes()
    return lines
  }
}

extension JSONValue {
  /// A number from 1 to 2⁵³−1, however it was written: `1`, `1.0`, `1e0`.
  fileprivate var wholeNumber: UInt64? {
    guard case .number(let text) = self else { return nil }
    if let number = Shape.number(text.utf8) { return number }
    guard let number = Double(text), number >= 1, number < 0x1p53 else { return nil }
    return UInt64(exactly: number)
  }
}
