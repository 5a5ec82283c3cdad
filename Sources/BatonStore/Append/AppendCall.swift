import BatonProtocol
import NIOCore

/// One item of a response, as the script takes it.
package enum ResponseItem: Sendable, Equatable {
  /// Appended only by the call that creates the response.
  case start([Entry.Field])
  /// Text deltas of one part, or of the answer itself, that become one entry; takes as many numbers.
  case deltas([ByteBuffer], part: String? = nil)
  /// Any other entry, with `event` among its fields; takes one number.
  case event([Entry.Field])
  /// What lies before here, up to this number, is lost.
  case gap(UInt64)
  /// The last item; fields without `event`. The state is not `open`.
  case end(ResponseState, [Entry.Field])

  /// How many numbers it takes.
  package var count: Int {
    switch self {
    case .deltas(let deltas, _): deltas.count
    case .event: 1
    case .start, .gap, .end: 0
    }
  }

  var arguments: [AppendArgument] {
    switch self {
    case .start(let fields): [.string("start")] + Self.arguments(fields)
    case .deltas(let deltas, let part):
      (part.map { [.string("part"), .string($0)] } ?? [.string("deltas")]) + [.number(deltas.count)]
        + deltas.map { .bytes($0) }
    case .event(let fields): [.string("event")] + Self.arguments(fields)
    case .gap(let n): [.string("gap"), .number(n)]
    case .end(let state, let fields): [.string(state.rawValue)] + Self.arguments(fields)
    }
  }

  static func arguments(_ fields: [Entry.Field]) -> [AppendArgument] {
    [.number(fields.count)] + fields.flatMap { [.bytes($0.name), .bytes($0.value)] }
  }
}

/// One call of the script.
package enum AppendCall: Sendable, Equatable {
  /// Creates a response, takes it over, or goes on with it.
  case open(ResponseWrite)
  /// Goes on with a response that this writer opened. Without items it renews the lease.
  case append(ResponseWrite)
  /// Ends a response by `error` `producer_lost` if its epoch and token are still these.
  case expire(response: String, epoch: UInt64, token: String)
  case put(EntryPut)
  /// Removes the session but for a tombstone of 1 h.
  case delete

  package func arguments(_ retention: Retention) -> [AppendArgument] {
    func call(_ operation: String) -> [AppendArgument] {
      let life = "\(retention.isGuests ? "?" : "")\(retention.milliseconds)"
      return [.string(operation), .string(life), .number(retention.entries)]
    }
    switch self {
    case .open(let write): return call("open") + write.arguments
    case .append(let write): return call("append") + write.arguments
    case .expire(let response, let epoch, let token):
      return call("expire") + [.string(response), .number(epoch), .string(token)]
    case .put(let put): return call("put") + put.arguments
    case .delete: return call("delete")
    }
  }
}

package struct ResponseWrite: Sendable, Equatable {
  package var response: String
  /// 0, to open, for the next one.
  package var epoch: UInt64
  /// The session's generation as the first open was told; nil for that one.
  package var generation: UInt64?
  /// `WRITER.COUNT`; a writer without a dot and count holds no lease. No white space.
  package var token: String
  /// The number of the first delta or event among the items.
  package var first: UInt64
  package var items: [ResponseItem]

  package init(
    response: String, epoch: UInt64, generation: UInt64?, token: String, first: UInt64, items: [ResponseItem]
  ) {
    self.response = response
    self.epoch = epoch
    self.generation = generation
    self.token = token
    self.first = first
    self.items = items
  }

  var arguments: [AppendArgument] {
    [
      .string(response), .number(epoch), generation.map { .number($0) } ?? .string(""), .string(token), .number(first),
    ] + items.flatMap(\.arguments)
  }
}

/// A single entry, appended at most once for each idempotency key.
package struct EntryPut: Sendable, Equatable {
  package enum Place: String, Sendable { case stream, inbox, both }

  /// An idempotency key with whom it belongs to; no two of these are written alike.
  package static func scope(_ kind: String, subject: String, key: String) -> String {
    "\(kind) \(subject.utf8.count) \(subject) \(key)"
  }

  package var place: Place
  /// The idempotency key with whom it belongs to; empty for none.
  package var scope: String
  package var device: String
  package var subject: String
  package var key: String
  package var fields: [Entry.Field]

  package init(
    _ place: Place, _ fields: [Entry.Field], scope: String = "", device: String = "", subject: String = "",
    key: String = ""
  ) {
    self.place = place
    self.scope = scope
    self.device = device
    self.subject = subject
    self.key = key
    self.fields = fields
  }

  var arguments: [AppendArgument] {
    [.string(place.rawValue), .string(scope), .string(device), .string(subject), .string(key)]
      + ResponseItem.arguments(fields)
  }
}

extension Entry.Field {
  package init(_ name: String, _ value: String) {
    self.init(name: ByteBuffer(string: name), value: ByteBuffer(string: value))
  }
}
