import BatonProtocol
import BatonSession
import BatonStore
import NIOCore

/// What control requests need of the store. Everything may fail with a `Problem`; `storeUnavailable` where Redis is out
/// of reach, `wrongType` where the key holds something else than a stream.
package protocol SessionOperations: Sendable {
  /// The same, for what its tenant has been charged for.
  var charged: any SessionOperations { get }
  /// Before something that is not one of these writes to a session. Fails where its tenant may begin no more.
  func admit(_ session: SessionName) async throws
  /// Nil where the session does not exist. Fails with `gone` where a device would be reset.
  func history(_ request: HistoryRequest) async throws -> HistoryPage?
  /// The newest entries before `id`, newest first, and whether there are more; nil: from the last one on.
  func entries(of session: SessionName, before id: EntryID?, limit: Int) async throws -> (entries: [Entry], more: Bool)
  /// - Parameter scope: the idempotency key with whom it belongs to; empty for none.
  /// - Returns: `again`: it had been appended before.
  func append(_ entry: NewEntry, to session: SessionName, scope: String) async throws -> (id: EntryID, again: Bool)
  /// One step of a response.
  func append(_ call: AppendCall, to session: SessionName) async throws -> WriteReply
  /// Every key of the session; a tombstone stays for 1 h.
  func delete(_ session: SessionName) async throws
  /// One step of a walk through all sessions whose qualified names begin so; nil: from the beginning.
  func sessions(like prefix: String, from place: KeyPlace?) async throws -> SessionStep
  /// Nil where nothing is known of the response.
  func response(_ response: String, in session: SessionName) async throws -> ResponseRecord?
  /// What a person wants, for the process that holds the response: `again` where its key came before.
  func submit(_ put: EntryPut, to session: SessionName) async throws -> (inboxID: EntryID, again: Bool)
  func responses(in session: SessionName) async throws -> ResponseList
  /// The response, and the next messages of the session's inbox after `place`.
  func look(at response: String, in session: SessionName, after place: EntryID) async throws -> InboxLook
  /// The id that a response has at the model server which keeps it; nil where nothing is known of one.
  func upstreamID(of response: String, in session: SessionName) async throws -> String?
  /// The session's questions that are being asked, or wait; nil: there is no room for one more.
  func line(_ step: QuestionLine.Step, in session: SessionName) async throws -> QuestionLine?
  /// Whoever of the session's producers has died is found out, although nobody may be attached.
  func watchLeases(of session: SessionName)
}

/// One page of history (PROTOCOL 7).
package struct HistoryRequest: Sendable, Equatable {
  package enum Place: Sendable, Equatable {
    case after(Offset)
    case before(Offset)
  }

  package var session: SessionName
  package var place: Place
  /// 1 to 1000 entries.
  package var limit: Int
  /// How long a page waits that would be empty.
  package var wait: TimeAmount?

  /// Bytes of names and values that a page holds at the most, its first entry aside.
  package static let maxPageBytes = 4 << 20

  /// - Throws: `Problem` 400.
  package init(session: SessionName, query: Query) throws(Problem) {
    self.session = session
    for name in ["offset", "last", "until", "response", "rollup"] where try query.one(name) != nil {
      throw .badRequest(
        "unsupported-parameter",
        "\(name) is for attaching, over WebSocket or with Accept: text/event-stream; a page of history takes after, before "
          + "and limit.")
    }
    let after = try query.one("after")
    let before = try query.one("before")
    switch (after, before) {
    case (_?, _?): throw .badRequest("conflicting-parameters", "Give one of after and before.")
    case (nil, let before?): place = .before(try Offset(checking: before, name: "before"))
    case (let after?, nil): place = .after(try Offset(checking: after, name: "after"))
    case (nil, nil): place = .after(.zero)
    }
    limit = 100
    if let text = try query.one("limit") {
      guard let number = UInt64(decimalDigits: text.utf8), (1...1000).contains(number) else {
        throw .badRequest("bad-limit", "limit is a number of entries from 1 to 1000.")
      }
      limit = Int(number)
    }
    if let text = try query.one("wait") {
      guard before == nil, let time = HistoryRequest.time(text) else {
        throw .badRequest("bad-wait", "wait is 0s to 60s, or in milliseconds such as 500ms, beside after.")
      }
      wait = time
    }
  }

  private static func time(_ text: String) -> TimeAmount? {
    guard let unit = [("ms", Int64(1)), ("s", 1000)].first(where: { text.hasSuffix($0.0) }),
      let number = UInt64(decimalDigits: text.dropLast(unit.0.count).utf8), number <= 60_000
    else { return nil }
    let milliseconds = Int64(number) * unit.1
    return milliseconds <= 60_000 ? .milliseconds(milliseconds) : nil
  }
}

package struct HistoryPage: Sendable {
  /// In stream order.
  package var entries: [Entry]
  package var first: Offset?
  package var last: Offset?
  package var more: Bool
  /// For the page as JSON: kept until that is written.
  package var charge: MemoryCharge?

  static func bytes(_ entry: Entry) -> Int { entry.isTooBig ? 0 : entry.bytes }

  package init(entries: [Entry], first: Offset?, last: Offset?, more: Bool) {
    self.entries = entries
    self.first = first
    self.last = last
    self.more = more
  }

  /// Bytes that the page takes as JSON, at the most.
  package var room: Int { entries.reduce(512) { $0 + EntryFrames.byteCount($1) + 1 } }

  package func json(session: SessionName) -> ByteBuffer {
    var json = JSONWriter(into: ByteBuffer())
    json.buffer.reserveCapacity(room)
    json.object { json in
      json.member("session", session.description)
      json.name("entries")
      json.array { json in for entry in entries { EntryFrames.write(entry, into: &json) } }
      json.member("first", first?.description)
      json.member("last", last?.description)
      json.name("more")
      json.value(more)
    }
    return json.buffer
  }
}

extension SessionOperations {
  package var charged: any SessionOperations { self }
  package func admit(_ session: SessionName) async throws {}
}
