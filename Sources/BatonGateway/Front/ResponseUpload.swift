import BatonProtocol
import BatonSession
import BatonStore
import Foundation
import NIOCore

/// A response that is posted as it is produced, one object a line (PROTOCOL 8).
package struct ResponseUpload {
  /// One line, in order.
  package struct Line {
    package var response: String
    package var n: UInt64?
    var item: ResponseItem

    /// - Parameter limit: bytes of the entry's names and values together.
    /// - Throws: `Problem` 400 or 413 that names the line.
    package init(_ bytes: ByteBuffer, number: Int, limit: Int) throws(Problem) {
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
      func check(_ numbering: String) throws(Problem) {
        do throws(Problem) {
          try NewEntry.check(
            size: item.size + "response".utf8.count + response.utf8.count + numbering.utf8.count, limit: limit)
        } catch {
          throw Problem(error.status, error.name, "Line \(number): \(error.detail)")
        }
      }
      guard item.count == 1 else {
        try check("")
        guard n == nil else {
          throw .badRequest("bad-n", "Line \(number) is a \(event) and has no n; deltas and events of a response have.")
        }
        return
      }
      guard let value = n?.wholeNumber else {
        throw .badRequest("bad-n", "Line \(number) needs n: its number within the response, from 1 without gaps.")
      }
      self.n = value
      try check("n\(value)")
    }
  }

  /// A response of which lines came, and whose end did not.
  private struct Open {
    var generation: UInt64?
    var last: UInt64
  }

  /// Responses of one upload that are open at the same time.
  static let maxOpen = 1000

  private let epoch: UInt64
  private var open: [String: Open] = [:]
  private var newest: (response: String, n: UInt64)?
  private var count: UInt64
  private var allIDs: [EntryID] = []
  /// Of the newest entries.
  package var ids: [EntryID] { allIDs.suffix(ResponseUpload.maxIDs) }

  /// Ids that an upload is answered with.
  static let maxIDs = 10_000

  /// - Parameters:
  ///   - epoch: which writer this is, of those that follow each other; 1 to 2⁵³−1.
  ///   - count: where the count of its lease begins; another one than that of an upload before it.
  package init(epoch: UInt64, count: UInt64 = .random(in: 1...1 << 50)) {
    self.epoch = epoch
    self.count = count
  }

  /// The step that appends a line.
  ///
  /// - Throws: `Problem` 400.
  mutating func call(_ line: Line) throws(Problem) -> AppendCall {
    guard open.count < ResponseUpload.maxOpen || open[line.response] != nil else {
      throw .badRequest(
        "too-many-responses",
        "An upload may hold \(ResponseUpload.maxOpen) responses at a time; end some, or use several.")
    }
    let known = open[line.response]
    let write = write(line.response, known, first: line.n ?? (known?.last ?? 0) + 1, items: [line.item], lease: true)
    return known == nil ? .open(write) : .append(write)
  }

  /// The writer's name is the same for every caller, so that a repeated POST goes on; rivals are told apart by their
  /// epoch. With a count behind it the response has a lease.
  private mutating func write(
    _ response: String, _ known: Open?, first: UInt64, items: [ResponseItem], lease: Bool
  ) -> ResponseWrite {
    count += 1
    return ResponseWrite(
      response: response, epoch: epoch, generation: known?.generation, token: lease ? "http.\(count)" : "http",
      first: first, items: items)
  }

  /// - Throws: `Problem` 409 with what the stream has.
  mutating func took(_ line: Line, _ reply: WriteReply) throws(Problem) {
    let written = try written(line.response, reply)
    let last = line.n ?? open[line.response]?.last ?? 0
    if case .end = line.item {
      open[line.response] = nil
    } else {
      open[line.response] = Open(generation: written.generation, last: last)
    }
    newest = (line.response, written.n)
    if let id = written.id, allIDs.last != id, line.n.map({ $0 == written.n }) ?? true { allIDs.append(id) }
    if allIDs.count >= 2 * ResponseUpload.maxIDs { allIDs.removeFirst(ResponseUpload.maxIDs) }
  }

  /// The steps that keep the leases while the uploader lives.
  mutating func renewals() -> [(response: String, call: AppendCall)] { calls(lease: true) }

  /// The steps that give the leases up: the body came to its end, and the responses may be gone on with later.
  mutating func releases() -> [(response: String, call: AppendCall)] { calls(lease: false) }

  private mutating func calls(lease: Bool) -> [(response: String, call: AppendCall)] {
    open.sorted { $0.key < $1.key }.map { response, known in
      (response, .append(write(response, known, first: known.last + 1, items: [], lease: lease)))
    }
  }

  func isOpen(_ response: String) -> Bool { open[response] != nil }

  /// - Throws: `Problem` 409: the response is no longer this upload's.
  func renewed(_ response: String, _ reply: WriteReply) throws(Problem) { _ = try written(response, reply) }

  /// The upload ends before its body: says what the stream has.
  func stopped(_ problem: Problem) -> Problem {
    guard let newest else { return problem }
    return problem.with(member: "response", newest.response).with(number: "n", newest.n)
  }

  private func written(_ response: String, _ reply: WriteReply) throws(Problem) -> WriteReply.Written {
    func refusal(_ name: String, _ detail: String) -> Problem {
      Problem(.conflict, name, detail).with(member: "response", response)
    }
    switch reply {
    case .written(let written): return written
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

extension ResponseItem {
  /// Bytes of names and values, without `response` and `n`.
  var size: Int {
    switch self {
    case .deltas(let deltas, _): "data".utf8.count + deltas.reduce(0) { $0 + $1.readableBytes }
    case .start(let fields): "eventstart".utf8.count + Entry.Field.size(fields)
    case .event(let fields): Entry.Field.size(fields)
    case .end(let state, let fields): "event".utf8.count + state.rawValue.utf8.count + Entry.Field.size(fields)
    case .gap: 0
    }
  }
}

/// Splits a body into lines, whatever pieces it comes in.
package struct LineSplitter {
  /// Bytes of one line at the most.
  let limit: Int
  private var rest = ByteBuffer()
  /// Bytes of `rest` that hold no line end.
  private var seen = 0

  package init(limit: Int) {
    self.limit = limit
  }

  /// Bytes of a line that is not whole yet.
  var held: Int { rest.readableBytes }

  /// - Throws: `Problem` 413.
  package mutating func take(_ bytes: ByteBuffer) throws(Problem) -> [ByteBuffer] {
    rest.writeImmutableBuffer(bytes)
    var lines: [ByteBuffer] = []
    while let end = rest.readableBytesView.dropFirst(seen).firstIndex(of: UInt8(ascii: "\n")) {
      let length = end - rest.readerIndex
      seen = 0
      if let line = rest.readSlice(length: length), line.readableBytesView.contains(where: { $0 > 32 }) {
        lines.append(line)
      }
      rest.moveReaderIndex(forwardBy: 1)
    }
    seen = rest.readableBytes
    if seen > limit {
      throw Problem(.payloadTooLarge, "line-too-large", "A line may have \(limit) bytes.")
    }
    rest.discardReadBytes()
    return lines
  }

  /// The body's end came: what is left is a line, too.
  package mutating func finish() -> ByteBuffer? {
    defer { rest.clear() }
    return rest.readableBytesView.contains { $0 > 32 } ? rest : nil
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
