import BatonProtocol
import Foundation

/// One frame from a gateway (PROTOCOL 4).
public struct Frame: Sendable {
  public let kind: Kind
  /// The frame as it was received.
  public let json: String

  public enum Kind: Sendable, Equatable {
    case entry(Entry)
    case attached(Attached)
    /// The device has everything that the stream holds.
    case live(Offset?)
    /// The device fell out of the gateway's window and is being caught up.
    case behind
    /// Continuity is broken: drop what came after `from`.
    case reset(Reset)
    /// An entry that is too large was left out.
    case skipped(Skipped)
    /// The store is out of reach; `live` follows when all is well again.
    case stalled(reason: String?)
    /// The gateway goes away; the client comes back after this many milliseconds, by itself.
    case draining(retryAfterMs: Double)
    /// The credentials expire in this many milliseconds.
    case expiring(inMs: Double)
    case accepted(key: String, inboxID: String?)
    case authenticated
    case error(code: String, message: String?, key: String?)
    case pong
    /// A frame of a kind that this version doesn't know, or without what its kind needs: to be ignored.
    case unknown
  }

  /// An entry of the stream, or several adjacent deltas joined into one.
  public struct Entry: Sendable, Equatable {
    /// Its place in the stream; of joined deltas the last one's.
    public let id: Offset
    /// `token` for a text delta; `start`, `end`, `error`, `cancelled`, `input`, or an app's own.
    public let event: String
    public let response: String?
    /// The number of the (last) delta within its response, from 1.
    public let n: UInt64?
    /// How many deltas it stands for; 1 or more.
    public let joined: UInt64
    /// The payload; nil where the entry has none. A character may be split over two deltas.
    public let data: Data?
    /// All other fields, by name; a name that is used several times has several values.
    public let fields: [String: [Data]]

    public var text: String? { data.map { String(decoding: $0, as: UTF8.self) } }
    /// Whether it ends its response: `end`, `error` or `cancelled`.
    public var isEnding: Bool { event == "end" || event == "error" || event == "cancelled" }
  }

  public struct Attached: Sendable, Equatable {
    public let session: String?
    public let device: String?
    public let node: String?
    public let offset: Offset?
    /// The ids of the first and the last entry that the stream retains; nil where it holds none.
    public let first: Offset?
    public let last: Offset?
    public let pingMs: Double?
    public let features: [String]
  }

  public struct Reset: Sendable, Equatable {
    /// `trimmed`, `ahead`, `diverged` or `deleted`.
    public let reason: String
    /// Every entry after this place is to be dropped; `.zero` means everything.
    public let from: Offset
    /// Where the gateway goes on.
    public let offset: Offset?
  }

  public struct Skipped: Sendable, Equatable {
    public let offset: Offset?
    public let reason: String?
    /// The size of the entry, in bytes.
    public let bytes: UInt64?
  }
}

extension Frame {
  struct NotJSON: Error {}

  /// Reads a frame. Members of a wrong type count as absent.
  ///
  /// - Throws: `NotJSON`.
  init(json: String) throws(NotJSON) {
    self.json = json
    do {
      let members = try JSONDecoder().decode(OptionalMembers.self, from: Data(json.utf8)).members
      kind = members.map(Kind.init) ?? .unknown
    } catch {
      throw NotJSON()
    }
  }

  /// The place that the frame moves its device to, as the gateway wrote it.
  var place: String? {
    switch kind {
    case .entry(let entry): entry.id.description
    case .attached(let frame): frame.offset?.description
    case .live(let offset): offset?.description
    case .reset(let frame): frame.offset?.description
    case .skipped(let frame): frame.offset?.description
    default: nil
    }
  }
}

extension Frame.Kind {
  fileprivate init(_ members: Members) {
    guard members.has("type") else {
      self = Frame.Entry(members).map(Self.entry) ?? .unknown
      return
    }
    switch members.string("type") {
    case "attached": self = .attached(Frame.Attached(members))
    case "live": self = .live(members.offset("offset"))
    case "behind": self = .behind
    case "reset": self = .reset(Frame.Reset(members))
    case "skipped": self = .skipped(Frame.Skipped(members))
    case "stalled": self = .stalled(reason: members.string("reason"))
    case "draining": self = .draining(retryAfterMs: max(0, members.number("retryAfterMs") ?? 0))
    case "expiring": self = .expiring(inMs: max(0, members.number("inMs") ?? 0))
    case "accepted":
      self = members.string("key").map { .accepted(key: $0, inboxID: members.string("inboxId")) } ?? .unknown
    case "authenticated": self = .authenticated
    case "error":
      self = .error(
        code: members.string("code") ?? "", message: members.string("message"), key: members.string("key"))
    case "pong": self = .pong
    default: self = .unknown
    }
  }
}

extension Frame.Entry {
  fileprivate init?(_ members: Members) {
    guard let id = members.offset("id") else { return nil }
    self.id = id
    event = members.string("event") ?? "token"
    response = members.string("response")
    n = members.integer("n")
    joined = max(1, members.integer("joined") ?? 1)
    data =
      members.string("data").map { Data($0.utf8) }
      ?? members.string("data64").flatMap { Data(base64Encoded: $0) }
    fields = members.fields
  }
}

extension Frame.Attached {
  fileprivate init(_ members: Members) {
    session = members.string("session")
    device = members.string("device")
    node = members.string("node")
    offset = members.offset("offset")
    first = members.offset("first")
    last = members.offset("last")
    pingMs = members.number("pingMs")
    features = members.strings("features")
  }
}

extension Frame.Reset {
  fileprivate init(_ members: Members) {
    reason = members.string("reason") ?? ""
    from = members.offset("from") ?? .zero
    offset = members.offset("offset")
  }
}

extension Frame.Skipped {
  fileprivate init(_ members: Members) {
    offset = members.offset("offset")
    reason = members.string("reason")
    bytes = members.integer("bytes")
  }
}
