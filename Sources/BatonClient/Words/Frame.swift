import BatonProtocol
import Foundation

typealias Frame = SessionAttachment.Frame

extension SessionAttachment {
  /// One frame from a gateway (section 4 of the protocol).
  public struct Frame: Sendable {
    public let kind: Kind
    /// The frame as it was received; empty where it was made by hand.
    public let json: String

    /// A frame for tests and previews.
    public init(_ kind: Kind) {
      self.kind = kind
      json = ""
    }

    /// What a frame says.

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
      /// An input or a cancel was appended; its caller is told.
      case accepted(key: String, inboxID: String?)
      /// A new token was accepted.
      case authenticated
      /// Something that was asked for was refused (the codes of section 5), or `unreachable`, by this library: no gateway said a
      /// word in five attempts.
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
      /// Which part of the response it belongs to, `kind:name`; nil for the answer's text.
      public let part: String?
      /// The number of the (last) delta within its response, from 1, over all parts.
      public let n: UInt64?
      /// How many deltas it stands for; 1 or more.
      public let joined: UInt64
      /// The data goes on in the next entry of the same response and event.
      public let more: Bool
      /// The payload; nil where the entry has none. A character may be split over two deltas.
      public let data: Data?
      /// All other fields, by name; a name that is used several times has several values.
      public let fields: [String: [Data]]

      /// The payload as text; what is not UTF-8 is shown as U+FFFD.
      public var text: String? { data.map { String(decoding: $0, as: UTF8.self) } }
      /// Whether it ends its response: `end`, `error` or `cancelled`.
      public var isEnding: Bool { event == "end" || event == "error" || event == "cancelled" }

      /// Whether people are shown it: a delta of the answer's text, or of a part whose kind is `text`.
      public var isShownText: Bool { event == "token" && part?.hasPrefix("text:") != false }

      public init(
        id: Offset, event: String = "token", response: String? = nil, part: String? = nil, n: UInt64? = nil,
        joined: UInt64 = 1, more: Bool = false, data: Data? = nil, fields: [String: [Data]] = [:]
      ) {
        (self.id, self.event, self.response, self.part, self.n) = (id, event, response, part, n)
        (self.joined, self.more, self.data, self.fields) = (Swift.max(1, joined), more, data, fields)
      }

      /// A text delta.
      public init(id: Offset, response: String? = nil, n: UInt64? = nil, text: String) {
        self.init(id: id, response: response, n: n, data: Data(text.utf8))
      }
    }

    /// The first frame of a connection.
    public struct Attached: Sendable, Equatable {
      public let session: String?
      public let device: String?
      /// The gateway's name.
      public let node: String?
      /// The device's place. Without a check where the stream retains no entry at or before it.
      public let offset: Offset?
      /// The device goes on at the place that it had, and nothing is missing from there on. False for a device that had
      /// none, and where a `reset` follows.
      public let recovered: Bool
      /// The ids of the first and the last entry that the stream retains; nil where it holds none.
      public let first: Offset?
      public let last: Offset?
      /// After this silence the client asks whether the gateway is there, in milliseconds.
      public let pingMs: Double?
      /// What this device's token allows: `input`, `cancel`.
      public let features: [String]

      public init(
        session: String? = nil, device: String? = nil, node: String? = nil, offset: Offset? = nil,
        recovered: Bool = false,
        first: Offset? = nil, last: Offset? = nil, pingMs: Double? = nil, features: [String] = []
      ) {
        (self.session, self.device, self.node, self.offset) = (session, device, node, offset)
        (self.recovered, self.first, self.last, self.pingMs) = (recovered, first, last, pingMs)
        self.features = features
      }
    }

    /// Continuity is broken.
    public struct Reset: Sendable, Equatable {
      /// Why (the table of section 4).
      public struct Reason: RawRepresentable, Hashable, Sendable {
        public let rawValue: String

        public init(rawValue: String) { self.rawValue = rawValue }

        /// Entries after the device's place are no longer retained.
        public static let trimmed = Reason(rawValue: "trimmed")
        /// The stream ends before the device's place: a tail was lost.
        public static let ahead = Reason(rawValue: "ahead")
        /// The stream holds another history than the device has seen.
        public static let diverged = Reason(rawValue: "diverged")
        /// The session was deleted.
        public static let deleted = Reason(rawValue: "deleted")
      }

      public let reason: Reason
      /// Every entry after this place is to be dropped; `.zero` means everything.
      public let from: Offset
      /// Where the gateway goes on.
      public let offset: Offset?

      public init(reason: Reason, from: Offset = .zero, offset: Offset? = .zero) {
        (self.reason, self.from, self.offset) = (reason, from, offset)
      }
    }

    /// An entry that was left out.
    public struct Skipped: Sendable, Equatable {
      public let offset: Offset?
      /// `too_big`.
      public let reason: String?
      /// The size of the entry, in bytes.
      public let bytes: UInt64?
      /// The response that it belongs to, where it is known.
      public let response: String?

      public init(offset: Offset?, reason: String? = "too_big", bytes: UInt64? = nil, response: String? = nil) {
        (self.offset, self.reason, self.bytes, self.response) = (offset, reason, bytes, response)
      }
    }
  }
}

extension Frame {
  package struct NotJSON: Error {}

  /// Reads a frame. Members of a wrong type count as absent.
  ///
  /// - Throws: `NotJSON`.
  package init(json: String) throws(NotJSON) {
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
    part = members.string("part")
    more = members.bool("more") ?? false
    n = members.integer("n").flatMap { $0 > 0 ? $0 : nil }
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
    recovered = members.bool("recovered") ?? false
    first = members.offset("first")
    last = members.offset("last")
    pingMs = members.number("pingMs")
    features = members.strings("features")
  }
}

extension Frame.Reset {
  fileprivate init(_ members: Members) {
    reason = Reason(rawValue: members.string("reason") ?? "")
    from = members.offset("from") ?? .zero
    offset = members.offset("offset")
  }
}

extension Frame.Skipped {
  fileprivate init(_ members: Members) {
    offset = members.offset("offset")
    reason = members.string("reason")
    bytes = members.integer("bytes")
    response = members.string("response")
  }
}
